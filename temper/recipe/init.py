"""Init: a first recipe for a folder of files, with every guess told; rows are held back where no file is the exam.

Writes `temper.yaml`, and where rows have to be split an exam and a training file beside it; never over a file that is
there. What it writes runs as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temper.data.rows import Row, Table, read_table
from temper.errors import DataError, MachineError, RecipeError
from temper.recipe.document import parse

NAME = "temper.yaml"
EXAM_WORDS = ("exam", "test", "heldout", "holdout", "eval", "validation", "valid", "val", "dev")
"""Words in a file name that mark rows held back, the surest first."""
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
EXAM_SHARE = 0.15
LEAST_EXAM, MOST_EXAM = 32, 500
"""Rows held back: fewer say little about the score, more cost time and say little more."""
LEAST_ROWS = 8
"""With fewer rows there is nothing to hold back."""
SMALL_FILE = 0.3
"""A file of at most this part of the rows may be the exam though its name does not say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InitResult:
    """What `temper init` wrote, and what it assumed."""

    path: Path
    """The recipe."""
    yaml_text: str
    remarks: tuple[str, ...]
    """One sentence per guess."""
    written: tuple[Path, ...]
    """All files that are new, the recipe last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """Which rows are learnt from and which are asked in the exam."""

    train: tuple[Path, ...]
    exam: Path
    why_exam: str
    why_train: str
    new: tuple[tuple[Path, str], ...] = ()
    """Files that have to be written for it, with their text."""
    remarks: tuple[str, ...] = ()


def propose(folder: Path, files: Sequence[Path] = (), base: str = "smollm2-135m-instruct") -> InitResult:
    """Looks at data files (those in the folder when none are named) and writes a recipe that runs."""
    recipe = folder / NAME
    if recipe.exists():
        raise RecipeError(f"{recipe}: found a recipe already; expected none; edit it, or name another folder")
    tables, remarks = _read(folder, files)
    division = _divide(folder, tables)
    text = _yaml(folder, base, division)
    _write_all([*division.new, (recipe, text)])
    return InitResult(
        path=recipe,
        yaml_text=text,
        remarks=(*remarks, *division.remarks, division.why_exam, division.why_train),
        written=(*(path for path, _ in division.new), recipe),
    )


def _read(folder: Path, files: Sequence[Path]) -> tuple[list[Table], list[str]]:
    """The files that supervised fine-tuning can use; one that was named and cannot be read is an error."""
    remarks: list[str] = []
    tables: list[Table] = []
    for path in [Path(f) for f in files] or _discover(folder):
        try:
            table = read_table(path)
        except DataError as error:
            if files:
                raise
            remarks.append(f"{path.name} is left out: {str(error).splitlines()[0]}")
            continue
        if all(row.messages for row in table.rows):
            tables.append(table)
        else:
            remarks.append(f"{path.name} is left out: plain text, while fine-tuning learns from prompts with answers")
    if not tables:
        found = "; ".join(remarks) or "no data files"
        raise DataError(
            f"{folder}: found {found}; expected a file of rows such as "
            '{"prompt": "...", "completion": "..."}; name one with --data FILE'
        )
    return tables, remarks


def _discover(folder: Path) -> list[Path]:
    places = [place for place in (folder, folder / "data") if place.is_dir()]
    names = tuple(s + zipped for s in SUFFIXES for zipped in ("", ".gz"))
    return sorted(p for place in places for p in place.iterdir() if p.is_file() and p.name.lower().endswith(names))


def _divide(folder: Path, tables: list[Table]) -> Division:
    """An exam by its name, else by its size, else rows held back."""
    named = sorted((t for t in tables if _exam_rank(t.path) is not None), key=lambda t: _exam_rank(t.path) or 0)
    if named and len(tables) > len(named):
        exam, others = (
            named[0],
            tuple(f"{t.path.name} is not used: {named[0].path.name} is the exam" for t in named[1:]),
        )
        why = f"{exam.path.name} is the exam, as its name says ({len(exam.rows)} rows)"
        return _with_exam(folder, [t for t in tables if t not in named], exam, why, others)
    if len(tables) > 1:
        smallest = min(tables, key=lambda t: len(t.rows))
        rest = [t for t in tables if t is not smallest]
        rows = sum(len(t.rows) for t in rest)
        if LEAST_EXAM <= len(smallest.rows) <= SMALL_FILE * rows and all(t.shape == smallest.shape for t in rest):
            why = (
                f"{smallest.path.name} is taken for the exam because it is the smallest ({len(smallest.rows)} rows of "
                f"{rows + len(smallest.rows)}); if you want to learn from it, list it under data"
            )
            return _with_exam(folder, rest, smallest, why, ())
    return _split(folder, tables)


def _exam_rank(path: Path) -> int | None:
    words = re.split(r"[^a-z]+", path.name.lower().replace("held-out", "heldout").replace("held_out", "heldout"))
    return next((rank for rank, word in enumerate(EXAM_WORDS) if word in words), None)


def _with_exam(folder: Path, train: list[Table], exam: Table, why: str, remarks: tuple[str, ...]) -> Division:
    """Trains on the other files, less the rows that the exam asks."""
    asked = {_prompt(row) for row in exam.rows}
    rows = [row for table in train for row in table.rows]
    kept = tuple(row for row in rows if _prompt(row) not in asked)
    files = ", ".join(t.path.name for t in train)
    if len(kept) == len(rows):
        return Division(
            train=tuple(t.path for t in train),
            exam=exam.path,
            why_exam=why,
            why_train=f"{files}: {len(rows)} rows to learn from",
            remarks=remarks,
        )
    if not kept:
        raise DataError(f"{exam.path}: found every prompt of {files} in it; expected rows of its own; name other files")
    clean = _free(folder, "train")
    why_train = f"{clean.name} is {files} without the {len(rows) - len(kept)} rows that the exam asks; {len(kept)} stay"
    return Division(
        train=(clean,),
        exam=exam.path,
        why_exam=why,
        why_train=why_train,
        new=((clean, _lines(kept, train)),),
        remarks=remarks,
    )


def _split(folder: Path, tables: list[Table]) -> Division:
    """Holds rows back, by a hash of the prompt: the same rows every time, equal prompts on the same side."""
    rows = [row for table in tables for row in table.rows]
    files = ", ".join(t.path.name for t in tables)
    wanted = min(max(LEAST_EXAM, round(EXAM_SHARE * len(rows))), MOST_EXAM, len(rows) // 3)
    prompts = sorted({_prompt(row) for row in rows}, key=lambda p: hashlib.sha256(p.encode("utf-8")).digest())
    if len(prompts) < LEAST_ROWS:
        raise DataError(
            f"{tables[0].path}: found {len(prompts)} different prompts; expected at least {LEAST_ROWS}, to hold some "
            "back for the exam; add rows, or name an exam file with --data"
        )
    sizes: dict[str, int] = {}
    for row in rows:
        sizes[_prompt(row)] = sizes.get(_prompt(row), 0) + 1
    held: set[str] = set()
    count = 0
    for prompt in prompts:
        if count < wanted and count + sizes[prompt] <= max(wanted, len(rows) // 2):
            held.add(prompt)
            count += sizes[prompt]
    exam_path, train_path = _free(folder, "exam"), _free(folder, "train")
    exam = tuple(row for row in rows if _prompt(row) in held)
    train = tuple(row for row in rows if _prompt(row) not in held)
    few = f"; that is few, more than {LEAST_EXAM} would measure better" if len(exam) < LEAST_EXAM else ""
    return Division(
        train=(train_path,),
        exam=exam_path,
        why_exam=f"{exam_path.name}: {len(exam)} of the {len(rows)} rows of {files}, held back for the exam{few}",
        why_train=f"{train_path.name}: the other {len(train)} rows, to learn from",
        new=((exam_path, _lines(exam, tables)), (train_path, _lines(train, tables))),
    )


def _prompt(row: Row) -> str:
    """What a row asks, whatever its case and spacing."""
    return " ".join(" ".join(f"{m.role}: {m.content}" for m in row.prompt).lower().split())


def _free(folder: Path, stem: str) -> Path:
    """A name beside the recipe that is not taken."""
    names = (f"{stem}.jsonl", f"{stem}-split.jsonl", *(f"{stem}-split-{n}.jsonl" for n in range(2, 100)))
    return next(folder / name for name in names if not (folder / name).exists())


def _lines(rows: Iterable[Row], tables: Sequence[Table]) -> str:
    """The rows as JSON lines: with their own columns, or as messages where files of several shapes come together."""
    if len({table.shape for table in tables}) == 1:
        records: Iterable[Any] = (dict(row.fields) for row in rows)
    else:
        turns = ([{"role": m.role, "content": m.content} for m in row.messages] for row in rows)
        records = ({"messages": t} for t in turns)
    return "".join(json.dumps(record, ensure_ascii=False, default=str) + "\n" for record in records)


def _yaml(folder: Path, base: str, division: Division) -> str:
    exam = _scalar(_relative(division.exam, folder))
    train = [_scalar(_relative(path, folder)) for path in division.train]
    data = train[0] if len(train) == 1 else f"[{', '.join(train)}]"
    return f"""\
