"""Suites: named lists of probes, the preparation of their items, and the one function that puts them to a model.

Results are cached per item, so the selection split computes only what the quick split has not seen, and a base model
is never asked twice. The caller names the cache folder by the content of the weights: a folder belongs to one model.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from temper.data import catalog
from temper.errors import DataError
from temper.probes import base, drift, formats, generate, ifeval, kinds, lm_eval, loss, own
from temper.probes.base import Item, Kind, Measured, Outcome, Part, Probe, ProbeSpec, Where
from temper.probes.kinds import KINDS as KINDS

if TYPE_CHECKING:
    from temper.data.render import Renderer
    from temper.events import Split
    from temper.model.protocol import Policy

Progress = Callable[[str, int, int], None]
"""Told the probe that begins, its place from 0, and how many there are."""
TASK_PREFIX = "lm-eval:"
PACKAGED: Mapping[str, str] = {
    "benign": "benign.jsonl", "formats": "formats.jsonl", "formats_basic": "formats.jsonl",
    "formats_more": "formats_more.jsonl", "format_pairs": "format_pairs.jsonl",
}  # fmt: skip


def load_suite(name: str | Path) -> tuple[ProbeSpec, ...]:
    """The probes of a built-in suite, of a suite file (`.toml`), of own items (`.jsonl`), or `lm-eval:TASK`."""
    path = Path(name)
    if str(name).startswith(TASK_PREFIX):
        task = str(name).removeprefix(TASK_PREFIX)
        return (spec_of(str(name), {"name": task, "kind": lm_eval.KIND, "task": task}, None),)
    if path.suffix == ".jsonl":
        return own.read_specs(path)
    if path.suffix == ".toml":
        return _parse_suite(str(path), own.read_text(path), folder=path.parent)
    folder = resources.files("temper.probes") / "suites"
    known = sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))
    if str(name) not in known:
        raise DataError(
            f"suite {str(name)!r}: not a built-in suite; expected one of {', '.join(known)}, a .toml or .jsonl file,"
            f" or {TASK_PREFIX}TASK"
            f"{_suggest(str(name), known)}"
        )
    return _parse_suite(str(name), (folder / f"{name}.toml").read_text(encoding="utf-8"), folder=None)


def is_suite(name: str) -> bool:
    """Whether a name is that of a suite (or of a task of lm-eval), not of a file of rows."""
    return name.startswith(TASK_PREFIX) or Path(name).suffix in ("", ".toml")


def load_items(spec: ProbeSpec) -> tuple[Item, ...]:
    """All items of a probe's source: the catalogue, a file of this package, or a path."""
    if spec.kind.startswith(lm_eval.KIND):
        return lm_eval.load_items(spec)
    if spec.source.endswith(".jsonl"):
        return own.read_items(Path(spec.source), spec.kind)
    if spec.source in PACKAGED:
        file = resources.files("temper.probes") / "data" / PACKAGED[spec.source]
        items = (json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line)
        return tuple(item for item in items if spec.source != "formats_basic" or formats.is_basic(item))
    items = tuple({**item, "id": str(item["id"])} for item in catalog.load(spec.source))
    return tuple(i for i in items if ifeval.is_checkable(i)) if spec.kind == "instructions" else items


def prepare(
    policy: Policy,
    renderer: Renderer,
    specs: Sequence[ProbeSpec],
    *,
    cache: Path | None,
    progress: Progress | None = None,
) -> tuple[Probe, ...]:
    """Items for every probe, both halves; `policy` is the base, which writes the answers it must later not forget.

    Args:
        policy: The untouched base model.
        renderer: Its chat template and tokenizer.
        specs: The probes of one or more suites.
        cache: Folder of the base model's results; its own answers are kept there.
        progress: Called before each probe.
    """
    probes: list[Probe] = []
    for number, spec in enumerate(specs):
        if progress:
            progress(f"items of probe {spec.name}", number, len(specs))
        items = load_items(spec)
        for split in ("selection", "test"):
            if not base.take(items, split, spec.items):
                raise DataError(
                    f"{spec.source}: {len(items)} items leave the {split} half of probe {spec.name!r} empty; expected"
                    " at least 16; add items or remove the probe"
                )
        reserve = _reserve(spec, items)
        items = (*base.take(items, "selection", spec.items), *base.take(items, "test", spec.items))
        if kinds.kind(spec.kind).answers:
            items = _answered(policy, renderer, spec, items, cache)
        if spec.kind == lm_eval.KIND:
            spec = dataclasses.replace(spec, kind=lm_eval.resolved(spec, items))
        probes.append(Probe(spec=spec, items=items, reserve=reserve))
    return tuple(probes)


