"""Init: a first recipe for some data files, with every guess told: the stages that the data call for, and an exam.

Writes `temper.yaml`, and where rows have to be parted or rewritten, files of rows beside it; never over a file that is
there. What it writes runs as it is. What the files hold is found by `look`, which techniques to use is advised by
`decide.advise`, which rows are asked is settled by `exam`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from temper import registry
from temper.data import documents, files, hub
from temper.decide.advise import Advice, Step, Stock, advise, origin_of
from temper.errors import DataError, MachineError, RecipeError, TemperError
from temper.recipe.document import parse
from temper.recipe.exam import Division, Lesson, New, divide, exam_rank
from temper.recipe.inputs import DomainProbe
from temper.recipe.look import WORDS, Found, beside, look, volume

NAME = "temper.yaml"
NOT_TEXT = ("readme", "licence", "license", "changelog", "contributing", "notice", "requirements")
"""Documents that a folder has for other reasons than to be learnt from."""
METRICS: Mapping[str, Sequence[str]] = {"preferences": ("preference", "rouge-l"), "text": ("loss",)}
"""Kind of the exam's rows -> metrics that suit it, the best first; the others are marked as their answers look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InitResult:
    """What `temper init` wrote, and what it assumed."""

    path: Path
    """The recipe."""
    remarks: tuple[str, ...]
    """One sentence per guess."""
    written: tuple[Path, ...]
    """All files that are new, the recipe last."""
    advice: Advice


def propose(folder: Path, paths: Sequence[Path] = (), base: str = "smollm2-135m-instruct") -> InitResult:
    """Looks at data (what is in the folder when nothing is named) and writes a recipe that runs.

    Args:
        folder: Of the recipe.
        paths: Files of rows, documents, folders, globs.
        base: Built-in name, hub id, or folder of the model.
    """
    base = _relative(Path(base), folder) if Path(base).is_dir() else base
    recipe = folder / NAME
    if recipe.exists():
        raise RecipeError(f"{recipe}: found a recipe already; expected none; edit it, or name another folder")
    found, remarks = _read(folder, paths)
    exams = [f for f in found if f.asked and f.kind != "prompts" and exam_rank(f.path) is not None]
    learnt = [f for f in found if f not in exams]
    if exams and not learnt:
        names = ", ".join(f.name for f in exams)
        raise DataError(
            f"{folder}: found only {names}, by the name held back for the exam; expected rows to learn from as well; "
            "name them with --data, or rename the file if it is no exam"
        )
    advice = _advice(base, learnt, asks=bool(exams))
    lessons = _lessons(folder, advice, learnt)
    unused = [f for f in learnt if not any(f in lesson.found for lesson in lessons)]
    division = divide(folder, lessons, exams)
    text = _yaml(folder, base, division, advice)
    _write_all([*division.new, New(path=recipe, lines=lambda: iter((text,)))])
    return InitResult(
        path=recipe, written=(*(new.path for new in division.new), recipe), advice=advice,
        remarks=(*remarks, *(_understood(f) for f in found), *(_unused(f, advice) for f in unused), division.why,
                 *division.remarks),
    )  # fmt: skip


def _advice(base: str, learnt: Sequence[Found], *, asks: bool) -> Advice:
    """What the data call for; text alone needs an exam on text, where this installation has one."""
    asks = asks or any(f.asked for f in learnt)
    stock = Stock(
        model=base, origin=origin_of(base), text=volume(learnt, "text"), pairs=volume(learnt, "pairs"),
        preferences=volume(learnt, "preferences"), tasks=volume(learnt, "tasks"), prompts=volume(learnt, "prompts"),
    )  # fmt: skip
    known = [name for name in registry.names("technique") if name != "cpt" or asks or _metric("text")]
    return advise(stock, techniques=known)


def _lessons(folder: Path, advice: Advice, learnt: Sequence[Found]) -> list[Lesson]:
    """What each advised stage learns from; refused when nothing is advised."""
    lessons = [
        Lesson(
            technique=step.technique, kind=step.source, found=tuple(f for f in learnt if f.kind == step.source),
            answers=step.technique == "sft" and step.source != "pairs",
        )
        for step in advice.run if step.source is not None
    ]  # fmt: skip
    if lessons:
        return lessons
    reasons = "; ".join(f"{s.technique}: {s.reason}" for s in advice.steps if s.source is not None)
    there = ", ".join(f"{f.name} ({f.rows} rows, {WORDS[f.kind]})" for f in learnt)
    raise DataError(
        f"{folder}: found {there}, nothing of which can be trained on as it is ({reasons}); expected rows such as "
        f"{files.EXAMPLE}, {WORDS['tasks']}, {WORDS['preferences']}, or more text; add data and name it with --data"
    )


def _read(folder: Path, paths: Sequence[Path]) -> tuple[list[Found], list[str]]:
    """What the data hold; what was named and cannot be read is an error, what was come upon is a remark."""
    remarks: list[str] = []
    found: list[Found] = []
    for path in list(dict.fromkeys(paths)) or _discover(folder):
        try:
            found += look(path)
        except DataError as error:
            if paths:
                raise
            remarks.append(f"{path.name} is left out: {str(error).splitlines()[0]}")
            continue
        remarks += [text] if (text := beside(path)) else []
    if not found:
        said = "; ".join(remarks) or "no data files"
        raise DataError(
            f"{folder}: found {said}; expected a file of rows such as {files.EXAMPLE}, or documents; "
            "name one with --data FILE"
        )
    return found, remarks


