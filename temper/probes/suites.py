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
from temper.probes import base, choice, domain, formats, generate, loss, refusal
from temper.probes.base import Item, Kind, Measured, Outcome, Probe, ProbeSpec, Where

if TYPE_CHECKING:
    from temper.data.render import Renderer
    from temper.events import Split
    from temper.model.protocol import Policy

Progress = Callable[[str, int, int], None]
"""Told the probe that begins, its place from 0, and how many there are."""
PACKAGED: Mapping[str, str] = {
    "benign": "benign.jsonl", "formats": "formats.jsonl", "formats_basic": "formats.jsonl",
    "format_pairs": "format_pairs.jsonl",
}  # fmt: skip
KINDS: Mapping[str, Kind] = {
    "text": Kind(score=loss.text, method="loss", metric="bits per byte", needs=("text",)),
    "continuation": Kind(score=loss.continuation, method="loss", metric="bits per byte", needs=("context", "text")),
    "own-answers": Kind(score=loss.own_answer, method="loss", metric="bits per byte", needs=("prompt",)),
    "choice": Kind(score=choice.choice, method="choice", metric="soft accuracy", needs=("context", "options", "gold")),
    "reply-choice": Kind(
        score=choice.reply_choice, method="choice", metric="soft accuracy", needs=("prompt", "options", "gold")
    ),
    "contrast": Kind(
        score=choice.contrast, method="choice", metric="soft preference", needs=("prompt", "plain", "options", "gold")
    ),
    "formats": Kind(score=generate.formats, method="generate", metric="pass rate", needs=("prompt", "checks")),
    "refusal": Kind(score=refusal.refusal, method="generate", metric="refusal rate", needs=("prompt",), version=2),
    "over-refusal": Kind(
        score=refusal.over_refusal, method="generate", metric="compliance rate", needs=("prompt",), version=2
    ),
    "exact": Kind(score=domain.exact, method="generate", metric="exact", needs=("messages", "reference")),
    "json": Kind(score=domain.json_object, method="generate", metric="json", needs=("messages", "reference")),
}


def load_suite(name: str | Path) -> tuple[ProbeSpec, ...]:
    """The probes of a built-in suite, of a suite file (`.toml`), or of one file of own items (`.jsonl`)."""
    path = Path(name)
    if path.suffix == ".jsonl":
        return (_spec_of_items(path),)
    if path.suffix == ".toml":
        return _parse_suite(str(path), _text(path), folder=path.parent)
    folder = resources.files("temper.probes") / "suites"
    known = sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))
    if str(name) not in known:
        raise DataError(
            f"suite {str(name)!r}: not a built-in suite; expected one of {', '.join(known)}, or a .toml or .jsonl file"
            f"{_suggest(str(name), known)}"
        )
    return _parse_suite(str(name), (folder / f"{name}.toml").read_text(encoding="utf-8"), folder=None)


def load_items(spec: ProbeSpec) -> tuple[Item, ...]:
    """All items of a probe's source: the catalogue, a file of this package, or a path."""
    if spec.source.endswith(".jsonl"):
        return _read_items(Path(spec.source), KINDS[spec.kind].needs)
    if spec.source in PACKAGED:
        file = resources.files("temper.probes") / "data" / PACKAGED[spec.source]
        items = (json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line)
        return tuple(item for item in items if spec.source != "formats_basic" or formats.is_basic(item))
    return tuple({**item, "id": str(item["id"])} for item in catalog.load(spec.source))


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
            progress(spec.name, number, len(specs))
        items = load_items(spec)
        for split in ("selection", "test"):
            if not base.take(items, split, spec.items):
                raise DataError(
                    f"{spec.source}: {len(items)} items leave the {split} half of probe {spec.name!r} empty; expected"
                    " at least 16; add items or remove the probe"
                )
        items = (*base.take(items, "selection", spec.items), *base.take(items, "test", spec.items))
        if spec.kind == "own-answers":
            items = _own_answers(policy, renderer, spec, items, cache)
        probes.append(Probe(spec=spec, items=items))
    return tuple(probes)


