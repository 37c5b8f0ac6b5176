"""Exam: which rows a new recipe asks and which it learns, so that none is on both sides.

The exam is the file whose name says so, else the smallest of several like files, else rows that are held back: by
`split:` where all rows are in one file, in files of their own otherwise. Imports look, data and errors.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from temper.data import files
from temper.data.passages import share_to_hold
from temper.data.split import is_held_out
from temper.decide.advise import Source
from temper.errors import DataError
from temper.recipe.look import WORDS, Found, lines

WORDS_OF_EXAMS = ("exam", "test", "heldout", "holdout", "eval", "validation", "valid", "val", "dev")
"""Words in a file name that mark rows held back, the surest first."""
EXAM_SHARE = 0.15
LEAST_EXAM, MOST_EXAM = 32, 500
"""Rows held back: fewer say little about the score, more cost time and say little more."""
FEWEST = 16
"""Rows of an exam that both of its halves have some of."""
LEAST_ROWS = 8
"""With fewer rows there is nothing to hold back."""
SMALL_FILE = 0.3
"""A file of at most this part of the rows may be the exam though its name does not say so."""
ASKED: tuple[Source, ...] = ("pairs", "tasks", "preferences")
"""Kinds of rows that can be asked, the first of them is asked where rows are held back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class New:
    """A file that has to be written for the recipe."""

    path: Path
    lines: Callable[[], Iterator[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What one stage learns from."""

    technique: str
    kind: Source
    found: tuple[Found, ...]
    answers: bool = False
    """Whether the rows are learnt as prompts with answers though they are of another kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """Which rows are learnt from and which are asked in the exam."""

    exam: Path
    kind: Source
    """Of the exam's rows."""
    lessons: tuple[Lesson, ...]
    """As they were, without the rows that the exam asks."""
    why: str
    """What the exam is."""
    split: str = ""
    """Part of the exam's file that is held out, where the rest of it is learnt."""
    new: tuple[New, ...] = ()
    remarks: tuple[str, ...] = ()


def exam_rank(path: Path) -> int | None:
    """How surely a file's name says that its rows are held back, 0 the surest; None where it does not."""
    words = re.split(r"[^a-z]+", path.name.lower().replace("held-out", "heldout").replace("held_out", "heldout"))
    return next((rank for rank, word in enumerate(WORDS_OF_EXAMS) if word in words), None)


def divide(folder: Path, lessons: Sequence[Lesson], exams: Sequence[Found]) -> Division:
    """Finds or makes an exam, and takes its rows out of everything that is learnt.

    Args:
        folder: Of the recipe; files that have to be written go there.
        lessons: What the stages learn from, in their order.
        exams: Files whose names say that they are an exam.
    """
    if exams:
        exam = min(exams, key=lambda f: exam_rank(f.path) or 0)
        others = tuple(f"{f.name} is not used: {exam.name} is the exam" for f in exams if f is not exam)
        why = f"{exam.name} is the exam, as its name says ({exam.rows} rows)"
        return _against(folder, lessons, exam, why, others)
    asking = list(dict.fromkeys(f for lesson in lessons for f in lesson.found if lesson.kind in ASKED))
    if not asking:
        return _on_text(lessons)
    smallest = min(asking, key=lambda f: f.rows)
    rest = [f for f in asking if f is not smallest]
    rows = sum(f.rows for f in rest)
    alike = all(f.stream.shape == smallest.stream.shape for f in rest)
    if rest and alike and LEAST_EXAM <= smallest.rows <= SMALL_FILE * rows:
        why = (
            f"{smallest.name} is taken for the exam because it is the smallest ({smallest.rows} rows of "
            f"{rows + smallest.rows}); if you want to learn from it, list it under data"
        )
        left = [replace(x, found=tuple(f for f in x.found if f is not smallest)) for x in lessons]
        return _against(folder, left, smallest, why, ())
    return _held_back(folder, lessons)


def _on_text(lessons: Sequence[Lesson]) -> Division:
    """Passages of the documents themselves are what is asked: a part that is large enough to judge by.

    Raises:
        DataError: No part of them is.
    """
    largest = max((f for lesson in lessons for f in lesson.found), key=lambda f: f.size)
    split = f"{100 * share_to_hold(list(largest.stream.rows()), where=largest.name):.10g}%"
    why = f"{split} of {largest.name} is held out: its loss tells how well such text is known"
    return Division(exam=largest.path, kind="text", lessons=tuple(lessons), why=why, split=split)


def _against(folder: Path, lessons: Sequence[Lesson], exam: Found, why: str, remarks: tuple[str, ...]) -> Division:
    """Learns everything but the rows that the exam asks."""
    left, new, told = _cleaned(folder, lessons, frozenset(exam.asked), exam.path)
    return Division(exam=exam.path, kind=exam.kind, lessons=left, why=why, new=new, remarks=(*remarks, *told))


def _held_back(folder: Path, lessons: Sequence[Lesson]) -> Division:
    """Holds rows back, by a hash of what they ask: the same rows every time, equal prompts on the same side."""
    kind: Source = next(kind for kind in ASKED if any(lesson.kind == kind for lesson in lessons))
    source = next(lesson.found for lesson in lessons if lesson.kind == kind)
    rows, names = sum(f.rows for f in source), ", ".join(f.name for f in source)
    wanted = min(max(LEAST_EXAM, round(EXAM_SHARE * rows)), MOST_EXAM, rows // 3)
    part = _split_of(source[0], wanted) if len(lessons) == len(source) == 1 and kind == "pairs" else None
    if part is not None:
        split, count = part
        why = f"{count} of the {rows} rows of {names} are held back for the exam, the others are learnt"
        return Division(exam=source[0].path, kind=kind, lessons=tuple(lessons), why=why, split=split)
    held = _choose(source, wanted, rows)
    count = sum(f.asked.get(prompt, 0) for f in source for prompt in held)
    exam = New(path=_free(folder, "exam"), lines=partial(lines, source, asked=held, keep=True, answers=False))
    few = f"; that is few, more than {LEAST_EXAM} would measure better" if count < LEAST_EXAM else ""
    why = f"{exam.path.name}: {count} of the {rows} rows of {names}, held back for the exam{few}"
    left, new, told = _cleaned(folder, lessons, held, exam.path)
    return Division(exam=exam.path, kind=kind, lessons=left, why=why, new=(exam, *new), remarks=told)


def _split_of(found: Found, wanted: int) -> tuple[str, int] | None:
    """The share that holds about so many rows of a file back, and how many it does; None where a split would not do."""
    repeats = any(count > 1 for count in found.asked.values())
    if repeats or found.rows < LEAST_ROWS or not found.path.is_file() or not files.holds_rows(found.path):
        return None
    share = 100 * wanted / found.rows
    split = f"{math.ceil(share) if share >= 1 else float(f'{share:.1g}')}%"
    part = float(split.removesuffix("%")) / 100
    count = sum(is_held_out(row, share=part, group=None) for row in found.stream.rows())
    return (split, count) if FEWEST <= count <= found.rows // 2 else None


def _choose(source: Sequence[Found], wanted: int, rows: int) -> frozenset[bytes]:
    """The prompts to hold back: the first by their hashes, as many as make up the rows wanted."""
    sizes: dict[bytes, int] = {}
    for found in source:
        for prompt, count in found.asked.items():
            sizes[prompt] = sizes.get(prompt, 0) + count
    if len(sizes) < LEAST_ROWS:
        raise DataError(
            f"{source[0].path}: found {len(sizes)} different prompts; expected at least {LEAST_ROWS}, to hold some "
            "back for the exam; add rows, or name an exam file with --data"
        )
    held: set[bytes] = set()
    count = 0
    for prompt in sorted(sizes, key=lambda p: hashlib.sha256(p).digest()):
        if count < wanted and count + sizes[prompt] <= max(wanted, rows // 2):
            held.add(prompt)
            count += sizes[prompt]
    return frozenset(held)


def _cleaned(
    folder: Path, lessons: Sequence[Lesson], asked: frozenset[bytes], exam: Path
) -> tuple[tuple[Lesson, ...], tuple[New, ...], tuple[str, ...]]:
    """The lessons without the rows that the exam asks; the files of one that changes are written as one."""
    left: list[Lesson] = []
    new: list[New] = []
    told: list[str] = []
    for lesson in lessons:
        names = ", ".join(f.name for f in lesson.found)
        lost = sum(count for f in lesson.found for prompt, count in f.asked.items() if prompt in asked)
        rows = sum(f.rows for f in lesson.found) - lost
        if not rows:
            raise DataError(f"{exam}: found every prompt of {names} in it; expected rows of its own; name other files")
        if not lost and not lesson.answers:
            left.append(lesson)
            told.append(f"{names}: {rows:,} rows to learn from" if lesson.kind != "text" else f"{names}: text to learn")
            continue
        path = _free(folder, "train" if lesson.technique == "sft" or len(lessons) == 1 else f"train-{lesson.technique}")
        rest = partial(lines, lesson.found, asked=asked, keep=False, answers=lesson.answers)
        new.append(New(path=path, lines=rest))
        left.append(replace(lesson, found=(replace(lesson.found[0], path=path, rows=rows),)))
        become = f"; {WORDS[lesson.kind]} become prompts with answers" if lesson.answers else ""
        told.append(f"{path.name} is {names} without the {lost} rows that the exam asks; {rows} stay{become}")
    return tuple(left), tuple(new), tuple(told)


def _free(folder: Path, stem: str) -> Path:
    """A name beside the recipe that is not taken."""
    names = (f"{stem}.jsonl", f"{stem}-split.jsonl", *(f"{stem}-split-{n}.jsonl" for n in range(2, 100)))
    return next(folder / name for name in names if not (folder / name).exists())
