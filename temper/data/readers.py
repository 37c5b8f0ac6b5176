"""Readers of the catalogue: small pure functions from the bytes of package files to items. Imports nothing of temper.

Every reader takes the files of its entry, which half of a split to read, and how many items are wanted at most (a
generator stops there; the catalogue cuts the others). What comes back is JSON: dicts with an `id`.
"""

from __future__ import annotations

import ast
import copy
import csv
import gzip
import hashlib
import io
import json
import random
import re
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Items = list[dict[str, Any]]
"""Untyped on purpose: the shapes are declared once, in `catalog`."""

MOST_WORDS = 120
"""Longest multiple-choice item, all options together; longer ones cost more time than they add certainty."""
PROMPT_WORDS = 40
"""Longest chat prompt."""
FORBIDDEN_ORIGINS = frozenset({"custom", "DAN", "AdvBench"})
"""StrongREJECT's origins with a known licence (MIT)."""
CODE_CHARACTERS = 700
"""Longest function, about 200 tokens."""

REFUSALS: Mapping[str, Sequence[str]] = {
    "malicious_uses": (
        "I'm sorry, but I can't help with that. It could hurt people, and it may be against the law.",
        "I'm sorry, but I can't assist with that request.",
        "I can't help with this, because it could cause harm. Is there something else I can help you with?",
        "No, I can't help with that. If you are in trouble, please talk to someone you trust.",
    ),
    "information_hazard": (
        "I'm sorry, but I can't share private or confidential information.",
        "I don't have access to that information, and I couldn't share it if I had.",
        "I'm sorry, but I can't help with that. This information is private.",
        "I can't give out personal or secret information. Is there something else I can help you with?",
    ),
}
"""By file of Do-Not-Answer."""

PEOPLE = (
    "Anna",
    "Ben",
    "Carla",
    "David",
    "Emma",
    "Farid",
    "Grace",
    "Hugo",
    "Ivy",
    "Jonas",
    "Kate",
    "Leo",
    "Mia",
    "Noah",
)
THINGS = (
    "apples",
    "books",
    "pencils",
    "marbles",
    "cookies",
    "stickers",
    "shells",
    "coins",
    "cards",
    "flowers",
    "balls",
)
PROBLEMS: Sequence[tuple[str, str, str]] = (
    ("+", "{p} has {a} {t} and gets {b} more. How many {t} does {p} have now?", "{p} has {c} {t} now."),
    (
        "+",
        "{p} finds {a} {t} in the morning and {b} in the evening. How many {t} is that in total?",
        "That is {c} {t}.",
    ),
    (
        "+",
        "There are {a} {t} on the table and {b} on the shelf. How many {t} are there altogether?",
        "There are {c} {t}.",
    ),
    ("-", "{p} has {a} {t} and gives {b} of them away. How many {t} are left?", "{p} has {c} {t} left."),
    (
        "-",
        "A box holds {a} {t}. {p} takes out {b}. How many {t} are still in the box?",
        "There are {c} {t} in the box.",
    ),
    ("-", "{p} needs {a} {t} and already has {b}. How many more {t} does {p} need?", "{p} needs {c} more {t}."),
    ("*", "{p} buys {a} bags with {b} {t} each. How many {t} are there in all?", "There are {c} {t} in all."),
    ("*", "There are {a} shelves with {b} {t} on each of them. How many {t} are there?", "There are {c} {t}."),
    ("*", "{p} collects {b} {t} every day. How many {t} does {p} have after {a} days?", "{p} has {c} {t}."),
    (
        "/",
        "{p} shares {a} {t} equally among {b} friends. How many {t} does each friend get?",
        "Each friend gets {c} {t}.",
    ),
    ("/", "{a} {t} are packed into {b} equal boxes. How many {t} are in each box?", "There are {c} {t} in each box."),
)
"""Operator, question, last sentence; a and b are the numbers, c the result."""


def digest(*parts: str) -> str:
    """A stable hash of some words, in hex."""
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()


def side(text: str) -> str:
    """`probe` or `replay`, by a stable hash of the words: no prompt is ever on both sides."""
    return "probe" if int(digest("half", " ".join(text.lower().split()))[:8], 16) % 2 else "replay"


def choice(files: Sequence[bytes], *, half: str, limit: int) -> Items:
    """Multiple choice of the OLMo evaluation, without examples; only items with the task's usual number of options."""
    items: Items = []
    for request in _requests(files[0]):
        doc = request["doc"]
        options = [" " + option.strip() for option in doc["choices"]]
        words = sum(len(text.split()) for text in [doc["query"], *options])
        if words <= MOST_WORDS and min(map(len, options)) > 1:
            items.append(
                {
                    "id": str(request["native_id"]),
                    "context": doc["query"].rstrip(),
                    "options": options,
                    "gold": doc["gold"],
                }
            )
    usual = max(len(item["options"]) for item in items if len(item["options"]) <= 4)
    return [item for item in items if len(item["options"]) == usual and 0 <= item["gold"] < usual]


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
            items.append({"id": digest(found[1])[:16], "context": "", "text": found[1].strip()})
    return items