def _discover(folder: Path) -> list[Path]:
    """Files of rows in the folder and in its `data`, documents in `data`; else the documents of the folder itself."""
    data = folder / "data"
    found = [p for place in (folder, data) for p in _files(place) if files.holds_rows(p)]
    if data.is_dir():
        found += [p for p in sorted(data.iterdir()) if p.is_dir() and not p.name.startswith(".") and any(p.iterdir())]
        found += _globs(data)
    return found or _globs(folder)


def _files(place: Path) -> list[Path]:
    return sorted(p for p in place.iterdir() if p.is_file()) if place.is_dir() else []


def _globs(place: Path) -> list[Path]:
    """The documents of a folder, by their endings: several of a kind as a glob, a single one by its name."""
    by_ending: dict[str, list[Path]] = {}
    for path in _files(place):
        if files.format_of(path) in documents.SUFFIXES and not path.name.lower().startswith(NOT_TEXT):
            by_ending.setdefault(files.format_of(path) + files.packing_of(path), []).append(path)
    others = [p.name for p in _files(place) if p.name.lower().startswith(NOT_TEXT)]
    return [
        path
        for ending, paths in by_ending.items()
        for path in (paths if len(paths) == 1 or any(n.endswith(ending) for n in others) else [place / f"*{ending}"])
    ]


def _understood(found: Found) -> str:
    tokens = f", about {found.volume.tokens:,} tokens" if found.kind == "text" else ""
    return f"{found.name}: {found.rows:,} rows, {WORDS[found.kind]} (recognised as {found.stream.shape}){tokens}"


def _unused(found: Found, advice: Advice) -> str:
    reasons = [f"{s.technique}: {s.reason}" for s in advice.steps if s.source == found.kind and s.verdict == "skip"]
    return f"{found.name} is left out: {'; '.join(reasons) or WORDS[found.kind]}"


def _metric(kind: str) -> str:
    """The best metric for such rows that a recipe can name here; empty where none is needed or none is known."""
    known = str(DomainProbe.model_fields["metric"].annotation)
    return next((metric for metric in METRICS.get(kind, ()) if f"'{metric}'" in known), "")


def _yaml(folder: Path, base: str, division: Division, advice: Advice) -> str:
    exam = {
        "file": _scalar(_relative(division.exam, folder)),
        "metric": _metric(division.kind),
        "split": division.split,
    }
    asked = ", ".join(f"{key}: {value}" for key, value in exam.items() if value)
    probe = f"{{{asked}}}" if ", " in asked else exam["file"]
    stages = "\n".join(_stage(folder, lesson, advice.step(lesson.technique)) for lesson in division.lessons)
    skipped = [s for s in advice.steps if s.verdict == "skip" and s.source is not None]
    against = "".join(f"  # no {s.technique}: {_comment(s.reason)}\n" for s in skipped)
    start = f"\n# {_comment(advice.start.reason)}" if advice.start.fits is False else ""
    return f"""\
# Written by `temper init`. What is left out is chosen by temper: `temper check {NAME}` shows each value and why.{start}
base: {_scalar(base)}  # a built-in name, a hub id, or a folder

probes:
  # {_comment(division.why)}
  domain: [{probe}]
  # what the model must not lose; built in, needs no data of yours
  general: [core]

# the largest general drop you accept, at 95 % confidence
tolerance: 1%

stages:
{stages}{against}"""


def _stage(folder: Path, lesson: Lesson, step: Step) -> str:
    paths = [_scalar(_relative(f.path, folder)) for f in lesson.found]
    data = paths[0] if len(paths) == 1 else f"[{', '.join(paths)}]"
    evidence = f" ({step.evidence})" if step.evidence else ""
    text = f"  - technique: {lesson.technique}\n    # {_comment(step.reason + evidence)}\n    data: {data}\n"
    if lesson.technique == "rft":
        kinds = {f.references for f in lesson.found}
        reward = "numeric" if kinds == {"number"} else "exact"
        text += "    # full marks for the reference, none for anything else; a function of yours: ./rewards.py:name\n"
        text += f"    reward: {reward}\n"
    return f"""{text}    # general rows are mixed into every step, so that the model keeps what it can do
    replay: {{share: auto}}
"""


def _comment(text: str) -> str:
    return " ".join(text.split())  # a file's name may hold a line break, a comment may not


def _relative(path: Path, folder: Path) -> str:
    return str(path) if hub.is_hub(path) else Path(os.path.relpath(path, folder)).as_posix()


def _scalar(text: str) -> str:
    """The text as YAML, in quotes where it would be read as something else."""
    plain = re.fullmatch(r"[A-Za-z0-9_./][A-Za-z0-9_./-]*", text) is not None and parse(text, "").data == text
    return text if plain else json.dumps(text, ensure_ascii=False)


def _write_all(new: Sequence[New]) -> None:
    """Writes all files or none; a file that is there stays as it is."""
    done: list[Path] = []
    place = new[0].path.parent
    try:
        for file in new:
            place = file.path.parent
            place.mkdir(parents=True, exist_ok=True)
            with file.path.open("x", encoding="utf-8") as out:
                done.append(file.path)
                out.writelines(file.lines())
    except (OSError, TemperError) as error:
        for path in done:
            path.unlink(missing_ok=True)
        if isinstance(error, TemperError):
            raise
        raise MachineError(
            f"{place}: found {error.strerror or error}; expected a folder that can be written; free space or choose "
            "another folder"
        ) from None
