"""Inventory: the rows a stage can draw on, rendered, before anything is decided. What `check` prints and `run` mixes.

Domain rows come from the recipe's files, through the token store; general rows from `general`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from temper.data import documents, fetch, filters
from temper.data.datum import Datum, count_supervised, count_tokens, lengths
from temper.data.filters import HeldOut
from temper.data.lint import Finding, Knowledge, Marks, as_error, conclude, inspect, know, with_codes
from temper.data.lint.facts import RowFacts
from temper.data.render import Renderer
from temper.data.rows import Fault, Row, Stream, refuse
from temper.data.tokenise import Job, Stored, list_dropped, tokenise
from temper.errors import DataError
from temper.model.protocol import Base, Policy, Shape, Tokens
from temper.recipe.facts import Facts
from temper.recipe.schema import DataFile, Learns, Recipe, Stage
from temper.techniques import general
from temper.techniques.general import Rows

FITS: Mapping[Learns, tuple[str, str]] = {
    "answers": ("rows with answers", "prompts and completions, or conversations that end with the assistant"),
    "text": ("documents or rows of text", "a folder of .txt, .md or .html files, or rows of `text`"),
    "pairs": ("preference pairs", "rows with `prompt`, `chosen` and `rejected`"),
    "tasks": ("tasks", "rows with `prompt` and `reference`"),
}
"""What a technique learns from, and how that is written."""
BETTER: Mapping[str, str] = {
    "task": "tasks, which have no answer to learn; use `technique: rft`, or add the answers as completions",
    "chosen/rejected": "preference pairs; use `technique: dpo`, or keep the better answer alone as a completion",
    "prompt": "prompts without answers; use `technique: distill`, or add the answers as completions",
    "text": "plain text, which asks and answers nothing; use `technique: cpt`",
    "documents": "documents, which ask and answer nothing; use `technique: cpt`",
    "": "prompts with answers; use `technique: sft`",
}
"""Shape of rows -> what they are and what suits them; the last for every other one."""
BYTES_PER_ROW = 500
"""Of a file, to guess its rows before it is read."""
OWN_PART = 0.75
"""Part of a category's replay that is the base's own answers, where the catalogue has rows too."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRead:
    """One file of domain rows and how it was understood."""

    path: Path
    shape: str
    rows: int
    dropped: Mapping[str, Mapping[str, int]]
    """Filter -> reason -> rows it left out."""
    listed: Path | None
    """Where every row left out is listed; None where none is kept."""
    cached: bool
    """Whether its tokens were there already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """Everything a stage can learn from."""

    domain: tuple[Rows, ...]
    general: tuple[Rows, ...]
    tasks: tuple[Row, ...] = ()
    """Prompts to try, for a technique that learns from what the model says; `domain` holds what it learns beside."""
    prompts: tuple[Tokens, ...] = ()
    """The same, rendered."""
    files: tuple[FileRead, ...] = ()
    findings: tuple[Finding, ...] = ()
    notices: tuple[str, ...] = ()

    def sample(self, count: int) -> list[Datum]:
        """Some rows of the usual length, to measure with: the domain's, or prompts where it has no rows."""
        rows = [datum for source in self.domain for datum in source.datums[:count]][:count]
        if rows:
            return [replace(d, weights={"ce": next(iter(d.weights.values()))}, group=-1) for d in rows]
        return [Datum(tokens=t, weights={"ce": (1.0,) * (len(t) - 1)}) for t in self.prompts[:count] if len(t) > 1]

    def facts(self, shape: Shape, exam_rows: int) -> Facts:
        """What `resolve` needs to know."""
        available: dict[str, int] = {}
        for rows in self.general:
            available[rows.category] = available.get(rows.category, 0) + count_supervised(rows.datums)
        longest = [int(lengths(rows.datums).max()) for rows in (*self.domain, *self.general)]
        return Facts(
            params=shape.params, hidden=shape.hidden, layers=shape.layers, architecture=shape.architecture,
            train_rows=sum(len(rows.datums) for rows in self.domain) + len(self.tasks),
            domain_supervised=sum(count_supervised(rows.datums) for rows in self.domain),
            domain_tokens=sum(count_tokens(rows.datums) for rows in self.domain) + sum(map(len, self.prompts)),
            longest_row=max((*longest, *map(len, self.prompts))), available_replay=available,
            available_sources={rows.name: count_supervised(rows.datums) for rows in self.general},
            exam_rows=exam_rows, device=shape.device, cores=os.cpu_count() or 1, context_length=shape.context,
            replay_tokens=sum(count_tokens(rows.datums) for rows in self.general),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Exams:
    """What must not be learnt."""

    rows: Sequence[Row]
    """Of the domain probes."""
    probes: Mapping[str, Sequence[str]]
    """General probe -> the texts of its items."""


def take_stock(
    recipe: Recipe, stage: Stage, base: Base, renderer: Renderer, *, exams: Exams, answer: Callable[[], Policy],
    progress: Progress | None = None,
) -> Inventory:  # fmt: skip
    """Reads, renders and checks every row that the stage may draw on.

    Args:
        recipe: For its probes, which may hold out rows of the stage's files.
        stage: Whose data are wanted.
        base: The model that the run starts from.
        renderer: Of that model.
        exams: What must not be learnt.
        answer: Opens the base model; called only when it must still write its own answers.
        progress: Told (what, done, of) while files are read and answers are written.
    """
    wanted = stage.replay if stage.replay is not None and stage.replay.share != 0 else None
    found = wanted and general.gather(wanted, base, renderer, seed=recipe.seed, answer=answer, progress=progress)
    rows, notices = (found.rows, found.notices) if found else ((), ())
    if stage.learns == "tasks":
        read = _tasks(recipe, stage, renderer, exams)
        if stage.beside:
            held = _rows(recipe, stage.beside, base, renderer, exams, progress)
            told = {"findings": (*read.findings, *held.findings), "notices": (*read.notices, *held.notices)}
            read = replace(read, domain=held.domain, **told)
    else:
        read = _rows(recipe, stage, base, renderer, exams, progress)
    return replace(read, general=rows, notices=(*read.notices, *notices))


def _rows(
    recipe: Recipe, stage: Stage, base: Base, renderer: Renderer, exams: Exams, progress: Progress | None
) -> Inventory:
    """The stage's files as tokens, looked over by the linter: all together, since a row of one may stand in another."""
    jobs: list[Job] = []
    for source, stream in _streams(stage):
        jobs.append(_job(recipe, stage, source.file, stream, base, _name(stream, jobs)))
    notes = _notes(jobs, stage, renderer, exams)
    knowledge = None if notes.is_file() else _know(stage, renderer, exams, sum(_guess(job.source) for job in jobs))
    look = None if knowledge is None else partial(inspect, knowledge=knowledge)
    domain: list[Rows] = []
    files: list[FileRead] = []
    facts: list[Iterable[RowFacts]] = []
    notices: list[str] = []
    for job in jobs:
        with with_codes():
            stored = tokenise(replace(job, inspect=look), renderer, progress=progress)
        stream = job.source
        rows = _read(stored, stream, stage)
        facts.append(stored.facts or ())
        notices += filters.notices(rows.dropped, rows.rows + _count(rows.dropped), where=stream.path.name)
        files.append(rows)
        domain.append(
            Rows(
                name=job.name, role="domain", category="domain", origin=stream.path.name, licence="yours",
                datums=stored.store, fingerprint=stored.store.fingerprint[:16],
            )
        )  # fmt: skip
    found = _recall(notes) if knowledge is None else _keep(notes, _findings(chain.from_iterable(facts), knowledge))
    return Inventory(
        domain=tuple(domain), general=(), files=tuple(files), findings=tuple(found), notices=tuple(notices)
    )


def _tasks(recipe: Recipe, stage: Stage, renderer: Renderer, exams: Exams) -> Inventory:
    """The stage's files as prompts to try, linted; none is tried twice for standing twice in them."""
    rows: list[Row] = []
    files: list[FileRead] = []
    notices: list[str] = []
    for source, stream in _streams(stage):
        with with_codes():
            read = list(stream.rows())
        found = filters.apply(read, (*_held_out(recipe, source.file), *stage.filters), where=stream.path.name)
        rows += found.rows
        notices += found.notices
        files.append(
            FileRead(
                path=stream.path, shape=stream.shape, rows=len(found.rows), dropped=filters.tally(found.dropped),
                listed=list_dropped(found.dropped), cached=False,
            )
        )  # fmt: skip
    if not rows:
        names = ", ".join(source.file.name for source in stage.data)
        raise DataError(f"{names}: no tasks are left; expected at least one for technique {stage.technique}")
    knowledge = _know(stage, renderer, exams, len(rows))
    findings = _findings((inspect(row, None, knowledge) for row in rows), knowledge)
    tasks = _different(rows)
    with with_codes():
        prompts = tuple(renderer.prompt(row.prompt, tools=row.tools, where=row.origin) for row in tasks)
    return Inventory(
        domain=(), general=(), tasks=tasks, prompts=prompts, files=tuple(files), findings=findings,
        notices=tuple(notices),
    )  # fmt: skip


def _know(stage: Stage, renderer: Renderer, exams: Exams, rows: int) -> Knowledge:
    """What the linter has to know of about so many rows."""
    return know(
        exam=exams.rows, probes=exams.probes, marks=Marks.of(renderer), technique=stage.technique, rows=rows
    )  # fmt: skip


def _different(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Of copies the first; rows of one content that carry other columns for a reward to read are all kept."""
    kept: dict[str, Row] = {}
    for row in rows:
        named = _told_apart(row, kept)
        kept.setdefault(named.id, named)
    return tuple(kept.values())


def _told_apart(row: Row, kept: Mapping[str, Row]) -> Row:
    """The row, under an id of its own where another one of the same content has other columns for a reward to read."""
    other = kept.get(row.id)
    if other is None or _columns(other) == _columns(row):
        return row
    text = json.dumps([row.id, _columns(row)], sort_keys=True, default=str)
    return replace(row, id=hashlib.sha256(text.encode()).hexdigest()[:16])


def _columns(row: Row) -> Mapping[str, object]:
    return {name: value for name, value in row.fields.items() if name != "id"}


def _streams(stage: Stage) -> Iterator[tuple[DataFile, Stream]]:
    """Every source of the stage, refused when the technique cannot learn from its rows."""
    for source in stage.data:
        for stream in documents.open_tables(source.file, source.columns):
            if not _suits(stage.learns, stream.shape):
                what, how = FITS[stage.learns]
                better = BETTER.get(stream.shape, BETTER[""])
                raise DataError(
                    f"{stream.path}: found {better}; expected {what} for technique {stage.technique} ({how})"
                )
            yield source, stream


def _suits(learns: Learns, shape: str) -> bool:
    match learns:
        case "pairs":
            return shape == "chosen/rejected"
        case "text":
            return shape in ("text", "documents")
        case "tasks":
            return shape not in ("text", "documents", "chosen/rejected")
        case "answers":
            return shape not in ("task", "prompt", "chosen/rejected", "text", "documents")


def _job(recipe: Recipe, stage: Stage, file: Path, stream: Stream, base: Base, name: str) -> Job:
    """How a file of the stage becomes tokens; what a probe holds out of the same file is left out first."""
    return Job(
        source=stream, name=name, folder=base.folder, train_on=getattr(stage, "train_on", "all"),
        max_length=None if stage.learns == "text" else stage.max_length,
        filters=(*_held_out(recipe, file), *stage.filters),
        pairs=stage.learns == "pairs",
    )  # fmt: skip


def _held_out(recipe: Recipe, file: Path) -> list[HeldOut]:
    """What leaves out the rows of a file that a probe asks."""
    return [
        HeldOut(share=probe.split, group=probe.group)
        for probe in recipe.probes.domain
        if probe.split is not None and probe.file == file
    ]


def _name(stream: Stream, taken: Sequence[Job]) -> str:
    """The file's name, with its folder where two files have the same; with its suffix it is no general source's."""
    names = {job.name for job in taken}
    return str(Path(*stream.path.parts[-2:])) if stream.path.name in names else stream.path.name


def _guess(stream: Stream) -> int:
    return stream.path.stat().st_size // BYTES_PER_ROW if stream.path.is_file() else 0


def _read(stored: Stored, stream: Stream, stage: Stage) -> FileRead:
    """What became of a file; refused when a row of it cannot be used, or none is left."""
    meta, store = stored.store.meta, stored.store
    if meta.faults:
        more = meta.faults - len(meta.shown)
        with with_codes():
            raise DataError("\n".join([*store.faults(), *[f"... and {more} more rows of this file"][: more > 0]]))
    dropped = {name: dict(reasons) for name, reasons in meta.dropped.items()}
    if not len(store):
        filters.notices(dropped, _count(dropped), where=stream.path.name)
        raise DataError(f"{stream.path}: empty, no rows; expected at least one for technique {stage.technique}")
    return FileRead(
        path=stream.path, shape=stream.shape, rows=len(store) // (2 if meta.pairs else 1), dropped=dropped,
        listed=store.folder / "dropped.jsonl", cached=stored.cached,
    )  # fmt: skip


def _count(dropped: Mapping[str, Mapping[str, int]]) -> int:
    return sum(count for reasons in dropped.values() for count in reasons.values())


def _notes(jobs: Sequence[Job], stage: Stage, renderer: Renderer, exams: Exams) -> Path:
    """Where the linter's findings about files are kept: they follow from the rows and what must not be learnt."""
    held = [[row.id, row.origin] for row in exams.rows]
    read = [[job.key(renderer), str(job.source.path)] for job in jobs]
    key = json.dumps([stage.technique, read, held, exams.probes], default=list)
    return fetch.cache_dir() / "lint" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def _recall(notes: Path) -> list[Finding]:
    return [Finding(**fields) for fields in json.loads(notes.read_text(encoding="utf-8"))]


def _findings(facts: Iterable[RowFacts], knowledge: Knowledge) -> tuple[Finding, ...]:
    """The linter's warnings; its errors end here."""
    found = conclude(facts, knowledge)
    if errors := [f for f in found if f.level == "error"]:
        raise as_error(errors)
    return found


def _keep(notes: Path, found: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """The findings, written down for the next start."""
    notes.parent.mkdir(parents=True, exist_ok=True)
    with fetch.replacing(notes) as file:
        file.write(json.dumps([asdict(f) for f in found]).encode())
    return found


def refuse_cut(inventory: Inventory, context: int | None) -> None:
    """Refuses rows of answers and prompts with more tokens than the model can read; documents are cut into windows."""
    if context is None:
        return
    faults: list[Fault] = []
    for rows in inventory.domain:
        sizes = lengths(rows.datums)
        for at in np.flatnonzero(sizes > context).tolist():
            found = (
                f"{sizes[at]} tokens up to the last one to learn; expected at most {context}, all the model can read"
            )
            faults.append(_too_long(rows.datums[at].row, found))
    for task, prompt in zip(inventory.tasks, inventory.prompts, strict=True):
        if len(prompt) >= context:
            found = f"a prompt of {len(prompt)} tokens; expected fewer than {context}, all the model can read"
            faults.append(_too_long(task.origin, found))
    with with_codes():
        refuse(faults)


def _too_long(origin: str, found: str) -> Fault:
    return Fault(row=0, origin=origin, problem=f"{found}; shorten or delete the row, or choose a base that reads more")


def shares(inventory: Inventory, share: float, weights: Mapping[str, float]) -> dict[str, float]:
    """Share of each source in the supervised tokens: domain files by size, general sources by name or category.

    Within a category the base's own answers and the catalogue's rows stand in for each other as their sizes allow:
    own answers first, since rows of a foreign style pull the model away from itself. A category of which nothing is
    left beside the sources that are named themselves gives its part to the others.
    """
    total = sum(count_supervised(rows.datums) for rows in inventory.domain)
    result = {rows.name: (1 - share) * count_supervised(rows.datums) / total for rows in inventory.domain}
    categories = {rows.category for rows in inventory.general}
    named = {rows.name for rows in inventory.general if rows.name in weights and rows.name not in categories}
    members = {
        name: [r for r in inventory.general if (r.name == name if name in named else _is_of(r, name, named))]
        for name in weights
    }
    usable = sum(part for name, part in weights.items() if members[name])
    for name, part in weights.items():
        own = [rows for rows in members[name] if rows.is_own]
        foreign = [rows for rows in members[name] if not rows.is_own]
        own_part = OWN_PART if own and foreign else float(bool(own))
        for group, fraction in ((own, own_part), (foreign, 1 - own_part)):
            for rows in group:
                result[rows.name] = share * part / usable * fraction / len(group) if usable else 0.0
    return result


def _is_of(rows: Rows, category: str, named: Collection[str]) -> bool:
    return rows.category == category and rows.name not in named