def run_suite(
    policy: Policy,
    renderer: Renderer,
    probes: Sequence[Probe],
    *,
    split: Split,
    where: Where,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> list[Measured]:
    """Puts every probe to the model; items whose results are in the cache folder of this model are not asked again.

    The seconds of a measurement are those spent now: 0 when everything was known.
    """
    found: list[Measured] = []
    probes = [p for p in probes if split != "quick" or p.spec.quick != 0]
    for number, probe in enumerate(probes):
        if progress:
            progress(probe.spec.name, number, len(probes))
        kind = KINDS[probe.spec.kind]
        items = base.take(probe.items, split, probe.spec.size(split))
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
        found.append(base.measured(probe.spec, kind, outcomes, split=split, where=where, seconds=seconds))
    return found


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


def _own_answers(
    policy: Policy, renderer: Renderer, spec: ProbeSpec, prompts: Sequence[Item], cache: Path | None
) -> tuple[Item, ...]:
    """The base model's answers to the prompts, from the cache folder when they were made before."""
    path = cache / f"own-answers-{base.key(spec, KINDS[spec.kind].version, prompts)}.json" if cache else None
    if path and path.exists():
        return tuple(json.loads(path.read_text(encoding="utf-8")))
    items = loss.own_answers(policy, renderer, prompts, max_new_tokens=spec.max_new_tokens or loss.OWN_ANSWER_TOKENS)
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
            dataclasses.replace(s, items=s.size("quick"), quick=s.size("quick"))
            for s in load_suite(table["like"])
            if s.quick != 0
        )
    if not table.get("probe"):
        raise DataError(f"{name}: found no [[probe]] table; expected one per probe; copy one from the suite core")
    return tuple(_spec(f"{name}: probe[{n}]", fields, folder) for n, fields in enumerate(table["probe"]))


def _spec(where: str, fields: Mapping[str, Any], folder: Path | None) -> ProbeSpec:
    known = {f.name: f for f in dataclasses.fields(ProbeSpec)}
    for name, value in fields.items():
        if name not in known:
            raise DataError(f"{where}.{name}: unknown key; expected {', '.join(known)}{_suggest(name, known)}")
        if known[name].type == "int":
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise DataError(f"{where}.{name}: found {value!r}; expected a count, such as 80")
        elif not isinstance(value, str):
            raise DataError(f"{where}.{name}: found {value!r}; expected text in quotation marks")
    for name in ("name", "axis", "kind", "source"):
        if name not in fields:
            raise DataError(f'{where}: found no {name}; expected {name} = "..."; add it')
    kind = fields["kind"]
    if kind not in KINDS:
        raise DataError(f"{where}.kind: found {kind!r}; expected one of {', '.join(KINDS)}{_suggest(kind, KINDS)}")
    source = fields["source"]
    if folder and source.endswith(".jsonl"):
        source = str(folder / source)
    return ProbeSpec(**{**fields, "source": source})


def _spec_of_items(path: Path) -> ProbeSpec:
    """A probe of own items, its kind told by the fields of the first one."""
    first = _read_items(path, ())[0]
    for kind, axis in (("choice", "knowledge"), ("reply-choice", "knowledge"), ("formats", "instruction"),
                       ("continuation", "language"), ("text", "language")):  # fmt: skip
        if all(name in first for name in KINDS[kind].needs):
            return ProbeSpec(name=path.stem, axis=axis, kind=kind, source=str(path), max_new_tokens=32)
    found = ", ".join(name for name in first if name != "id")
    raise DataError(
        f"{path}:1: found the fields {found}; expected context, options and gold; or prompt, options and"
        " gold; or prompt and checks; or text, with or without context; rename the fields"
    )


def _read_items(path: Path, needs: Iterable[str]) -> tuple[Item, ...]:
    """Items of a file, each with an id; a row that cannot be used is named."""
    items: list[Item] = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{number}: not JSON: {error}; correct the line") from None
        if not isinstance(item, dict):
            raise DataError(f"{path}:{number}: found {type(item).__name__}; expected a JSON object; correct the line")
        absent = [n for n in needs if not item.get(n) and item.get(n) != 0]
        if absent:
            raise DataError(f"{path}:{number}: found no {absent[0]}; expected {', '.join(needs)}; complete the line")
        if "options" in item and not _options_fit(item):
            raise DataError(f"{path}:{number}: found gold {item.get('gold')!r}; expected the number, from 0, of one of"
                            " at least two different options; correct the line")  # fmt: skip
        items.append({**item, "id": str(item["id"]) if "id" in item else base.digest(item)})
    if not items:
        raise DataError(f"{path}: an empty file; expected one JSON object per line; add items")
    return tuple({i["id"]: i for i in items}.values())


def _options_fit(item: Item) -> bool:
    options, gold = item["options"], item.get("gold")
    return (
        isinstance(options, list) and len(options) >= 2 and all(isinstance(o, str) and o.strip() for o in options)
        and isinstance(gold, int) and 0 <= gold < len(options)
    )  # fmt: skip


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected a suite (.toml) or items (.jsonl); check the path") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; expected UTF-8 text; convert the file") from None


def _suggest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
