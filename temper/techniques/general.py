"""General rows: what the catalogue and the base model itself have to say, rendered, one source per name.

By default the catalogue's rows that are not optional and the base's own answers; what a recipe names beside is added.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from temper import registry
from temper.calibrate import rules
from temper.data import catalog, replay, selfplay
from temper.data.datum import Datum, count_supervised
from temper.data.lint import Finding, as_error, mix_findings
from temper.data.render import Renderer
from temper.data.rows import Message, Row
from temper.data.selfplay import CATEGORY, Author, Draw, Kind, OwnReplay
from temper.errors import DataError, MachineError, MissingExtra, RecipeError
from temper.events import Role
from temper.model.protocol import Base, Completion, Policy, Sampling, Tokens
from temper.recipe.inputs import Replay
from temper.techniques.foretell import foretell

OWN_PROMPTS = 400
"""Prompts the base answers when the recipe does not say."""
REFUSAL_SOURCE = "safety"
PROMPTS_ONLY = "chat_replay"
"""The source of the catalogue that asks and answers nothing."""
OWN = ("own-chat", "own-free", *(f"own-{category}" for category in replay.CATEGORIES))
"""Sources that the base model writes."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """One source of rows, rendered."""

    name: str
    role: Role
    category: str
    origin: str
    licence: str
    datums: Sequence[Datum]
    fingerprint: str
    is_own: bool = False
    """Whether the base model wrote it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class General:
    """All general rows that a stage may draw on."""

    rows: tuple[Rows, ...]
    notices: tuple[str, ...]
    """Sources that cannot be had here, and how to get them; kinds of its own of which the base wrote nothing usable."""


def check_names(wanted: Replay | None, *, where: str) -> None:
    """Refuses what `replay.from` names and nobody has, before a model is fetched or writes anything.

    Args:
        wanted: What the recipe says.
        where: Dotted recipe path of `from`.
    """
    known = catalog.sources(optional=True)
    train = {name for name, entry in known.items() if entry.role == "train" and name != PROMPTS_ONLY}
    categories = tuple(dict.fromkeys((*replay.CATEGORIES, *(known[name].category for name in known if name in train))))
    for name, weight in ((wanted and wanted.categories) or {}).items():
        if name in (*categories, *OWN) or name in train:
            continue
        if name == PROMPTS_ONLY:
            found = f"the source {name}, which has prompts without answers"
            raise RecipeError(
                f"{where}.{name}: found {found}; expected rows; write instruction, the base's own answers"
            )
        if name in known:
            raise as_error(mix_findings({name: weight or 1}, {}, eval_only=(name,), where=where))
        raise RecipeError(
            f"{where}.{name}: found no general data of this name; expected a category ({', '.join(categories)}) or a "
            f"source of the catalogue; {registry.hint(name, [*categories, *train, *OWN])}remove it or correct its name"
        )


def check_mix(wanted: Replay | None, rows: Sequence[Rows], *, where: str) -> tuple[Finding, ...]:
    """What `replay.from` leaves out, and its refusal where there is nothing of what it names.

    A source of the catalogue that cannot be had here is no fault of the recipe, as long as others are there.
    """
    asked = (wanted.categories if wanted is not None and wanted.share != 0 else None) or {}
    if not asked:
        return ()
    there: dict[str, int] = {}
    for source in rows:
        names = {source.name, source.category} & set(asked) or {source.category}
        for name in names:
            there[name] = there.get(name, 0) + count_supervised(source.datums)
    away = [n for n, weight in asked.items() if weight > 0 and not there.get(n) and n in catalog.sources(optional=True)]
    if away and not any(there.get(name) for name, weight in asked.items() if weight > 0):
        local = wanted.local if wanted is not None else None
        hows = "; ".join(catalog.how_to_get(name, local=local) for name in away)
        raise DataError(f"{where}: found nothing of {', '.join(away)} here; expected rows to mix; {hows}")
    found = mix_findings({n: weight for n, weight in asked.items() if n not in away}, there, where=where)
    if errors := [f for f in found if f.level == "error"]:
        raise as_error(errors)
    return found


def gather(
    wanted: Replay, base: Base, renderer: Renderer, *, seed: int, answer: Callable[[], Policy],
    progress: Progress | None = None,
) -> General:  # fmt: skip
    """Reads, or has written, everything that the recipe's replay may draw on.

    Args:
        wanted: What the recipe says.
        base: The model that the run starts from.
        renderer: Of that model.
        seed: Of the samples.
        answer: Opens the base model; called only when it must still write.
        progress: Told (what, done, of) while it writes.
    """
    rows, notices = _catalogue(wanted, renderer)
    play = wanted.own.play(seed) if wanted.own else OwnReplay(count=OWN_PROMPTS, seed=seed)
    own, unheard = _own(play, base, renderer, answer, progress)
    return General(rows=(*rows, *own), notices=(*notices, *unheard))


def _catalogue(wanted: Replay, renderer: Renderer) -> tuple[list[Rows], tuple[str, ...]]:
    """The sources that are always there, and those that the recipe names itself or by a category of their own."""
    asked = wanted.categories or {}
    usual = catalog.sources()
    held = [name for name, source in catalog.sources(optional=True).items() if source.role != "train" and name in asked]
    if held:
        raise DataError(
            f"replay.from.{held[0]}: [M003] found a source that is there to be measured on; expected rows to train on, "
            "since learning it would make the measurement worthless; take it out of the mixture"
        )
    found: list[Rows] = []
    notices: list[str] = []
    for source in catalog.sources(optional=True).values():
        named = source.name in asked or (source.category in asked and source.category not in replay.CATEGORIES)
        # The catalogue's instructions are prompts without answers: the base answers them.
        if source.role != "train" or not (named or (source.name in usual and source.category != "instruction")):
            continue
        items = _load(source, wanted, notices)
        rows = [_row_of(item, f"catalogue {source.name}") for item in items]
        if rows:
            found.append(_rows(source.name, source.category, source.where, source.licence, rows, renderer))
    return found, tuple(notices)


