"""Inventory: the rows a stage can draw on, rendered, before anything is decided. What `check` prints and `run` mixes.

Domain rows come from the recipe's files, general rows from the catalogue and from the base model's own answers.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from temper.calibrate import rules
from temper.data import catalog, replay
from temper.data.datum import Datum, count_supervised, count_tokens
from temper.data.lint import Finding, lint
from temper.data.render import Renderer, TrainOn
from temper.data.rows import Message, Row, Table, read_table
from temper.errors import DataError
from temper.events import Role
from temper.model.protocol import Base, Completion, Policy, Sampling, Shape, Tokens
from temper.recipe.facts import Facts
from temper.recipe.schema import Recipe, Stage

OWN_ANSWER_TOKENS = 72
"""Longest answer that the base writes for its own replay."""
OWN_PROMPTS = 400
"""Prompts it answers, over all categories."""
REFUSAL_SOURCE = "safety"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """One source of rows, rendered."""

    name: str
    role: Role
    category: str
    origin: str
    licence: str
    datums: tuple[Datum, ...]
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """Everything a stage can learn from."""

    domain: tuple[Rows, ...]
    general: tuple[Rows, ...]
    tables: tuple[Table, ...]
    """The domain files as they were understood."""
    findings: tuple[Finding, ...]

    def facts(self, shape: Shape, exam_rows: int) -> Facts:
        """What `resolve` needs to know."""
        domain = [d for rows in self.domain for d in rows.datums]
        general = [d for rows in self.general for d in rows.datums]
        available: dict[str, int] = {}
        for rows in self.general:
            available[rows.category] = available.get(rows.category, 0) + count_supervised(rows.datums)
        return Facts(
            params=shape.params, hidden=shape.hidden, layers=shape.layers, architecture=shape.architecture,
            train_rows=len(domain), domain_supervised=count_supervised(domain), domain_tokens=count_tokens(domain),
            longest_row=max(len(d.tokens) for d in [*domain, *general]), available_replay=available,
            exam_rows=exam_rows, device=shape.device, cores=os.cpu_count() or 1, context_length=shape.context,
            replay_tokens=count_tokens(general),
        )  # fmt: skip


def take_stock(
    recipe: Recipe, stage: Stage, base: Base, renderer: Renderer, *, exam: Sequence[Row], answer: Callable[[], Policy],
    progress: Progress | None = None,
) -> Inventory:  # fmt: skip
    """Reads, renders and checks every row that the stage may draw on.

    Args:
        recipe: For the names of paths in messages.
        stage: Whose data are wanted.
        base: The model that the run starts from.
        renderer: Of that model.
        exam: Rows of the domain probes, which must not be learnt.
        answer: Opens the base model; called only when it must still write its own answers.
        progress: Told (what, done, of) while answers are written.
    """
    tables = tuple(read_table(source.file, columns=source.columns) for source in stage.data)
    domain = tuple(_domain(table, stage, renderer) for table in tables)
    trained = [row for table in tables for row in table.rows]
    findings = lint(trained, exam)
    errors = [f for f in findings if f.level == "error"]
    if errors:
        raise DataError("\n".join(f"{f.where}: [{f.code}] {f.what}; {f.why}; {f.fix}" for f in errors))
    wanted = stage.replay is not None and stage.replay.share != 0
    general = _general(recipe, base, renderer, answer, progress) if wanted else ()
    return Inventory(domain=domain, general=general, tables=tables, findings=findings)


def _domain(table: Table, stage: Stage, renderer: Renderer) -> Rows:
    train_on: TrainOn = getattr(stage, "train_on", "all")
    longest: int | None = getattr(stage, "max_length", None)
    name = table.path.name  # with its suffix it cannot be the name of a general source
    datums = [renderer.datum(r, source=name, train_on=train_on, max_length=longest) for r in table.rows]
    return Rows(
        name=name, role="domain", category="domain", origin=table.path.name, licence="yours",
        datums=tuple(datums), fingerprint=table.fingerprint[:16],
    )  # fmt: skip


def _general(
    recipe: Recipe, base: Base, renderer: Renderer, answer: Callable[[], Policy], progress: Progress | None
) -> tuple[Rows, ...]:
    """Catalogue rows and the base's own answers, one source per category and origin."""
    found: list[Rows] = []
    for source in catalog.sources().values():
        if source.role == "train" and source.category != "instruction":  # that one has prompts without answers
            items = cast("list[catalog.TrainRow]", catalog.load(source.name))
            rows = [
                _row(item["id"], [Message(**m) for m in item["messages"]], f"catalogue {source.name}") for item in items
            ]
            origin = f"{source.archive.package} {source.archive.version}" if source.archive else "made here"
            found.append(_rows(source.name, source.category, origin, source.licence, rows, renderer))
    answers = own_answers(base, renderer, answer, recipe.seed, progress)
    for category in replay.CATEGORIES:
        rows = [_row(f"{n}", a.messages, "own answers") for n, a in enumerate(answers) if a.category == category]
        if rows:
            found.append(
                _rows(f"own-{category}", category, "the base model's own answers", "as the model", rows, renderer)
            )
    return tuple(found)


