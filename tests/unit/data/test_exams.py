"""Readers of exams, on files made by hand."""

from __future__ import annotations

import gzip
import io
import json
from typing import Any

import pyarrow as pa

from temper.data import readers


def requests(*docs: dict[str, Any]) -> list[bytes]:
    lines = [
        json.dumps({"doc": doc, "request": {"context": "c"}, "idx": 0, "doc_id": n, "native_id": n})
        for n, doc in enumerate(docs)
    ]
    return [gzip.compress("\n".join(lines).encode())]


def arrow(rows: list[dict[str, Any]]) -> bytes:
    table = pa.Table.from_pylist(rows)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def test_choice_takes_the_number_of_options_that_most_items_have() -> None:
    five = {"query": "q", "choices": list("abcde"), "gold": 4}
    found = readers.choice(requests(five, {**five, "choices": list("abcd"), "gold": 0}, five), half="", limit=9)
    assert [(len(item["options"]), item["gold"]) for item in found] == [(5, 4), (5, 4)]


def test_bare_questions_get_the_usual_frame() -> None:
    doc = {"query": "Who did it?", "choices": ["me", "you"], "gold": 1}
    (item,) = readers.bare_choice(requests(doc), half="", limit=9)
    assert item["context"] == "Question: Who did it?\nAnswer:"


def test_a_gap_is_filled_in_two_ways_to_the_end_of_the_sentence() -> None:
    doc = {"sentence": "Sarah is better than Maria, so _ won.", "option1": "Sarah", "option2": "Maria", "answer": "1"}
    (item,) = readers.blank(requests(doc), half="", limit=9)
    assert item["context"] == "Sarah is better than Maria, so"
    assert (item["options"], item["gold"]) == ([" Sarah won.", " Maria won."], 0)


def test_causes_and_effects_follow_their_conjunction() -> None:
    rows = [
        {"premise": "I fell.", "choice1": "I slipped.", "choice2": "The sun rose.", "question": "cause", "label": 0},
        {"premise": "I fell.", "choice1": "It hurt.", "choice2": "I flew.", "question": "effect", "label": 0},
    ]
    cause, effect = readers.copa([arrow(rows)], half="", limit=9)
    assert (cause["context"], cause["options"]) == ("I fell because", [" I slipped.", " the sun rose."])
    assert (effect["context"], effect["options"]) == ("I fell so", [" it hurt.", " I flew."])


def test_letters_are_replaced_by_the_options_themselves() -> None:
    rows = [{"question": " What is it? ", "choices": ["a cat", "a dog", "a cow", "a fly"], "answer": 2}]
    (item,) = readers.mmlu([arrow(rows)], half="", limit=9)
    assert item["context"] == "Question: What is it?\nAnswer:"
    assert item["options"][item["gold"]] == " a cow"


def test_worked_answers_are_asked_without_examples_and_long_ones_left_out() -> None:
    short = {"question": "1 +  1?", "choices": ["1 + 1 = 2. So the answer is 2."], "short_answer": "2"}
    long = {"question": "word " * 149, "choices": ["two words"], "short_answer": "2"}  # 149 + 2 words, one too many
    problem = {"problem": "2 + 2?", "choices": ["4"], "answer": "4"}
    first, second = readers.worked_answer(requests(short, long, problem), half="", limit=9)
    assert (first["context"], first["text"]) == ("Question: 1 + 1?\nAnswer:", " 1 + 1 = 2. So the answer is 2.")
    assert (first["prompt"], first["reference"]) == ("1 + 1?", "2")
    assert (second["prompt"], second["reference"]) == ("2 + 2?", "4")


def test_programs_come_with_their_tests() -> None:
    human = {
        "task_id": "H/0", "prompt": "def f():\n", "canonical_solution": "    return 1\n\n", "entry_point": "f",
        "test": "\ndef check(candidate):\n    assert candidate() == 1\n",
    }  # fmt: skip
    (item,) = readers.humaneval(requests(human), half="", limit=9)
    assert item["context"] + item["text"] == "def f():\n    return 1"
    space: dict[str, Any] = {}
    exec(item["prefix"] + item["text"] + "\n" + item["tests"], space)
    basic = {
        "task_id": 11, "text": "Add.", "code": "def g(a):\r\n    return a + 1", "test_list": ["assert g(1) == 2"],
        "test_setup_code": "",
    }  # fmt: skip
    (item,) = readers.mbpp(requests(basic), half="", limit=9)
    assert item["prompt"] == "Add.\nYour code should pass this test:\nassert g(1) == 2"
    assert (item["text"], item["tests"]) == ("def g(a):\n    return a + 1", ["assert g(1) == 2"])


def test_instructions_keep_their_parameters_without_the_empty_ones() -> None:
    row = {"key": 5, "prompt": "Write.", "instruction_id_list": ["a:b"], "kwargs": [{"n": 3, "m": None}]}
    (item,) = readers.ifeval([json.dumps(row).encode()], half="", limit=9)
    assert item == {"id": "5", "prompt": "Write.", "kwargs": [{"n": 3}], "instruction_id_list": ["a:b"]}


def test_long_texts_are_cut_between_paragraphs_and_short_ones_left_out() -> None:
    # 700 + 1 + 700 characters fit into 1600, the third paragraph does not; 199 characters are too few
    text = "\n".join(["a" * 700, "b" * 700, "c" * 700, "d" * 1601, "e" * 199])
    assert readers.cut(text) == ["a" * 700 + "\n" + "b" * 700, "c" * 700]
    assert readers.cut("e" * 200) == ["e" * 200]