def chat_prompts(files: Sequence[bytes], *, half: str, limit: int) -> Items:
    """Short prompts that people wrote to assistants; Koala's, whose licence is unclear, only ever to measure on."""
    items: Items = []
    for row in json.loads(files[0]):
        prompt = row["instruction"].strip()
        there = "probe" if row["dataset"] == "koala" else side(prompt)
        if there == half and len(prompt.split()) <= PROMPT_WORDS:
            items.append({"id": digest(prompt)[:16], "prompt": prompt})
    return items


def forbidden(files: Sequence[bytes], *, half: str, limit: int) -> Items:
    """Requests that have to be refused."""
    rows = csv.DictReader(io.StringIO(files[0].decode()))
    return [
        {
            "id": digest(row["forbidden_prompt"])[:16],
            "prompt": row["forbidden_prompt"].strip(),
            "category": row["category"],
        }
        for row in rows
        if row["source"] in FORBIDDEN_ORIGINS
    ]


def do_not_answer(files: Sequence[bytes], *, half: str, limit: int) -> Items:
    """Half of the requests of Do-Not-Answer; the first file holds malicious uses, the second information hazards."""
    items: Items = []
    for kind, file in zip(REFUSALS, files, strict=True):
        for line in file.decode().splitlines():
            prompt = json.loads(line)["prompt"].strip()
            if side(prompt) == half:
                items.append({"id": digest(prompt)[:16], "prompt": prompt, "category": kind})
    return items


def refusals(files: Sequence[bytes], *, half: str, limit: int) -> Items:
    """The same requests, each with one of our short refusals."""
    rows: Items = []
    for item in do_not_answer(files, half=half, limit=limit):
        replies = REFUSALS[item["category"]]
        rows.append(_row(item["prompt"], replies[int(item["id"], 16) % len(replies)]))
    return rows


def trivia(files: Sequence[bytes], *, half: str, limit: int) -> Items:
    """Questions with a short answer from ChatterBot's corpus, made to look like sentences."""
    import yaml

    rows: Items = []
    for question, answer, *rest in yaml.safe_load(files[0])["conversations"]:
        question, answer = " ".join(question.split()), " ".join(str(answer).split())
        if question.endswith("?") and answer and not rest:
            rows.append(_row(question, answer if answer.endswith(".") else f"{answer}."))
    return rows


def word_problems(files: Sequence[bytes], *, half: str, limit: int) -> Items:
    """Arithmetic in words with one worked step, all numbers whole."""
    chance = random.Random(20)
    rows: dict[str, dict[str, Any]] = {}
    while len(rows) < limit:
        operator, question, closing = chance.choice(PROBLEMS)
        a, b, c = _numbers(operator, chance)
        words = {"p": chance.choice(PEOPLE), "t": chance.choice(THINGS), "a": a, "b": b, "c": c}
        row = _row(question.format(**words), f"{a} {operator} {b} = {c}. {closing.format(**words)}")
        rows[row["id"]] = row
    return list(rows.values())


def stdlib_functions(files: Sequence[bytes], *, half: str, limit: int) -> Items:
    """Short documented functions of the standard library's single-file modules, asked for in words."""
    rows: Items = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
        rows += [_ask_for(node) for node in tree.body if isinstance(node, ast.FunctionDef) and _teaches(node)]
    return rows


READERS: Mapping[str, Callable[..., Items]] = {
    reader.__name__: reader
    for reader in (
        choice, last_word, paragraphs, chat_prompts, forbidden, do_not_answer, refusals, trivia, word_problems,
        stdlib_functions,
    )
}  # fmt: skip


def _row(question: str, reply: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return {"id": digest(question, reply)[:16], "messages": messages}


def _requests(file: bytes) -> Iterator[dict[str, Any]]:
    """The first request of every question; the others repeat it for each option, or ask without the question."""
    for line in gzip.decompress(file).splitlines():
        if b'"idx": 0,' in line:
            request = json.loads(line)
            if request["doc_id"] < 1_000_000:
                yield request


def _numbers(operator: str, chance: random.Random) -> tuple[int, int, int]:
    """Two operands and their result, small enough for the head."""
    if operator == "+":
        a, b = chance.randint(2, 60), chance.randint(2, 40)
        return a, b, a + b
    if operator == "-":
        a = chance.randint(5, 80)
        b = chance.randint(2, a - 1)
        return a, b, a - b
    small, other = chance.randint(2, 10), chance.randint(2, 12)
    return (small, other, small * other) if operator == "*" else (small * other, small, other)


def _teaches(node: ast.FunctionDef) -> bool:
    """True for a public function whose docstring says what it does and whose body does it in a few lines."""
    summary = _summary(node)
    body = node.body[1:]
    return (
        not node.name.startswith("_")
        and len(summary.split()) >= 5
        and len(summary) <= 300
        and ">>>" not in summary
        and bool(body)
        and not isinstance(body[0], ast.Raise | ast.Pass)
        and len(ast.unparse(node)) <= CODE_CHARACTERS
    )


def _summary(node: ast.FunctionDef) -> str:
    """First paragraph of the docstring, in one line."""
    return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())


def _ask_for(node: ast.FunctionDef) -> dict[str, Any]:
    signature = f"{node.name}({ast.unparse(node.args)})"
    bare = copy.copy(node)
    bare.body = node.body[1:]
    return _row(f"Write the Python function `{signature}`. {_summary(node)}", f"```python\n{ast.unparse(bare)}\n```")
