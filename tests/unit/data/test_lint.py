"""Each finding has its code, names its rows, and stays away when there is nothing to find."""

from __future__ import annotations

import pytest

from temper.data.lint import Finding, lint
from temper.data.rows import Message, Row


def row(number: int, prompt: str, answer: str, *, file: str = "train", system: str = "") -> Row:
    messages = (Message(role="user", content=prompt), Message(role="assistant", content=answer))
    if system:
        messages = (Message(role="system", content=system), *messages)
    return Row(id=f"{system}/{prompt}/{answer}", messages=messages, origin=f"{file}:{number}", reference=answer)


def clean(count: int = 20) -> list[Row]:
    return [row(n, f"question {n}", f"answer {n}") for n in range(1, count + 1)]


def exam(*rows: tuple[str, str]) -> list[Row]:
    return [row(n, prompt, answer, file="exam") for n, (prompt, answer) in enumerate(rows, start=1)]


def codes(findings: tuple[Finding, ...]) -> list[str]:
    return [f.code for f in findings]


def test_clean_data_have_no_finding() -> None:
    assert lint(clean(), exam(("another question", "another answer")), lengths=[10] * 20, max_length=10) == ()


def test_copies_are_counted_and_named() -> None:
    rows = [*clean(), *(row(n, "question 1", "answer 1") for n in range(21, 28))]
    (found,) = lint(rows)
    assert (found.code, found.level) == ("T001", "warning")
    assert found.what == "7 of 27 rows stand in the training data already"
    assert found.where == "train:21, train:22, train:23, train:24, train:25 and 2 more"


def test_answers_that_contradict_are_found_whatever_their_case() -> None:
    rows = [*clean(), row(21, "Question  1", "something else"), row(22, "question 2", "ANSWER 2")]
    (found,) = lint(rows)
    assert (found.code, found.level, found.where) == ("T002", "warning", "train:1, train:21")


def test_the_system_message_tells_prompts_apart() -> None:
    rows = [*clean(), row(21, "question 1", "something else", system="Answer in French")]
    assert lint(rows) == ()


def test_an_exam_row_in_the_training_data_is_an_error() -> None:
    (found,) = lint(clean(), exam((" QUESTION 3\n", "Answer 3"), ("new", "new")))
    assert (found.code, found.level, found.where) == ("T003", "error", "exam:1")
    assert found.what.startswith("1 of 2 exam rows")


def test_an_exam_prompt_with_another_answer_is_a_warning() -> None:
    (found,) = lint(clean(), exam(("question 3", "42")))
    assert (found.code, found.level, found.where) == ("T007", "warning", "exam:1")


WORDS = "a b c d e f g h i j k l m n"  # 14 words, so two runs of 13


def test_thirteen_words_in_a_row_are_an_overlap_and_twelve_are_not() -> None:
    rows = [*clean(), row(21, f"before {WORDS[:25]} after", "x")]  # a to m, 13 words
    (found,) = lint(rows, exam((f"Other: {WORDS[:25].upper()}, more", "y")))
    assert (found.code, found.level, found.where) == ("T004", "warning", "exam:1")
    assert lint(rows, exam((f"Other: {WORDS[:23]} more", "y"))) == ()


def test_the_wording_of_the_task_is_no_overlap() -> None:
    # All 20 rows share the run; a leak would be in at most a tenth of them, 2.
    rows = [row(n, f"{WORDS} {n}", f"answer {n}") for n in range(1, 21)]
    assert lint(rows, exam((f"{WORDS} 99", "y"))) == ()


def test_a_system_message_shared_by_all_is_no_overlap() -> None:
    held_out = [row(1, "new", "y", file="exam", system=WORDS)]
    assert lint([*clean(), row(21, "x", "x", system=WORDS)], held_out) == ()


def test_an_exam_row_is_not_named_for_overlap_when_it_is_named_as_a_copy() -> None:
    rows = [*clean(), row(21, WORDS, "x")]
    assert codes(lint(rows, exam((WORDS, "x")))) == ["T003"]


@pytest.mark.parametrize(("count", "expected"), [(0, ["T005"]), (15, ["T005"]), (16, [])])
def test_few_rows_are_a_warning(count: int, expected: list[str]) -> None:
    assert codes(lint(clean(count))) == expected


def test_rows_that_do_not_fit_are_an_error() -> None:
    (found,) = lint(clean(), lengths=[10] * 18 + [12, 11], max_length=10)
    assert (found.code, found.level, found.where) == ("T006", "error", "train:19, train:20")
    assert found.what == "2 of 20 rows have more than 10 tokens, the longest 12"


def test_plain_text_is_compared_as_a_whole() -> None:
    texts = [Row(id=str(n), messages=(), origin=f"train:{n}", text=f"text {n}") for n in range(20)]
    held_out = [Row(id="e", messages=(), origin="exam:1", text="TEXT  7")]
    assert codes(lint(texts, held_out)) == ["T003"]
    assert lint(texts) == ()