def run_suite(
    policy: Policy,
    renderer: Renderer,
    probes: Sequence[Probe],
    *,
    split: Part,
    where: Where,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> list[Measured]:
    """Puts every probe to the model; items whose results are in the cache folder of this model are not asked again.

    A `closer` look is one at the selection split. The seconds of a measurement are those spent now: 0 when everything
    was known.
    """
    found: list[Measured] = []
    probes = [p for p in probes if split != "quick" or p.spec.quick != 0]
    for number, probe in enumerate(probes):
        if progress:
            progress(probe.spec.name, number, len(probes))
        kind = kinds.kind(probe.spec.kind)
        items = _asked(probe, split)
        results = _Results(cache, probe.spec, kind)
        known = results.known(items)
        missing = [i for i in items if i["id"] not in known]
        seconds = 0.0
        if missing:
            started = time.perf_counter()
            results.add(missing, kind.score(policy, renderer, probe.spec, missing))
            seconds = time.perf_counter() - started
            known = results.known(items)
        outcomes = [known[i["id"]] for i in items]
        half: Split = "selection" if split == "closer" else split
        found.append(base.measured(probe.spec, kind, outcomes, split=half, where=where, seconds=seconds))
    return found


def _asked(probe: Probe, part: Part) -> tuple[Item, ...]:
    """The items of a part, in a fixed order."""
    if part == "closer":
        return _asked(probe, "selection") + probe.reserve
    return base.take(probe.items, part, probe.spec.size(part))


def _reserve(spec: ProbeSpec, items: Sequence[Item]) -> tuple[Item, ...]:
    """The items for a closer look: what the source has beyond those of the selection half, then those of `more`."""
    if not spec.reserve:
        return ()
    further = base.take(items, "selection", 0)[spec.items :] if spec.items else ()
    if spec.more and len(further) < spec.reserve:
        further += base.take(load_items(dataclasses.replace(spec, source=spec.more)), "selection", 0)
    return further[: spec.reserve]


class _Results:
    """Outcomes of one probe on one model, by the content of the item; a file when there is a cache folder."""

    def __init__(self, cache: Path | None, spec: ProbeSpec, kind: Kind) -> None:
        self._path = cache / f"{Path(spec.name).name}-{base.key(spec, kind.version)}.jsonl" if cache else None
        self._outcomes: dict[str, Outcome] = {}
        if self._path and self._path.exists():
            for line in self._path.read_text(encoding="utf-8", errors="replace").split("\n"):
                self._read(line)

    def known(self, items: Sequence[Item]) -> dict[str, Outcome]:
        """Outcomes of those items that have one, by item id."""
        keys = {i["id"]: base.digest(dict(i)) for i in items}
        return {name: self._outcomes[key] for name, key in keys.items() if key in self._outcomes}

    def add(self, items: Sequence[Item], outcomes: Sequence[Outcome]) -> None:
        """Remembers new outcomes, appending them to the file."""
        fresh = {base.digest(dict(i)): o for i, o in zip(items, outcomes, strict=True)}
        self._outcomes |= fresh
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lines = (json.dumps({"key": k, **dataclasses.asdict(o)}, ensure_ascii=False) for k, o in fresh.items())
            with self._path.open("a", encoding="utf-8") as file:
                file.write("".join(f"\n{line}" for line in lines))

    def _read(self, line: str) -> None:
        try:
            fields = json.loads(line)
        except ValueError:
            return  # the empty first line, or one cut off by a kill: its item is asked again
        key = fields.pop("key")
        self._outcomes[key] = Outcome(**fields)


def _answered(
    policy: Policy, renderer: Renderer, spec: ProbeSpec, prompts: Sequence[Item], cache: Path | None
) -> tuple[Item, ...]:
    """The items with the base model's replies, from the cache folder when they were made before."""
    kind = kinds.kind(spec.kind)
    longest = spec.max_new_tokens or loss.OWN_ANSWER_TOKENS
    # Kinds that read sampled answers share them: the name says how they were made, not who reads them.
    maker = dataclasses.replace(
        spec, kind="greedy" if kind.answers == "greedy" else "own-answers", max_new_tokens=longest, options={}
    )

    def write() -> tuple[Item, ...]:
        if kind.answers != "greedy":
            return loss.own_answers(policy, renderer, prompts, max_new_tokens=longest)
        written = generate.replies(policy, renderer, prompts, max_new_tokens=longest)
        return tuple({**prompt, "reply": reply} for prompt, reply in zip(prompts, written, strict=True))

    items = _kept(cache / f"own-answers-{base.key(maker, 1, prompts)}.json" if cache else None, write)
    if kind.answers != "weighed":
        return items
    path = cache / f"likely-{base.key(spec, kind.version, items)}.json" if cache else None
    return _kept(path, lambda: drift.weighed(policy, renderer, spec, items))


def _kept(path: Path | None, make: Callable[[], tuple[Item, ...]]) -> tuple[Item, ...]:
    """Items from a file of the cache, made and written there first where it is not there yet."""
    if path and path.exists():
        return tuple(json.loads(path.read_text(encoding="utf-8")))
    items = make()
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")
        part.replace(path)
    return items


def _parse_suite(name: str, text: str, *, folder: Path | None) -> tuple[ProbeSpec, ...]:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{name}: not TOML: {error}; correct that line") from None
    if "like" in table:
        return tuple(
            dataclasses.replace(s, items=s.size("quick"), quick=s.size("quick"), reserve=0)
            for s in load_suite(table["like"])
            if s.quick != 0
        )
    if not table.get("probe"):
        raise DataError(f"{name}: found no [[probe]] table; expected one per probe; copy one from the suite core")
    return tuple(spec_of(f"{name}: probe[{n}]", fields, folder) for n, fields in enumerate(table["probe"]))


def spec_of(where: str, fields: Mapping[str, Any], folder: Path | None) -> ProbeSpec:
    """One probe as a suite file or a recipe writes it; keys that are no field of `ProbeSpec` are options of its kind.

    Args:
        where: Dotted path for messages, e.g. `probes.general.1`.
        fields: As written.
        folder: What paths are relative to; None for a suite of the package.
    """
    known = {f.name: f for f in dataclasses.fields(ProbeSpec) if f.name != "options"}
    named = fields.get("kind", "")
    if not isinstance(named, str) or (named and ":" not in named and named not in (*kinds.KINDS, *kinds.known())):
        hint = _suggest(str(named), kinds.known())
        raise DataError(f"{where}.kind: found {named!r}; expected one of {', '.join(kinds.known())}{hint}")
    kind = kinds.absolute(named, folder)
    options = {n: v for n, v in fields.items() if n not in known}
    allowed = kinds.kind(kind).options if kind else {}
    for name in options:
        if name not in allowed:
            expected = ", ".join((*known, *allowed))
            raise DataError(f"{where}.{name}: unknown key; expected {expected}{_suggest(name, (*known, *allowed))}")
    for name, value in fields.items():
        if name in options:
            continue
        if known[name].type == "int":
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise DataError(f"{where}.{name}: found {value!r}; expected a count, such as 80")
        elif not isinstance(value, str):
            raise DataError(f"{where}.{name}: found {value!r}; expected text in quotation marks")
    if kind:
        kinds.check_options(where, kind, options)
    if kind == lm_eval.KIND:
        fields = {"source": f"lm-eval:{options['task']}", "axis": "knowledge", **fields}
    if "source" not in fields:
        fields = {**own.OF_THE_BASE.get(kind, {}), **fields}
    for name in ("name", "axis", "kind", "source"):
        if name not in fields:
            raise DataError(f'{where}: found no {name}; expected {name} = "..."; add it')
    if fields.get("reserve") and kind and kinds.kind(kind).answers:
        raise DataError(
            f"{where}.reserve: found {fields['reserve']}; expected none, since a probe of kind {kind!r} asks about "
            "what the base has written before anything is measured; raise items instead"
        )
    taken = {n: v for n, v in fields.items() if n in known}
    for name in ("source", "more"):
        if folder and str(taken.get(name, "")).endswith(".jsonl"):
            taken[name] = str(folder / taken[name])
    if folder and options.get("folder"):
        options["folder"] = str(folder / Path(str(options["folder"])).expanduser())
    return ProbeSpec(**{**taken, "kind": kind, "options": options})


def _suggest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
