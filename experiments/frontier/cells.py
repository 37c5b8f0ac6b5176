"""Cells, methods and the recipe of one run: what the study compares. Pure; no run is started here.

A cell is a domain at a strength. A method is a way of training with its trials (settings that a careful user would try
in its place) and the candidates it may hand on. Every method gets the same rows, the same number of passes over them,
four checkpoints, temper's own rule of choice (the best domain score whose general drop surely stays within 1 %, else
the base), and, where something is tuned, the same number of trials; `temper` gets one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Literal, cast

import yaml

from experiments.frontier.domains import DOMAINS
from experiments.frontier.domains.rows import EPOCHS, Strength

Family = Literal["trained", "line", "all"]
"""Which candidates of a run are the method's: trained checkpoints, those and their lines to the base, or whatever."""
Extent = Literal["short", "whole"]
"""The short form fits into a night on two cores: see `jobs`."""
Role = Literal["ours", "variant", "tuned", "naive", "candidate", "control"]
"""`ours` is the default recipe, a `variant` the same with one thing changed that it might get."""
Settings = Mapping[str, object]
"""Keys of a stage of the recipe."""

BASE = "smollm2-135m-instruct"
DOMAIN_ROWS = 8
"""Rows of the domain in every step of the methods that are not temper's own: TRL's default batch."""
TOKENS: Mapping[str, Mapping[Strength, int]] = MappingProxyType({
    "icd10": {"light": 26_600, "hard": 38_300}, "smart-home": {"light": 29_700, "hard": 37_900},
    "address": {"light": 49_400, "hard": 51_400}, "facts": {"light": 22_800, "hard": 35_000},
})  # fmt: skip
"""Tokens of one pass, prompts included; `python -m experiments.frontier.domains --tokens`."""
PER_ROW: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"icd10": (53.2, 4.0), "smart-home": (59.4, 22.5), "address": (98.9, 44.3), "facts": (45.6, 4.8)}
)
"""Tokens of a row, and those of its answer; likewise."""
REAL: Mapping[str, float] = MappingProxyType({
    "text_tasks": 50, "logic": 20, "boltons": 10, "more_itertools": 10, "safety": 10,
})  # fmt: skip
"""General rows that the base did not write, instruction first as in Nova's mix: sources by name, since a category would
bring the base's own answers along."""
OWN: Mapping[str, float] = MappingProxyType(
    {"own-instruction": 50, "own-reasoning": 20, "own-knowledge": 15, "own-code": 15}
)
"""Only what the base wrote itself."""
GENERAL_PER_ROW: Mapping[frozenset[str], float] = MappingProxyType({frozenset(REAL): 15.0, frozenset(OWN): 49.0})
"""Supervised tokens of a general row, where the sources are mixed so: `temper check --json` tells tokens and rows."""
PLUGINS = Path(__file__).parent / "methods" / "stages.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A domain at a strength."""

    domain: str
    strength: Strength

    @property
    def name(self) -> str:
        """Such as `icd10-hard`."""
        return f"{self.domain}-{self.strength}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A way of training that a cell is measured with."""

    name: str
    said: str
    """One sentence for the page."""
    role: Role
    trials: tuple[Settings, ...]
    """The first is the default; more where the method is tuned."""
    family: Family = "trained"
    technique: str = "sft"
    replay_only: bool = False
    """Whether the steps are taken on general rows alone."""

    @property
    def by_default(self) -> bool:
        """Whether temper decides what the trial leaves open, steps and general rows included."""
        return self.role in ("ours", "variant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run of the study."""

    cell: Cell
    method: Method
    trial: int
    seed: int

    @property
    def settings(self) -> Settings:
        """Of its trial."""
        return self.method.trials[self.trial]

    @property
    def name(self) -> str:
        """Such as `icd10-hard/lora-tuned-1/seed-0`, a folder."""
        return f"{self.cell.name}/{self.method.name}-{self.trial}/seed-{self.seed}"


CELLS = tuple(Cell(domain=domain, strength=strength) for strength in ("hard", "light") for domain in DOMAINS)
"""The hard ones first: they decide."""


def _full(lr: float, **more: object) -> Settings:
    return {"adapter": "full", "lr": lr, "replay": None, **more}


def _lora(lr: float, **more: object) -> Settings:
    return {"adapter": "lora", "rank": 16, "alpha": 32, "lr": lr, "replay": None, **more}


def _mixed(settings: Settings, share: float, sources: Mapping[str, float], keep: str = "ce") -> Settings:
    """With a share of general rows, as peers count; `recipe` counts their tokens."""
    return {**settings, "replay": {"share": share, "from": dict(sources)}, "keep": keep}


def _methods() -> Iterator[Method]:
    last = {"choose": "last", "checkpoints": 1}
    yield Method(name="temper", said="temper's default recipe, untouched.", role="ours", family="all", trials=({},))
    yield Method(
        name="naive-makers", role="naive", trials=(_full(1e-3, schedule="cosine", warmup=0.1, **last),),
        said="All weights at the rate of the model's makers, last checkpoint: how far the domain can go.",
    )  # fmt: skip
    yield Method(
        name="lora-tuned", role="tuned", trials=tuple(_lora(lr) for lr in (2e-4, 6e-4, 1.5e-3)),
        said="LoRA, no general rows, best of three learning rates.",
    )  # fmt: skip
    yield Method(
        name="full-tuned", role="tuned", trials=tuple(_full(lr) for lr in (2e-5, 1e-4, 4e-4)),
        said="All weights, no general rows, best of three learning rates.",
    )  # fmt: skip
    yield Method(
        name="replay-tuned", role="tuned", trials=tuple(_mixed(_lora(6e-4), share, REAL) for share in (0.1, 0.25, 0.5)),
        said="LoRA at the middle rate with 10, 25 or 50 % general rows of other origin, learnt by cross-entropy.",
    )  # fmt: skip
    yield Method(
        name="nova", role="tuned", trials=tuple(_mixed(_lora(2e-4 / 5), share, REAL) for share in (0.1, 0.25, 0.5)),
        said="The same with Nova's rule for the rate: a fifth of the usual one when LoRA is mixed.",
    )  # fmt: skip
    yield Method(
        name="wise-ft", role="tuned", family="line", trials=(_full(2e-5), _lora(2e-4), _full(4e-4)),
        said="Interpolation between the base and three runs without general rows.",
    )  # fmt: skip
    yield Method(
        name="full-default",
        role="naive",
        trials=(_full(2e-5),),
        said="All weights at the peers' usual rate, 2e-5.",
    )
    yield Method(
        name="lora-default",
        role="naive",
        trials=(_lora(2e-4),),
        said="LoRA r16 at the peers' usual rate, 2e-4.",
    )
    yield Method(
        name="own-ce", role="candidate", trials=(_mixed({}, 0.25, OWN, "ce"),),
        said="temper's rate with a quarter of the base's own answers, learnt by cross-entropy.",
    )  # fmt: skip
    yield Method(
        name="own-kl", role="candidate", trials=(_mixed({}, 0.25, OWN, "kl"),),
        said="The same, holding the base's distribution on them instead.",
    )  # fmt: skip
    yield from _plugins()
    yield Method(
        name="heal", role="control", replay_only=True, trials=({**_mixed({}, 1.0, REAL), **last},),
        said="Replay alone for as many steps: what general rows do to a model that was stored in 4 bits.",
    )  # fmt: skip


def _plugins() -> Iterator[Method]:
    """Candidates for temper that live beside the study until they have paid."""

    def technique(name: str) -> str:
        return f"{PLUGINS}:{name}"

    yield Method(
        name="follows", role="variant", family="all", technique=technique("Follows"), trials=({}, {"strength": 1.6}),
        said="temper's default with a hold on the general rows that follows how far they have moved.",
    )  # fmt: skip
    yield Method(
        name="flow", role="candidate", technique=technique("Flow"), trials=(_lora(6e-4), _lora(1.5e-3)),
        said="FLOW: rows that the base finds unlikely weigh less.",
    )  # fmt: skip
    yield Method(
        name="talr", role="candidate", technique=technique("Talr"), trials=(_lora(6e-4), _lora(1.5e-3)),
        said="TALR: tokens that are unlikely now weigh less.",
    )  # fmt: skip
    yield Method(
        name="masked-kl", role="candidate", technique=technique("MaskedKL"), trials=(_lora(6e-4), _lora(1.5e-3)),
        said="Divergence from the base on the task's own tokens, the right token left out.",
    )  # fmt: skip
    yield Method(
        name="eaft", role="candidate", technique=technique("Eaft"), trials=(_lora(6e-4), _lora(1.5e-3)),
        said="EAFT: tokens weigh by the entropy of the model's top 20.",
    )  # fmt: skip
    yield Method(
        name="mofo", role="candidate", technique=technique("MoFO"),
        trials=(_full(1e-4, momentum=0.1), _full(4e-4, momentum=0.1)),
        said="All weights, of which a step changes the tenth with the largest momentum.",
    )  # fmt: skip
    yield Method(
        name="l2-sp", role="tuned", technique=technique("L2SP"),
        trials=tuple(_full(1e-4, pull=pull) for pull in (10, 100, 1000)),
        said="All weights at 1e-4, pulled back to the base with three strengths.",
    )  # fmt: skip


METHODS = tuple(_methods())
SHORT: Mapping[Strength, Sequence[str]] = MappingProxyType({
    "hard": (
        "temper", "naive-makers", "lora-tuned", "full-tuned", "replay-tuned", "wise-ft", "full-default", "lora-default",
        "heal",
    ),
    "light": ("temper", "naive-makers", "lora-default"),
})  # fmt: skip
"""Methods of the short form by strength."""


def recipe(job: Job, data: Path) -> Mapping[str, object]:
    """The recipe of a run as plain values; `data` holds the cell's `train.jsonl` and `exam.jsonl`."""
    settings = dict(job.settings)
    stage: dict[str, object] = {"technique": job.method.technique, "data": str(data / "train.jsonl")}
    if job.method.by_default:
        if job.cell.strength == "light":  # the strength is part of the question, not of the answer
            stage["epochs"] = EPOCHS["light"]
    else:
        share = replay_share(settings, job.cell)
        if share:
            settings["replay"] = {**cast("Settings", settings["replay"]), "share": round(share, 4)}
        batch = round(DOMAIN_ROWS * PER_ROW[job.cell.domain][1] / (1 - share))
        length = {"epochs": EPOCHS[job.cell.strength]} if not job.method.replay_only else {"steps": steps(job.cell)}
        length |= {"batch_tokens": batch}
        stage |= {"guard": "off", "choose": "best", "checkpoints": 4, **length}
    return {
        "base": BASE,
        "probes": {"domain": [{"file": str(data / "exam.jsonl"), "name": job.cell.domain}], "general": ["core"]},
        "tolerance": 0.01,
        "seed": job.seed,
        "stages": [stage | settings],
    }


def text(job: Job, data: Path) -> str:
    """The recipe as YAML."""
    return yaml.safe_dump(_plain(recipe(job, data)), sort_keys=False)


def _plain(value: object) -> object:
    """Mappings and tuples as dicts and lists, which YAML can write."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def row_share(settings: Settings) -> float:
    """Share of general rows in the steps of a trial; 0 where the whole step is replay."""
    replay = settings.get("replay")
    share = replay.get("share") if isinstance(replay, Mapping) else 0.0
    assert isinstance(share, float), share
    return 0.0 if share == 1.0 else share


def replay_share(settings: Settings, cell: Cell) -> float:
    """The same as a share of supervised tokens, which is what a recipe of temper says."""
    rows = row_share(settings)
    if not rows:
        return 0.0
    general = rows * GENERAL_PER_ROW[frozenset(cast("Mapping[str, Mapping[str, float]]", settings["replay"])["from"])]
    return general / (general + (1 - rows) * PER_ROW[cell.domain][1])


def steps(cell: Cell) -> int:
    """Steps of the control: as many as the others take."""
    rows = TOKENS[cell.domain][cell.strength] / PER_ROW[cell.domain][0]
    return round(rows * EPOCHS[cell.strength] / DOMAIN_ROWS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the runs that are done say about those to come."""

    winners: Mapping[str, int]
    """`cell/method` -> the trial that won with seed 0."""
    rivals: Mapping[str, str]
    """cell -> the best tuned method with seed 0."""


def jobs(cells: Sequence[Cell], methods: Sequence[Method], seeds: int, known: Known, extent: Extent) -> Iterator[Job]:
    """All runs in the order in which they decide most.

    Hard cells come with all their seeds before the light ones. Trials are compared with seed 0; further seeds repeat
    the trial that won. The short form repeats nothing but temper and the best tuned method of a hard cell.
    """
    short = extent == "short"
    strengths: tuple[Strength, ...] = ("hard", "light")
    for strength in strengths:
        for seed, cell, method in product(range(seeds), [c for c in cells if c.strength == strength], methods):
            won = known.winners.get(f"{cell.name}/{method.name}", None if len(method.trials) > 1 else 0)
            if short and method.name not in SHORT[strength]:
                continue
            if seed == 0:
                yield from (Job(cell=cell, method=method, trial=n, seed=0) for n in range(len(method.trials)))
            elif won is not None and not (short and not _repeated(cell, method, known)):
                yield Job(cell=cell, method=method, trial=won, seed=seed)


def _repeated(cell: Cell, method: Method, known: Known) -> bool:
    return cell.strength == "hard" and (method.role == "ours" or known.rivals.get(cell.name) == method.name)


def key(job: Job, data: Path) -> str:
    """What makes a run the same: its recipe, its rows, and the plug-in it trains with. Paths do not count."""
    found = hashlib.sha256(text(job, data).replace(str(data), "DATA").replace(str(PLUGINS), "PLUGINS").encode())
    for name in ("train.jsonl", "exam.jsonl"):
        found.update((data / name).read_bytes())
    if job.method.technique != "sft":
        for path in sorted(PLUGINS.parent.glob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()[:16]
