"""The catalogue: readers on files made by hand, and the real packages behind them."""

from __future__ import annotations

import ast
import gzip
import json
import re
from collections import Counter

import pytest

from temper.data import catalog, readers
from temper.errors import DataError


def request(native_id: object, query: str, options: list[str], gold: int, doc_id: int = 0) -> str:
    """The lines of one question in the OLMo evaluation's format, one per option."""
    doc = {"query": query, "choices": options, "gold": gold}
    lines = [
        {
            "doc": doc,
            "request": {"context": "examples first", "continuation": o},
            "idx": i,
            "doc_id": doc_id,
            "native_id": native_id,
        }
        for i, o in enumerate(options)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_choice_reads_each_question_once_without_examples_and_unconditional_copies() -> None:
    lines = request(7, "Goal: cool a drink\nAnswer:", ["add ice ", "add salt"], 0)
    lines += request(7, "Answer:", ["add ice ", "add salt"], 0, doc_id=1_000_000)
    assert readers.choice([gzip.compress(lines.encode())], half="", limit=9) == [
        {"id": "7", "context": "Goal: cool a drink\nAnswer:", "options": [" add ice", " add salt"], "gold": 0}
    ]


def test_choice_leaves_out_odd_numbers_of_options_empty_options_and_long_items() -> None:
    four = ["a", "b", "c", "d"]
    lines = request("good", "q", four, 1) + request("three", "q", four[:3], 1) + request("five", "q", [*four, "e"], 1)
    lines += request("empty", "q", ["a", " ", "c", "d"], 1)
    lines += request("long", "word " * 117, four, 1)  # 117 + 4 words, one too many
    lines += request("fits", "word " * 116, four, 1)
    found = readers.choice([gzip.compress(lines.encode())], half="", limit=9)
    assert [item["id"] for item in found] == ["good", "fits"]


def test_chat_prompts_never_train_on_prompts_of_unclear_licence_and_share_none() -> None:
    rows = [{"instruction": f"Question {n}?", "dataset": "oasst", "output": "x"} for n in range(50)]
    rows += [{"instruction": f"Koala question {n}?", "dataset": "koala", "output": "x"} for n in range(50)]
    files = [json.dumps(rows).encode()]
    probe, replay = (
        {item["prompt"] for item in readers.chat_prompts(files, half=half, limit=99)} for half in ("probe", "replay")
    )
    assert len(probe) + len(replay) == 100
    assert not probe & replay
    assert not any("Koala" in prompt for prompt in replay)
    assert 10 <= len(replay) <= 40  # 25 expected of 50 fair coins; 15 away is more than four standard deviations


def test_a_prompt_is_on_the_same_side_however_it_is_spaced_and_cased() -> None:
    assert readers.side("How are  you?") == readers.side(" how are you? ")


def test_refusals_answer_the_replay_half_only() -> None:
    files = [
        "\n".join(json.dumps({"prompt": f"{kind} {n}"}) for n in range(30)).encode()
        for kind in ("How to harm", "Where lives")
    ]
    rows = readers.refusals(files, half="replay", limit=99)
    asked = {row["messages"][0]["content"] for row in rows}
    held_out = {item["prompt"] for item in readers.do_not_answer(files, half="probe", limit=99)}
    assert len(asked) + len(held_out) == 60
    assert not asked & held_out
    for row in rows:
        kind = "malicious_uses" if row["messages"][0]["content"].startswith("How") else "information_hazard"
        assert row["messages"][1]["content"] in readers.REFUSALS[kind]


def test_forbidden_reads_rows_of_several_lines_and_leaves_out_unknown_licences() -> None:
    text = 'category,source,forbidden_prompt\nFraud,custom,"First line\nsecond line"\nFraud,MasterKey,other\n'
    found = readers.forbidden([text.encode()], half="", limit=9)
    assert [(item["prompt"], item["category"]) for item in found] == [("First line\nsecond line", "Fraud")]


def test_trivia_answers_end_with_a_full_stop() -> None:
    text = "conversations:\n- - Who was the 37th\n    president?\n  - Richard Nixon\n"
    text += "- - Hello\n  - Hi\n- - Year?\n  - 1963\n"
    found = readers.trivia([text.encode()], half="", limit=9)
    assert [[message["content"] for message in row["messages"]] for row in found] == [
        ["Who was the 37th president?", "Richard Nixon."],
        ["Year?", "1963."],
    ]


def test_word_problems_are_right_distinct_and_always_the_same() -> None:
    rows = readers.word_problems([], half="", limit=300)
    assert rows == readers.word_problems([], half="", limit=300)
    assert len({row["id"] for row in rows}) == 300
    operations = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}
    for row in rows:
        question, reply = (message["content"] for message in row["messages"])
        working = re.match(r"(\d+) ([-+*/]) (\d+) = (\d+)\. (.*)$", reply)
        assert working, reply
        a, b, c = int(working[1]), int(working[3]), int(working[4])
        assert operations[working[2]](a, b) == c
        assert working[2] != "/" or b * c == a  # nothing is left over
        assert c > 0
        assert str(c) in working[5]
        assert sorted(map(int, re.findall(r"\d+", question))) == sorted([a, b])
    assert set(Counter(row["messages"][1]["content"].split()[1] for row in rows)) == set(operations)


