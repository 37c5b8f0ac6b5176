"""Readers of the catalogue: small pure functions from the bytes of package files to items, found by name in `READERS`.

Every reader takes the files of its entry, which half of a split to read, and how many items are wanted at most (a
generator stops there; the catalogue cuts the others). What comes back is JSON: dicts with an `id`. Imports exams and
puzzles.
"""

from __future__ import annotations

import ast
import copy
import csv
import hashlib
import io
import json
import random
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from temper.data import puzzles
from temper.data.exams import (
    bare_choice,
    blank,
    choice,
    copa,
    humaneval,
    ifeval,
    last_word,
    mbpp,
    mmlu,
    paragraphs,
    worked_answer,
)

Items = list[dict[str, Any]]
"""Untyped on purpose: the shapes are declared once, in `catalog`."""

PROMPT_WORDS = 40
"""Longest chat prompt."""
FORBIDDEN_ORIGINS = frozenset({"custom", "DAN", "AdvBench"})
"""StrongREJECT's origins with a known licence (MIT)."""
CODE_CHARACTERS = 700
"""Longest function, about 200 tokens."""
PIECE_CHARACTERS = 1600
"""Longest piece of plain text, about 400 tokens; a longer text is cut between paragraphs."""
LEAST_CHARACTERS = 200
"""Shortest piece worth learning from."""

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
        words = {"p": chance.choice(puzzles.NAMES), "t": chance.choice(THINGS), "a": a, "b": b, "c": c}
        row = _row(question.format(**words), f"{a} {operator} {b} = {c}. {closing.format(**words)}")
        rows[row["id"]] = row
    return list(rows.values())


def logic(files: Sequence[bytes], *, half: str, limit: int) -> Items:
    """Puzzles in a few steps with the way to the answer."""
    return [_row(puzzle.question, puzzle.reply) for puzzle in puzzles.reasoning(limit)]


def text_tasks(files: Sequence[bytes], *, half: str, limit: int) -> Items:
    """Changes to a given text that are right or wrong."""
    return [_row(puzzle.question, puzzle.reply) for puzzle in puzzles.instructions(limit)]


def stdlib_functions(files: Sequence[bytes], *, half: str, limit: int) -> Items:
    """Short documented functions of the standard library's single-file modules, asked for in words."""
    return package_functions([path.read_bytes() for path in _stdlib()], half=half, limit=limit)


def package_functions(files: Sequence[bytes], *, half: str, limit: int) -> Items:
    """Short documented functions of Python files, asked for in words."""
    rows: Items = []
    for file in files:
        tree = ast.parse(file.decode("utf-8", errors="replace"))
        rows += [_ask_for(node) for node in tree.body if isinstance(node, ast.FunctionDef) and _teaches(node)]
    return rows


def stdlib_text(files: Sequence[bytes], *, half: str, limit: int) -> Items:
    """The beginnings of the standard library's single-file modules, as they stand in the file."""
    items: Items = []
    for path in _stdlib():
        pieces = _pieces(path.read_text(encoding="utf-8", errors="replace"), "\n\n\n")
        items += [{"id": digest(piece)[:16], "text": piece} for piece in pieces[:4]]
    return items


def documents(files: Sequence[bytes], *, half: str, limit: int) -> Items:
    """The column `text` of JSON lines, long documents in pieces."""
    texts = [json.loads(line)["text"] for file in files for line in file.decode().split("\n") if line.strip()]
    return [{"id": digest(piece)[:16], "text": piece} for text in texts for piece in cut(text)]


def cut(text: str) -> list[str]:
    """Pieces of a text that end with a paragraph, none too long to learn in one row; what is too short is left out."""
    return _pieces(text, "\n")


READERS: Mapping[str, Callable[..., Items]] = {
    reader.__name__: reader
    for reader in (
        choice, bare_choice, blank, copa, mmlu, last_word, paragraphs, worked_answer, humaneval, mbpp, ifeval,
        chat_prompts, forbidden, do_not_answer, refusals, trivia, word_problems, logic, text_tasks, stdlib_functions,
        package_functions, stdlib_text, documents,
    )
}  # fmt: skip


def _row(question: str, reply: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return {"id": digest(question, reply)[:16], "messages": messages}


def _stdlib() -> list[Path]:
    return sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))


def _pieces(text: str, between: str) -> list[str]:
    """Whole parts of a text put together up to the longest piece; a part that is longer by itself is left out."""
    pieces = [""]
    for part in text.split(between):
        if len(part) > PIECE_CHARACTERS:
            pieces.append("")
        elif pieces[-1] and len(pieces[-1]) + len(between) + len(part) > PIECE_CHARACTERS:
            pieces.append(part)
        else:
            pieces[-1] = f"{pieces[-1]}{between}{part}" if pieces[-1] else part
    whole = (piece.strip("\n") for piece in pieces)
    return [piece for piece in whole if len(piece) >= LEAST_CHARACTERS]


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
