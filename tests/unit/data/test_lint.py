"""Each finding has its code, names its rows, and stays away when there is nothing to find."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from temper.data.datum import Datum
from temper.data.lint import (
    CODES,
    GROUPS,
    Finding,
    Marks,
    as_error,
    as_text,
    conclude,
    findings_in,
    from_errors,
    inspect,
    know,
    lint,
    mix_findings,
    with_codes,
)
from temper.data.lint.codes import TABLE
from temper.data.lint.page import page
from temper.data.lint.words import hash_of, word_hashes
from temper.data.rows import Message, Row
from temper.errors import DataError


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


def datum(tokens: tuple[int, ...], learnt: int) -> Datum:
    """The last `learnt` targets carry loss."""
    targets = len(tokens) - 1
    return Datum(tokens=tokens, weights={"ce": (0.0,) * (targets - learnt) + (1.0,) * learnt})


MARKS = Marks(specials=("<|end|>", "<s>"), ends=(2,), bos=1)


def rendered(*odd: Datum) -> tuple[Finding, ...]:
    """What is said of 20 clean rows of which the first ones were rendered as given."""
    good = datum((1, 5, 6, 7, 2), 2)
    return lint(clean(), datums=[*odd, *[good] * (20 - len(odd))], marks=MARKS, max_length=8)


def test_rendered_rows_that_are_right_have_no_finding() -> None:
    assert rendered() == ()


def test_a_row_without_a_supervised_token_is_an_error() -> None:
    (found,) = rendered(datum((1, 5, 6, 7, 2), 0))
    assert (found.code, found.level, found.where) == ("R001", "error", "train:1")


def test_an_end_that_is_not_learnt_is_an_error() -> None:
    # The first answer ends without token 2, the second one ends with it but its weight is zero.
    unlearnt = Datum(tokens=(1, 5, 6, 7, 2), weights={"ce": (0.0, 0.0, 1.0, 0.0)})
    (found,) = rendered(datum((1, 5, 6, 7), 2), unlearnt)
    assert (found.code, found.level, found.where) == ("R002", "error", "train:1, train:2")


def test_tokens_after_the_learnt_end_of_the_turn_are_no_fault() -> None:
    assert rendered(Datum(tokens=(1, 5, 6, 2, 9), weights={"ce": (0.0, 0.0, 1.0, 0.0)})) == ()


def test_a_doubled_beginning_is_an_error() -> None:
    (found,) = rendered(datum((1, 1, 5, 6, 2), 2))
    assert (found.code, found.level, found.where) == ("R003", "error", "train:1")


def test_a_prompt_that_leaves_no_room_is_told_apart_from_a_cut_answer() -> None:
    # Of 8 tokens that fit, the prompt of the first has 9, that of the second 4.
    full = datum((1, 3, 3, 3, 3, 3, 3, 3, 3, 7, 2), 2)
    cut = datum((1, 3, 3, 3, 7, 7, 7, 7, 7, 7, 2), 7)
    assert codes(rendered(full)) == ["R006"]
    assert codes(rendered(cut)) == ["T006"]
    assert codes(rendered(full, cut)) == ["R006", "T006"]


def test_a_special_token_is_named_once_when_it_is_part_of_a_template() -> None:
    rows = [*clean(), row(21, "[INST] say <s> [/INST]", "x"), row(22, "say <|end|>", "y")]
    assert [(f.code, f.where) for f in lint(rows, marks=MARKS)] == [("R004", "train:22"), ("R005", "train:21")]


@pytest.mark.parametrize(
    ("technique", "count", "expected"),
    [("sft", 16, []), ("rft", 99, ["T005"]), ("rft", 100, []), ("dpo", 99, ["T005"]), ("cpt", 500, ["T005"])],
)
def test_how_many_rows_are_few_depends_on_the_technique(technique: str, count: int, expected: list[str]) -> None:
    # 500 rows of about 20 characters are fewer than the 20,000 characters that text needs.
    assert codes(lint(clean(count), technique=technique)) == expected


def test_long_answers_to_one_prompt_may_differ() -> None:
    first, second = (" ".join(f"{word} of day {day}." for day in range(20)) for word in ("Rain", "Sun"))
    assert len(second) > 200
    assert lint([*clean(), row(21, "A poem, please", first), row(22, "A poem, please", second)]) == ()


def test_nothing_said_of_no_rows_but_that_they_are_few() -> None:
    assert codes(conclude([], know(exam=exam(("a", "b"))))) == ["T005"]


def test_the_findings_are_those_of_any_process_and_any_chunks() -> None:
    knowledge = know(exam=exam(("question 3", "answer 3")), marks=MARKS, probes={"p": ["one two " * 10]})
    rows = [*clean(), row(21, "question 1", "answer 1"), row(22, "caf\u00c3\u00a9", "x")]
    alone = conclude([inspect(r, None, knowledge) for r in rows], knowledge)
    sent = pickle.loads(pickle.dumps(knowledge))
    chunks = [pickle.dumps([inspect(r, None, sent) for r in rows[at : at + 5]]) for at in range(0, len(rows), 5)]
    assert conclude((fact for chunk in chunks for fact in pickle.loads(chunk)), sent) == alone
    assert codes(alone) == ["Q001", "T001", "T003"]


def test_hashes_are_the_same_in_every_process() -> None:
    code = "from temper.data.lint.words import hash_of, word_hashes; print(hash_of('a b'), word_hashes('a b').tolist())"
    command = [sys.executable, "-c", code]
    seeds = [{**os.environ, "PYTHONHASHSEED": seed} for seed in ("1", "2")]
    answers = {subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout for env in seeds}
    assert answers == {f"{hash_of('a b')} {word_hashes('a b').tolist()}\n"}


def test_a_finding_in_one_line_and_as_json() -> None:
    (found,) = lint(clean(), exam(("question 3", "42")))
    assert as_text(found) == (
        "warning T007 exam:1: 1 of 1 exam prompts stand in the training data with another answer; the model is trained "
        "to give what the exam counts as wrong; correct one of the two answers, or delete the row on one side"
    )
    assert list(asdict(found)) == ["code", "level", "where", "what", "why", "fix"]


def test_a_mixture_that_asks_for_what_is_not_there_or_forgets_what_is() -> None:
    found = mix_findings(
        {"knowledge": 0.5, "code": 0.3, "piqa": 0.2, "web": 0},
        {"knowledge": 1000, "safety": 200, "web": 50, "code_too": 7},
        eval_only={"piqa"},
        where="stages.0.replay.from",
    )
    assert [(f.code, f.level, f.where) for f in found] == [
        ("M001", "error", "stages.0.replay.from.code"),
        ("M002", "warning", "stages.0.replay.from.safety, stages.0.replay.from.code_too"),
        ("M003", "error", "stages.0.replay.from.piqa"),
    ]
    assert mix_findings({"knowledge": 1.0, "safety": 0.0}, {"knowledge": 5, "safety": 9}) == ()


def test_codes_in_a_message_are_read_again_as_findings() -> None:
    with pytest.raises(DataError) as refused, with_codes():
        raise DataError(
            "a.jsonl:3: an empty answer in turn 2; expected text; write it\n"
            "b.csv: empty, no rows; expected at least one; write rows\n... and 7 more rows of this file"
        )
    assert str(refused.value).splitlines() == [
        "a.jsonl:3: [F003] an empty answer in turn 2; expected text; write it",
        "b.csv: [F005] empty, no rows; expected at least one; write rows",
        "... and 7 more rows of this file",
    ]
    (empty, unusable) = findings_in(refused.value)
    assert (empty.code, empty.where, empty.fix) == ("F003", "a.jsonl:3", "write it")
    assert (unusable.code, unusable.where) == ("F005", "b.csv")
    with pytest.raises(DataError) as again, with_codes():
        raise refused.value
    assert str(again.value) == str(refused.value)
    (leak,) = lint(clean(), exam(("question 3", "answer 3")))
    assert findings_in(as_error([leak])) == (leak,)
    assert findings_in(DataError("mixture: step -1; expected a step >= 0")) == ()


def test_refusals_of_the_reader_and_of_the_renderer_are_findings_by_code() -> None:
    errors = [
        DataError("a.jsonl:3: an empty answer in turn 2; expected text; write it\na.jsonl:9: not JSON: x; y; z"),
        DataError("a.jsonl:4: an empty prompt in 'prompt'; expected text; write it\n... and 7 more rows of this file"),
        DataError("b.jsonl:5: 12 tokens up to the last one to learn; expected at most 8 (max_length); shorten it"),
    ]
    found = from_errors(errors)
    assert [(f.code, f.where) for f in found] == [
        ("F001", "a.jsonl:9"),
        ("F003", "a.jsonl:3, a.jsonl:4"),
        ("T006", "b.jsonl:5"),
    ]
    assert found[1].what == (
        "2 rows; the first: an empty answer in turn 2; expected text (and 7 more rows of the file are refused)"
    )
    assert found[1].fix == "write it"


def test_the_page_is_made_of_the_table() -> None:
    """When this fails: python -m temper.data.lint > docs/lint.md."""
    made = (Path(__file__).parents[3] / "docs" / "lint.md").read_text(encoding="utf-8")
    assert made == page()
    assert [c.code for c in TABLE] == [c for letter in GROUPS for c in sorted(CODES) if c.startswith(letter)]