def own_answers(
    base: Base, renderer: Renderer, answer: Callable[[], Policy], seed: int, progress: Progress | None
) -> list[replay.Answer]:
    """The base model's answers to general prompts: shipped, cached, or written now."""
    shipped = replay.shipped(base.sha256)
    if shipped is not None:
        return replay.read(shipped)
    table = rules.read_table().sft
    weights = rules.normalised({c: w for c, w in dict(table.replay_categories.value).items() if c != REFUSAL_SOURCE})
    asked = [p for category, part in weights.items() for p in replay.prompts(category, round(OWN_PROMPTS * part), seed)]
    origin = replay.Origin(base=base.sha256, max_new_tokens=OWN_ANSWER_TOKENS, seed=seed)
    to = replay.path_for(origin, asked)
    if not to.is_file():
        policy = answer()

        def complete(prompts: Sequence[Tokens], seed: int) -> Sequence[Completion]:
            sampling = Sampling(max_new_tokens=OWN_ANSWER_TOKENS, temperature=1.0, seed=seed, stop=renderer.end_tokens)
            return policy.sampler.generate(prompts, sampling)

        def told(done: int, of: int) -> None:
            if progress:
                progress("the base writes its own replay", done, of)

        replay.generate(complete, renderer, asked, origin=origin, to=to, progress=told)
    return replay.read(to)


def _row(identity: str, messages: Sequence[Message], origin: str) -> Row:
    turns = tuple(messages)
    return Row(id=identity, messages=turns, origin=f"{origin}:{identity}", reference=turns[-1].content)


def _rows(name: str, category: str, origin: str, licence: str, rows: Sequence[Row], renderer: Renderer) -> Rows:
    datums = tuple(renderer.datum(row, source=name) for row in rows)
    digest = hashlib.sha256("".join(str(d.tokens) for d in datums).encode()).hexdigest()
    return Rows(
        name=name,
        role="general",
        category=category,
        origin=origin,
        licence=licence,
        datums=datums,
        fingerprint=digest[:16],
    )


def shares(inventory: Inventory, share: float, by_category: Mapping[str, float]) -> dict[str, float]:
    """Share of each source in the supervised tokens: domain files by size, general sources by category.

    Within a category the base's own answers and the catalogue's rows stand in for each other as their sizes allow:
    own answers first, since rows of a foreign style pull the model away from itself.
    """
    result: dict[str, float] = {}
    total = sum(count_supervised(rows.datums) for rows in inventory.domain)
    for rows in inventory.domain:
        result[rows.name] = (1 - share) * count_supervised(rows.datums) / total
    for category, part in by_category.items():
        sources = [rows for rows in inventory.general if rows.category == category]
        own = [rows for rows in sources if rows.name.startswith("own-")]
        foreign = [rows for rows in sources if not rows.name.startswith("own-")]
        own_part = OWN_PART if own and foreign else float(bool(own))
        for group, fraction in ((own, own_part), (foreign, 1 - own_part)):
            for rows in group:
                result[rows.name] = share * part * fraction / len(group)
    return result


OWN_PART = 0.75
"""Part of a category's replay that is the base's own answers, where the catalogue has rows too."""
