"""Readers of exams: questions with a known answer, from the files of evaluation packages to probe items.

Pure functions from bytes to JSON-like dicts, registered in `readers`. Imports nothing of temper; pyarrow where needed.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Items = list[dict[str, Any]]
"""Untyped on purpose: the shapes are declared once, in `catalog`."""

MOST_WORDS = 120
"""Longest multiple-choice item, all options together; longer ones cost more time than they add certainty."""
ANSWER_WORDS = 150
"""Longest worked answer, its question included."""


def choice(files: Sequence[bytes], *, half: str, limit: int) -> Items:
    """Multiple choice of the OLMo evaluation, without examples; only items with the task's usual number of options."""
    return _usual(
        _choice(str(request["native_id"]), request["doc"]["query"], request["doc"]["choices"], request["doc"]["gold"])
        for request in _requests(files[0])
    )


def bare_choice(files: Sequence[bytes], *, half: str, limit: int) -> Items:
    """Multiple choice whose questions come without the frame that the other tasks of the package have."""
    items = choice(files, half=half, limit=limit)
    return [{**item, "context": f"Question: {item['context'].strip()}\nAnswer:"} for item in items]


def blank(files: Sequence[bytes], *, half: str, limit: int) -> Items:
    """WinoGrande's sentences with a gap: the options are the two ways to fill it, to the sentence's end."""
    items: Items = []
    for request in _requests(files[0]):
        doc = request["doc"]
        before, after = doc["sentence"].split("_", 1)
        options = [doc["option1"] + after, doc["option2"] + after]
        items.append(_choice(_id(doc["sentence"], doc["option1"]), before, options, int(doc["answer"]) - 1))
    return _usual(items)


def copa(files: Sequence[bytes], *, half: str, limit: int) -> Items:
    """COPA's premises with two causes or effects, joined by a conjunction."""
    joined = {"cause": " because", "effect": " so"}
    items: Items = []
    for row in _arrow(files[0]):
        premise = row["premise"].rstrip().removesuffix(".") + joined[row["question"]]
        options = [_continued(row[name]) for name in ("choice1", "choice2")]
        items.append(_choice(_id(premise, *options), premise, options, row["label"]))
    return _usual(items)


def mmlu(files: Sequence[bytes], *, half: str, limit: int) -> Items:
    """MMLU with the options written out instead of letters, which small models cannot tell apart."""
    rows = (row for file in files for row in _arrow(file))
    return _usual(
        _choice(_id(row["question"], *row["choices"]), f"Question: {row['question'].strip()}\nAnswer:",
                row["choices"], row["answer"])
        for row in rows
    )  # fmt: skip


def last_word(files: Sequence[bytes], *, half: str, limit: int) -> Items:
    """Passages and the word they end with."""
    return [
        {"id": str(r["native_id"]), "context": r["request"]["context"], "text": r["request"]["continuation"]}
        for r in _requests(files[0])
    ]


def paragraphs(files: Sequence[bytes], *, half: str, limit: int) -> Items:
    """The paragraphs under reading questions, each once."""
    items: Items = []
    for request in _requests(files[0]):
        found = re.search(r"Background: (.*?)\nQuestion: ", request["doc"]["query"], re.S)
        if found and 60 <= len(found[1].split()) <= 120:
            items.append({"id": _id(found[1]), "context": "", "text": found[1].strip()})
    return items


def worked_answer(files: Sequence[bytes], *, half: str, limit: int) -> Items:
    """Questions with a worked answer, without examples: to predict it (`context`, `text`) or to ask for its result.

    `reference` is the result alone.
    """
    items: Items = []
    for request in _requests(files[0]):
        doc = request["doc"]
        asked = _squeezed(doc["question"] if "question" in doc else doc["problem"])
        answer = " " + doc["choices"][0].strip()
        if len(asked.split()) + len(answer.split()) <= ANSWER_WORDS:
            reference = doc["short_answer"] if "short_answer" in doc else doc["answer"]
            item = {"id": _id(asked), "context": f"Question: {asked}\nAnswer:", "text": answer}
            items.append({**item, "prompt": asked, "reference": reference})
    return items