def _load(source: catalog.Source, wanted: Replay, notices: list[str]) -> Sequence[catalog.Item]:
    """The rows of a source, fetched where they are not here; none, and a notice, when they cannot be had."""
    here = catalog.ready(source.name, local=wanted.local)
    try:
        return catalog.load(source.name, local=wanted.local)
    except (DataError, MachineError, MissingExtra):
        if here:
            raise
        how = catalog.how_to_get(source.name, local=wanted.local)
        notices.append(f"replay.from: {source.name} cannot be had here and is not mixed; {how}")
        return ()


def _own(
    play: OwnReplay, base: Base, renderer: Renderer, answer: Callable[[], Policy], progress: Progress | None
) -> tuple[list[Rows], list[str]]:
    """What the base model wrote: shipped, cached, or written now; a notice of every kind of which nothing is left."""
    author = Author(sample=_sampler(answer), renderer=renderer, base=base.sha256, end=renderer.end_tokens)
    asked = prompts(play.seed) if "answers" in play.kinds else []
    told = foretell(play, author, asked, progress)
    paths = selfplay.generate(author, play, asked=asked, progress=_told(progress, told))
    found: list[Rows] = []
    notices: list[str] = []
    for kind, path in paths.items():
        made = _own_texts(path, renderer) if kind == "free" else _own_answers(kind, path, renderer)
        found += made
        if not made:
            what = f"none of the {play.parts()[kind]} samples of the kind {kind} was usable, so nothing of it is mixed"
            notices.append(f"replay.own: {what}; raise count or max_new_tokens, or leave the kind out")
    return found, notices


def _own_texts(path: Path, renderer: Renderer) -> list[Rows]:
    texts = selfplay.read_documents(path)
    rows = [Row(id=str(n), messages=(), origin=f"own text:{n}", text=d.text) for n, d in enumerate(texts)]
    return _own_rows("own-free", CATEGORY["free"], rows, renderer)


def _own_answers(kind: Kind, path: Path, renderer: Renderer) -> list[Rows]:
    """Answers to prompts by category; those to questions that the model asked itself in one."""
    answers = replay.read(path)
    found: list[Rows] = []
    for category in dict.fromkeys(a.category for a in answers):
        rows = [_row(str(n), a.messages, "own answers") for n, a in enumerate(answers) if a.category == category]
        found += _own_rows(f"own-{category}" if kind == "answers" else "own-chat", category, rows, renderer)
    return found


def _own_rows(name: str, category: str, rows: Sequence[Row], renderer: Renderer) -> list[Rows]:
    if not rows:
        return []
    made = _rows(name, category, "written by the base model", "as the model", rows, renderer)
    return [dataclasses.replace(made, is_own=True)]


def prompts(seed: int) -> list[replay.Prompt]:
    """What the base is asked for its own answers, in the proportions of the usual mix."""
    table = rules.read_table()
    weights = rules.normalised({c: w for c, w in dict(table.replay_categories.value).items() if c != REFUSAL_SOURCE})
    return [p for category, part in weights.items() for p in replay.prompts(category, round(OWN_PROMPTS * part), seed)]


def _sampler(answer: Callable[[], Policy]) -> selfplay.Sample:
    opened: list[Policy] = []

    def sample(prompts: Sequence[Tokens], draw: Draw) -> Sequence[Completion]:
        if not opened:
            opened.append(answer())
        return opened[0].sampler.generate(prompts, Sampling(**dataclasses.asdict(draw)))

    return sample


def _told(progress: Progress | None, head: str) -> selfplay.Progress | None:
    if progress is None:
        return None
    return lambda kind, done, of: progress(f"{head}; {kind}", done, of)


def _row_of(item: Mapping[str, object], origin: str) -> Row:
    if "messages" in item:
        turns = [Message(**turn) for turn in item["messages"]]  # pyright: ignore[reportGeneralTypeIssues]
        return _row(str(item["id"]), turns, origin)
    return Row(id=str(item["id"]), messages=(), origin=f"{origin}:{item['id']}", text=str(item["text"]))


def _row(identity: str, messages: Sequence[Message], origin: str) -> Row:
    turns = tuple(messages)
    return Row(id=identity, messages=turns, origin=f"{origin}:{identity}", reference=turns[-1].content)


def _rows(name: str, category: str, origin: str, licence: str, rows: Sequence[Row], renderer: Renderer) -> Rows:
    made = renderer.datums(rows, source=name)
    datums = tuple(datum for datum in made if isinstance(datum, Datum))
    errors = [datum for datum in made if isinstance(datum, DataError)]
    if not datums:
        raise errors[0] if errors else DataError(f"{name}: found no rows; expected some; name another source")
    digest = hashlib.sha256("".join(str(d.tokens) for d in datums).encode()).hexdigest()
    return Rows(
        name=name, role="general", category=category, origin=origin, licence=licence, datums=datums,
        fingerprint=digest[:16],
    )  # fmt: skip