# Written by `temper init`. What is left out is chosen by temper: `temper check {NAME}` shows each value and why.
base: {_scalar(base)}  # a built-in name, a hub id, or a folder

probes:
  # {_comment(division.why_exam)}
  domain: [{exam}]
  # what the model must not lose; built in, needs no data of yours
  general: [core]

# the largest general drop you accept, at 95 % confidence
tolerance: 1%

stages:
  - technique: sft
    # {_comment(division.why_train)}
    data: {data}
    # general rows are mixed into every step, so that the model keeps what it can do
    replay: {{share: auto}}
"""


def _comment(text: str) -> str:
    return " ".join(text.split())  # a file's name may hold a line break, a comment may not


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _scalar(text: str) -> str:
    """The text as YAML, in quotes where it would be read as something else."""
    plain = re.fullmatch(r"[A-Za-z0-9_./][A-Za-z0-9_./-]*", text) is not None and parse(text, "").data == text
    return text if plain else json.dumps(text, ensure_ascii=False)


def _write_all(files: list[tuple[Path, str]]) -> None:
    """Writes all files or none; a file that is there stays as it is."""
    done: list[Path] = []
    try:
        for path, text in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                done.append(path)
                file.write(text)
    except OSError as error:
        for path in done:
            path.unlink(missing_ok=True)
        raise MachineError(
            f"{files[len(done) - 1 if done else 0][0].parent}: found {error.strerror or error}; expected a folder that "
            "can be written; free space or choose another folder"
        ) from None