def humaneval(files: Sequence[bytes], *, half: str, limit: int) -> Items:
    """HumanEval: to predict the reference solution, or to write one and run the tests on it."""
    items: Items = []
    for request in _requests(files[0]):
        doc = request["doc"]
        asked = f"Complete this Python function:\n```python\n{doc['prompt'].rstrip()}\n```"
        tests = f"{doc['test'].strip()}\n\ncheck({doc['entry_point']})"
        items.append(
            {
                "id": doc["task_id"],
                "context": doc["prompt"],
                "text": doc["canonical_solution"].rstrip(),
                "prompt": asked,
                "prefix": doc["prompt"],
                "tests": tests,
                "entry_point": doc["entry_point"],
            }
        )
    return items


def mbpp(files: Sequence[bytes], *, half: str, limit: int) -> Items:
    """MBPP: to predict the reference solution, or to write one and run the tests; one test is told, to fix the name."""
    items: Items = []
    for request in _requests(files[0]):
        doc = request["doc"]
        tests = [*filter(None, [doc["test_setup_code"].strip()]), *doc["test_list"]]
        items.append(
            {
                "id": str(doc["task_id"]),
                "context": request["request"]["context"],
                "text": doc["code"].replace("\r\n", "\n").strip(),
                "prompt": f"{doc['text'].strip()}\nYour code should pass this test:\n{doc['test_list'][0].strip()}",
                "tests": tests,
            }
        )
    return items


def ifeval(files: Sequence[bytes], *, half: str, limit: int) -> Items:
    """IFEval: prompts and the instructions in them that a program can check, as its own file names them."""
    items: Items = []
    for line in files[0].decode().split("\n"):
        if line.strip():
            row = json.loads(line)
            kwargs = [{name: value for name, value in given.items() if value is not None} for given in row["kwargs"]]
            item = {"id": str(row["key"]), "prompt": row["prompt"], "kwargs": kwargs}
            items.append({**item, "instruction_id_list": row["instruction_id_list"]})
    return items


def _choice(identity: str, context: str, options: Sequence[str], gold: int) -> dict[str, Any]:
    return {
        "id": identity,
        "context": context.rstrip(),
        "options": [" " + option.strip() for option in options],
        "gold": gold,
    }


def _usual(found: Iterable[dict[str, Any]]) -> Items:
    """The items that are short, whole and have as many options as most of them."""
    items = [item for item in found if _short(item) and min(map(len, item["options"])) > 1]
    if not items:
        return []
    counts = Counter(len(item["options"]) for item in items)
    usual = max(counts, key=lambda count: (counts[count], count))
    return [item for item in items if len(item["options"]) == usual and 0 <= item["gold"] < usual]


def _short(item: dict[str, Any]) -> bool:
    return sum(len(text.split()) for text in [item["context"], *item["options"]]) <= MOST_WORDS


def _requests(file: bytes) -> Iterator[dict[str, Any]]:
    """The first request of every question; the others repeat it for each option, or ask without the question."""
    for line in gzip.decompress(file).splitlines():
        if b'"idx": 0,' in line:
            request = json.loads(line)
            if request["doc_id"] < 1_000_000:
                yield request


def _arrow(file: bytes) -> list[dict[str, Any]]:
    """Rows of a file in Arrow's streaming format."""
    import pyarrow as pa

    with pa.ipc.open_stream(file) as stream:
        return stream.read_all().to_pylist()


def _continued(sentence: str) -> str:
    """A sentence as the second half of another; I stays I."""
    return sentence if re.match(r"I\b", sentence) else sentence[:1].lower() + sentence[1:]


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def _id(*parts: str) -> str:
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()[:16]
