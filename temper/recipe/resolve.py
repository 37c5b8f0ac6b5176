"""Resolve: every value a stage leaves open is filled from the calibration table, with its rule and its evidence.

A pure function of the recipe and of facts that others have measured; it reads no data and no model. What all
techniques share is settled here; what only one of them has, by its own `settle`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from temper import registry
from temper.calibrate import rules
from temper.calibrate.rules import Ruled, TechniqueTable
from temper.errors import RecipeError
from temper.events import Setting
from temper.recipe.facts import Facts
from temper.recipe.schema import DataFile, Recipe, Stage
from temper.recipe.sheet import Sheet, print_path, print_share, print_value
from temper.recipe.usual import LowRank, note_machine, note_size, note_suite, note_unusual, take_rate

FEW_STEPS = 10
"""Below this a run is said to be too short to learn from."""
FEW_EXAM_ROWS = 100
"""Below this the width of the domain score's interval is pointed out."""
_GUARDED_BY: Mapping[str, str] = {
    "stop": "ends the stage once the drop surely exceeds the tolerance",
    "warn": "a repair may begin beyond the tolerance, where a guard that stops would end it at its first look",
}
_CHOSEN_BY: Mapping[str, str] = {
    "score": "best domain score inside the tolerance",
    "loss": "lowest loss on held-out text inside the tolerance",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedStage:
    """A stage with nothing left open; a technique with values of its own adds them in a subclass."""

    id: str
    """Name of the stage in events and folders, e.g. `01-sft`."""
    technique: str
    data: tuple[DataFile, ...]
    replay_share: float
    """Part of the supervised tokens of every step that is general; 0 for none."""
    replay_from: Mapping[str, float]
    """Category -> part of the replay; sums to 1, empty without replay."""
    keep: Literal["ce", "kl"]
    """Cross-entropy on the general rows, or divergence from the stage's start."""
    keep_scale: float
    """Weight of the divergence beside the domain's cross-entropy, each averaged over its own tokens."""
    adapter: Literal["lora", "full"]
    rank: int | None
    """None for full fine-tuning, as is alpha."""
    alpha: float | None
    lr: float
    """Peak learning rate."""
    pilots: bool = False
    """Whether short runs before the stage decide about rate and share of replay."""
    schedule: Literal["constant", "linear", "cosine"]
    warmup_steps: int
    steps: int
    epochs: float
    """Passes over the domain rows that the steps make; 0 for a technique that samples what it learns from."""
    batch_tokens: int
    """Supervised tokens per step, replay included; 0 for a technique that samples what it learns from."""
    weight_decay: float
    clip: float
    betas: tuple[float, float]
    max_length: int
    guard: Literal["stop", "warn", "off"]
    choose: Literal["best", "last"]
    checkpoints: int
    four_bit: bool = False
    """Whether the frozen weights below an adapter are kept in 4 bits."""
    sampled_tokens: int = 0
    """Tokens that the rollouts of one step have at most, prompts included."""


S = TypeVar("S", bound=ResolvedStage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A recipe with nothing left open."""

    recipe: Recipe
    stages: tuple[ResolvedStage, ...]
    settings: tuple[Setting, ...]
    """Every value of the recipe, with who decided it, how and why."""
    notices: tuple[str, ...]
    """What the user should know before the run; each begins with the recipe path it is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How much shorter the stages become so that the run keeps its budget."""

    factor: float = 1.0
    reason: str = ""


def resolve(recipe: Recipe, *facts: Facts) -> Resolved:
    """Fills every open value; one `Facts` per stage, in order."""
    assert len(facts) == len(recipe.stages), f"{len(facts)} facts for {len(recipe.stages)} stages"
    pairs = list(zip(recipe.stages, facts, strict=True))
    whole = [_stage(stage, fact, number, Cut())[0] for number, (stage, fact) in enumerate(pairs)]
    cut = _cut(recipe, whole, facts)
    done = [_stage(stage, fact, number, cut) for number, (stage, fact) in enumerate(pairs)]
    head = _head(recipe, facts)
    return Resolved(
        recipe=recipe,
        stages=tuple(stage for stage, _ in done),
        settings=tuple(s for sheet in (head, *(sheet for _, sheet in done)) for s in sheet.settings),
        notices=tuple(n for sheet in (head, *(sheet for _, sheet in done)) for n in sheet.notices),
    )


def step_tokens(stage: ResolvedStage, facts: Facts) -> float:
    """Tokens of one step, prompts included, as far as the facts foretell them."""
    domain = facts.domain_tokens / facts.domain_supervised if facts.domain_supervised else 1.0
    supervised = sum(facts.available_replay.values())
    replay = facts.replay_tokens / supervised if facts.replay_tokens is not None and supervised else domain
    share = stage.replay_share
    if stage.sampled_tokens:
        return stage.sampled_tokens * (1 + replay * share / (1 - share))
    return stage.batch_tokens * ((1 - share) * domain + share * replay)


def _cut(recipe: Recipe, stages: list[ResolvedStage], facts: tuple[Facts, ...]) -> Cut:
    """How far all stages have to shrink so that the budget holds."""
    budget = recipe.budget
    if budget is None:
        return Cut()
    tokens = [stage.steps * step_tokens(stage, fact) for stage, fact in zip(stages, facts, strict=True)]
    cuts = []
    if budget.tokens is not None:
        reason = f"budget.tokens {budget.tokens:,} of {sum(tokens):,.0f} wanted"
        cuts.append(Cut(factor=budget.tokens / sum(tokens), reason=reason))
    speeds = [fact.tokens_per_second for fact in facts]
    probing = max(fact.probe_seconds for fact in facts)
    for key, limit, unit in (("minutes", budget.minutes, 60), ("gpu_hours", budget.gpu_hours, 3600)):
        if limit is None or not all(speeds):
            continue
        left = limit * unit - probing
        if left <= 0:
            raise RecipeError(
                f"budget.{key}: found {limit:g}; expected more than {probing / unit:.2g}, which the probes alone take; "
                "raise it, or ask a smaller suite under probes.general"
            )
        seconds = sum(t / speed for t, speed in zip(tokens, speeds, strict=True) if speed)
        reason = (
            f"budget.{key} {limit:g}: training would take {seconds / unit:.3g}, the probes take {probing / unit:.3g}"
        )
        cuts.append(Cut(factor=left / seconds, reason=reason))
    return min((c for c in cuts if c.factor < 1), key=lambda c: c.factor, default=Cut())


def _head(recipe: Recipe, facts: tuple[Facts, ...]) -> Sheet:
    """The settings that belong to no stage."""
    sheet = Sheet("")
    base = Path(recipe.base)
    sheet.put("base", print_path(base, recipe.folder) if base.is_absolute() else recipe.base, "recipe")
    sheet.put("tolerance", print_share(recipe.tolerance), _origin(recipe, "tolerance"))
    sheet.put("prefer", recipe.prefer, _origin(recipe, "prefer"))
    for axis, floor in recipe.floors.items():
        sheet.put(f"floors.{axis}", print_share(floor), "recipe")
    sheet.put("seed", str(recipe.seed), _origin(recipe, "seed"))
    for key in ("minutes", "tokens", "gpu_hours"):
        limit = getattr(recipe.budget, key, None)
        if limit is not None:
            sheet.put(f"budget.{key}", print_value(limit), "recipe")
    for index, probe in enumerate(recipe.probes.domain):
        where = f"probes.domain.{index}"
        sheet.put(f"{where}.file", print_path(probe.file, recipe.folder), "recipe")
        sheet.put(f"{where}.name", probe.label, _origin(probe, "name"))
        chosen = "json when every reference is a JSON object, exact otherwise" if probe.metric == "auto" else ""
        sheet.put(f"{where}.metric", probe.metric, _origin(probe, "metric"), chosen)
        longest = "longest reference and a quarter" if probe.max_new_tokens is None else ""
        sheet.put(
            f"{where}.max_new_tokens", print_value(probe.max_new_tokens), _origin(probe, "max_new_tokens"), longest
        )
    suites = [entry if isinstance(entry, str) else str(entry.get("name", "")) for entry in recipe.probes.general]
    sheet.put("probes.general", ", ".join(suites), _origin(recipe.probes, "general"))
    note_machine(recipe, facts[0], sheet)
    note_suite(recipe, sheet)
    note_size(facts[0], sheet)
    rows = facts[0].exam_rows
    if rows < FEW_EXAM_ROWS:
        # Half of the rows choose, half report: 1.96 * sqrt(0.25 / (rows / 2)) at a score of one half.
        width = 100 * 1.96 * math.sqrt(0.5 / rows) if rows else 100
        sheet.note("probes.domain", f"{rows} exam rows know the final score to about +-{width:.0f} points; more help")
    if recipe.budget and (recipe.budget.minutes or recipe.budget.gpu_hours) and not facts[0].tokens_per_second:
        sheet.note("budget", "the speed is not measured, so no step is cut; the run ends when its time is spent")
    return sheet


def _stage(stage: Stage, facts: Facts, index: int, cut: Cut) -> tuple[ResolvedStage, Sheet]:
    table = rules.read_table(stage.technique, params=facts.params)
    sheet = Sheet(f"stages.{index}.")
    sheet.put("technique", stage.technique, "recipe")
    sheet.put("data", ", ".join(source.file.name for source in stage.data), "recipe")
    share, weights = _replay(stage, facts, table, sheet)
    steps, epochs, batch = _length(stage, facts, table, sheet, share, cut)
    _note_scarce_replay(facts, table, sheet, steps * batch * share, weights)
    asked = sheet.take("adapter", stage.adapter, rules.pick(table.adapter))
    adapter = "full" if asked == "full" else "lora"
    rank = alpha = None
    if adapter == "lora":
        capacity = rules.pick(table.rank, facts.domain_supervised)
        rank = sheet.take("rank", stage.rank, replace(capacity, value=int(capacity.value)))
        alpha = sheet.take("alpha", stage.alpha, rules.pick(table.alpha))
    low_rank = None if rank is None or alpha is None else LowRank(rank=rank, alpha=alpha)
    lr = take_rate(stage, table, sheet, low_rank=low_rank, steps=steps, hidden=facts.hidden)
    warmup = stage.warmup if stage.warmup is not None else rules.pick(table.warmup).value
    warmup_steps = min(steps, math.ceil(round(warmup * steps, 6)))
    sheet.take(
        "warmup", stage.warmup, rules.pick(table.warmup), f"{print_share(warmup)}: {warmup_steps} of {steps} steps"
    )
    common = ResolvedStage(
        id=f"{index + 1:02d}-{stage.technique.rpartition(':')[2].lower()}",
        technique=stage.technique,
        data=stage.data,
        replay_share=share,
        replay_from=weights,
        keep=sheet.take("keep", stage.keep, rules.pick(table.keep)) if share else "ce",
        keep_scale=rules.pick(table.keep_scale).value,
        adapter=adapter,
        four_bit=asked == "qlora",
        rank=rank,
        alpha=alpha,
        lr=lr,
        pilots=stage.lr == "probe",
        schedule=sheet.take("schedule", stage.schedule, rules.pick(table.schedule)),
        warmup_steps=warmup_steps,
        steps=steps,
        epochs=epochs,
        batch_tokens=batch,
        weight_decay=sheet.take("weight_decay", stage.weight_decay, rules.pick(table.weight_decay)),
        clip=sheet.take("clip", stage.clip, rules.pick(table.clip)),
        betas=tuple(sheet.take("betas", stage.betas, rules.pick(table.betas))),
        max_length=_max_length(stage, facts, table, sheet),
        guard=sheet.take("guard", stage.guard, plain(stage.guarded_by, _GUARDED_BY[stage.guarded_by])),
        choose=sheet.take("choose", stage.choose, plain("best", _CHOSEN_BY[stage.judged_by])),
        checkpoints=min(steps, sheet.take("checkpoints", stage.checkpoints, rules.pick(table.checkpoints))),
    )
    settled = stage.settle(common, facts, sheet)
    note_unusual(stage, table, sheet)
    return settled, sheet


def _replay(stage: Stage, facts: Facts, table: TechniqueTable, sheet: Sheet) -> tuple[float, Mapping[str, float]]:
    """Share and weights of the general rows; both empty when there are none."""
    if stage.replay is None:
        sheet.put("replay", "none", "recipe")
        return 0.0, {}
    if stage.replay.share == 0:
        sheet.put("replay.share", print_share(0), "recipe")
        return 0.0, {}
    stocks = {**facts.available_sources, **facts.available_replay}
    available = [name for name, tokens in facts.available_replay.items() if tokens > 0]
    asked = stage.replay.categories
    absent = [name for name in asked or {} if not stocks.get(name)]
    if asked and not any(asked[name] for name in asked if name not in absent):
        do = f"{registry.hint(absent[0], list(stocks))}remove it or correct its name"
        expected = f"a category ({', '.join(available)}) or a source of the catalogue"
        raise sheet.refuse(f"replay.from.{absent[0]}", "[M001] no general data for it", expected, do)
    ruled = _replay_share(stage, facts, table)
    if not available:
        if stage.replay.share:
            raise sheet.refuse(
                "replay.share", print_share(stage.replay.share), "0%, since there are no general data here", "write 0%"
            )
        ruled = Ruled(value=0.0, rule="there are no general data here", evidence=ruled.evidence)
        sheet.note("replay.share", "there are no general data, so nothing is rehearsed; the guard is all that protects")
    value = stage.replay.share if stage.replay.share is not None else ruled.value
    share = sheet.take("replay.share", stage.replay.share, ruled, print_share(value))
    if share == 0:
        return 0.0, {}
    picked = rules.replay_categories(table, facts.available_replay)
    weights = rules.normalised({n: w for n, w in asked.items() if n not in absent}) if asked else picked.value
    if away := [name for name in absent if asked and asked[name]]:
        sheet.note("replay.from", f"there are no rows of {', '.join(away)} here; the others take over that part")
    sheet.take("replay.from", asked, picked, ", ".join(f"{name} {print_share(w)}" for name, w in weights.items()))
    return share, weights


def _replay_share(stage: Stage, facts: Facts, table: TechniqueTable) -> Ruled[float]:
    """The share where the recipe leaves it open."""
    if stage.on_policy or not facts.domain_supervised:
        return rules.pick(table.replay_share)
    usual = rules.batch_tokens(table, rows=facts.train_rows, supervised=facts.domain_supervised).value
    answer = facts.domain_supervised / facts.train_rows
    return rules.replay_share(table, batch=stage.batch_tokens or usual, answer=answer)


def _length(
    stage: Stage, facts: Facts, table: TechniqueTable, sheet: Sheet, share: float, cut: Cut
) -> tuple[int, float, int]:
    """Steps, the epochs they make, and the supervised tokens of each."""
    if stage.on_policy:
        ruled = rules.pick(table.own["steps"])
        wanted = stage.steps or int(ruled.value)
        steps = _held(sheet, wanted, cut)
        if steps == wanted:
            sheet.take("steps", stage.steps, ruled, str(steps))
        return steps, 0.0, 0
    usual = rules.batch_tokens(table, rows=facts.train_rows, supervised=facts.domain_supervised)
    if stage.replay is not None and stage.replay.share is None and share > table.replay_share.value:
        rule = (
            f"{usual.rule}; {usual.value} at a share of {print_share(table.replay_share.value)}, and more general ones"
        )
        usual = replace(usual, value=rules.batch_at_share(usual.value, table, share), rule=rule)
    batch = sheet.take("batch_tokens", stage.batch_tokens, usual)
    ruled = rules.pick(table.epochs, facts.domain_supervised)
    epochs = stage.epochs if stage.epochs is not None else ruled.value
    size = {"supervised": facts.domain_supervised, "share": share, "batch": batch}
    wanted = stage.steps if stage.steps is not None else rules.count_steps(epochs=epochs, **size)
    steps = _held(sheet, wanted, cut)
    made = rules.count_epochs(steps=steps, **size)
    if stage.steps is None and steps == wanted:
        sheet.take("epochs", stage.epochs, ruled)
        rule = f"{epochs:g} epochs x {facts.domain_supervised:,} / ({print_share(1 - share)} of {batch})"
        sheet.put("steps", str(steps), "rule", rule, "arithmetic")
    else:
        sheet.put("epochs", f"{made:.3g}", "rule", f"{steps} steps x {batch} tokens of the domain's", "arithmetic")
        if steps == wanted:
            sheet.put("steps", str(steps), "recipe")
    if steps < FEW_STEPS:
        sheet.note("steps", f"only {steps} steps, which is little to learn from; lower batch_tokens or add rows")
    return steps, made, batch


def _held(sheet: Sheet, wanted: int, cut: Cut) -> int:
    """The steps that the budget leaves, with a word about it where it takes some away."""
    steps = max(1, min(wanted, math.floor(round(wanted * cut.factor, 6))))
    if steps < wanted:
        sheet.put("steps", str(steps), "measured", f"cut from {wanted}", cut.reason)
        sheet.note("steps", f"cut from {wanted} to {steps}: {cut.reason}")
    return steps


def _max_length(stage: Stage, facts: Facts, table: TechniqueTable, sheet: Sheet) -> int:
    context = facts.context_length
    if context is not None and (stage.max_length or 0) > context:
        expected = f"at most {context}, all the model can read"
        raise sheet.refuse("max_length", str(stage.max_length), expected, "lower it or leave it out")
    ruled = rules.max_length(table, longest=facts.longest_row, context=context)
    if stage.learns == "text":  # documents are learnt in windows, which the technique settles
        return stage.max_length or ruled.value
    value = sheet.take("max_length", stage.max_length, ruled)
    if facts.longest_row > value:
        text = f"the longest row has {facts.longest_row} tokens, more than {value}; shorten or drop it"
        sheet.note("max_length", text)
    return value


def _note_scarce_replay(
    facts: Facts, table: TechniqueTable, sheet: Sheet, needed: float, weights: Mapping[str, float]
) -> None:
    most = rules.pick(table.replay_epochs)
    for name, weight in weights.items():
        passes = needed * weight / {**facts.available_sources, **facts.available_replay}[name]
        if passes > most.value:
            sheet.note(f"replay.from.{name}", f"its rows come {passes:.1f} times; {most.evidence}")


def extend(common: ResolvedStage, kind: type[S], **own: Any) -> S:
    """The same stage as a value of a technique's own class, with the fields that only it has."""
    return kind(**{field.name: getattr(common, field.name) for field in fields(common)} | own)


def plain(value: str, rule: str) -> Ruled[str]:
    """A default that explains itself."""
    return Ruled(value=value, rule=rule, evidence="")


def _origin(model: Any, key: str) -> Literal["recipe", "default"]:
    return "recipe" if key in model.model_fields_set else "default"