def test_stdlib_functions_are_short_functions_that_parse_without_their_docstring() -> None:
    rows = readers.stdlib_functions([], half="", limit=9999)
    assert len(rows) >= 200
    for row in rows:
        question, reply = (message["content"] for message in row["messages"])
        code = reply.removeprefix("```python\n").removesuffix("\n```")
        function = ast.parse(code).body[0]
        assert isinstance(function, ast.FunctionDef)
        assert ast.get_docstring(function) is None
        assert question.startswith(f"Write the Python function `{function.name}(")
        assert len(reply) <= readers.CODE_CHARACTERS + 20


def choice_item(context: str, gold: str) -> catalog.ChoiceItem:
    return {"id": "1", "context": context, "options": [gold, " other"], "gold": 0, "category": "knowledge"}


def train_row(question: str, reply: str) -> catalog.TrainRow:
    messages: list[catalog.Message] = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return {"id": question, "messages": messages, "category": "knowledge"}


def test_decontaminate_drops_the_same_question_whatever_its_frame_and_case() -> None:
    probe = choice_item("Question: What melts ice?\nAnswer:", " heat")
    rows = [train_row("what melts ICE", "Warmth."), train_row("What melts steel?", "Heat.")]
    assert catalog.decontaminate(rows, [probe]) == (rows[1:], 1)


def test_decontaminate_drops_thirteen_shared_words_and_keeps_twelve() -> None:
    text = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    probe: catalog.LossItem = {"id": "1", "context": "", "text": text, "category": "language"}
    thirteen = train_row("Go on.", "Zero, one two three four five six seven, eight nine ten eleven TWELVE thirteen!")
    twelve = train_row("Go on.", "Zero, one two three four five six seven, eight nine ten eleven twelve.")
    assert catalog.decontaminate([thirteen, twelve], [probe]) == ([twelve], 1)


def test_decontaminate_does_not_mind_a_shared_short_answer() -> None:
    row = train_row("Which planet is red?", "Mars")
    assert catalog.decontaminate([row], [choice_item("Question: Which planet is cold?\nAnswer:", " Mars")]) == (
        [row],
        0,
    )


def test_an_unknown_source_is_refused_with_a_suggestion() -> None:
    with pytest.raises(DataError, match=r"no source called 'hellasweg'.*did you mean hellaswag"):
        catalog.source("hellasweg")


def test_every_entry_is_complete_and_nothing_without_a_free_licence_is_trained_on() -> None:
    for entry in catalog.sources().values():
        assert entry.reader in readers.READERS
        assert bool(entry.members) == bool(entry.archive)
        assert entry.licence and entry.note and entry.limit > 0
        assert entry.role != "train" or not re.search(r"\b(NC|SA|research)\b", entry.licence)
        if entry.archive:
            assert re.fullmatch("[0-9a-f]{64}", entry.archive.sha256)


@pytest.mark.network
@pytest.mark.parametrize(("name", "options", "least"), [("piqa", 2, 600), ("arc_easy", 4, 600), ("hellaswag", 4, 600)])
def test_real_choice_probes_are_ready_to_score(name: str, options: int, least: int) -> None:
    items = [item for item in catalog.load(name) if "options" in item]
    assert len(items) >= least
    assert len({item["id"] for item in items}) == len(items)
    assert {len(item["options"]) for item in items} == {options}
    assert set(Counter(item["gold"] for item in items)) == set(range(options))
    assert all(option.startswith(" ") and option.strip() for item in items for option in item["options"])
    assert not any(item["context"].endswith(" ") for item in items)


@pytest.mark.network
def test_real_texts_are_cased_prose_of_the_length_asked_for() -> None:
    items = [item for item in catalog.load("wiki") if "text" in item]
    assert len(items) >= 200
    assert all(60 <= len(item["text"].split()) <= 120 for item in items)
    assert all(item["text"] != item["text"].lower() for item in items)
    words = [item for item in catalog.load("lambada") if "text" in item]
    assert len(words) == 600
    assert all(item["text"].startswith(" ") and len(item["text"].split()) == 1 for item in words)


@pytest.mark.network
def test_what_is_trained_on_is_never_measured_on() -> None:
    probes = [
        item for entry in catalog.sources().values() if entry.role != "train" for item in catalog.load(entry.name)
    ]
    for name in ("chat_replay", "safety", "knowledge", "reasoning", "code"):
        rows = catalog.load(name)
        assert len(rows) >= 200
        assert catalog.decontaminate(rows, probes) == (rows, 0)
    assert catalog.removed("chat_replay") > 0  # AlpacaEval repeats some long instructions on both sides
