"""Schema: the recipe as frozen models; a value left out or `auto` is None (or "auto") until `resolve` fills it.

A technique is a subclass of `Stage` in a file of its own, which says what only it has, and one line in
`temper.registry.BUILT_IN`; what all of them share is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    PrivateAttr,
    SerializeAsAny,
    ValidationInfo,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from temper import __version__, registry
from temper.calibrate import rules
from temper.errors import RecipeError
from temper.recipe.inputs import (
    Budget,
    DataFile,
    DataFiles,
    DomainProbe,
    Filters,
    Frozen,
    Machine,
    Probes,
    Replay,
    invalid,
)
from temper.recipe.values import (
    AUTO_COUNT,
    AUTO_NUMBER,
    AutoShare,
    Context,
    Count,
    Number,
    Share,
    Tolerance,
    as_base,
    as_is,
    as_number,
    or_auto,
    problem,
)

if TYPE_CHECKING:
    from temper.recipe.facts import Facts
    from temper.recipe.resolve import ResolvedStage
    from temper.recipe.sheet import Sheet

__all__ = ("Budget", "DataFile", "DomainProbe", "Frozen", "Machine", "Probes", "Recipe", "Replay", "Stage")

Learns = Literal["answers", "text", "pairs", "tasks"]
"""Which rows a technique takes: prompts with answers, plain text, preference pairs, or prompts to try."""


def _as_rate(value: Any) -> Any:
    """A number, or None for `auto`; `probe` stays."""
    return value if value == "probe" else or_auto(as_number)(value)


Decay = Annotated[Number, Field(ge=0, lt=1)]


class Stage(Frozen):
    """One entry of `stages`; each technique adds its own fields and says what it learns from."""

    learns: ClassVar[Learns] = "answers"
    judged_by: ClassVar[Literal["score", "loss"]] = "score"
    """How checkpoints are compared: by what the exam scores, or by the loss on held-out text."""
    guarded_by: ClassVar[Literal["stop", "warn"]] = "stop"
    """What the guard does where the recipe leaves it open."""
    on_policy: ClassVar[bool] = False
    """Whether it learns from what the model says during the stage; such a stage counts steps, not epochs."""

    technique: str
    data: DataFiles
    """A file of rows, a list of them, or `{file, columns}`."""
    replay: Replay | None = Replay()
    """General rows mixed in; null for none."""
    filters: Filters = ()
    """Which rows of the data are left out, by name; nothing is left out unasked."""
    keep: Literal["auto", "ce", "kl"] = "auto"
    """What general rows are for: `ce` learns their answers, `kl` holds the model's own distribution on them."""
    guard: Literal["auto", "stop", "warn", "off"] = "auto"
    """What happens when the general drop surely exceeds the tolerance."""
    choose: Literal["auto", "best", "last"] = "auto"
    """Which checkpoint the stage hands on."""
    checkpoints: Annotated[Annotated[int, Field(ge=1, le=100)] | None, AUTO_COUNT] = None
    """How many points of the run are kept as candidates."""
    adapter: Literal["auto", "lora", "qlora", "full"] = "auto"
    """`qlora` keeps the frozen weights below the adapter in 4 bits (the extra `qlora`)."""
    lr: Annotated[Annotated[float, Field(gt=0)] | Literal["probe"] | None, BeforeValidator(_as_rate)] = None
    """Peak learning rate; `probe` finds it with a few short runs before the stage."""
    rank: Annotated[Annotated[int, Field(ge=1, le=1024)] | None, AUTO_COUNT] = None
    alpha: Annotated[Annotated[float, Field(gt=0)] | None, AUTO_NUMBER] = None
    """LoRA's scale: the update is alpha / rank x B A."""
    epochs: Annotated[Annotated[float, Field(gt=0, le=1000)] | None, AUTO_NUMBER] = None
    """Passes over the domain rows."""
    steps: Annotated[Annotated[int, Field(ge=1)] | None, AUTO_COUNT] = None
    """Optimiser steps, instead of `epochs`."""
    batch_tokens: Annotated[Annotated[int, Field(ge=1)] | None, AUTO_COUNT] = None
    """Supervised tokens per optimiser step, replay included."""
    schedule: Literal["auto", "constant", "linear", "cosine"] = "auto"
    warmup: AutoShare = None
    """Part of the steps in which the learning rate rises from zero."""
    weight_decay: Annotated[Annotated[float, Field(ge=0, le=1)] | None, AUTO_NUMBER] = None
    clip: Annotated[Annotated[float, Field(gt=0)] | None, AUTO_NUMBER] = None
    """Largest gradient norm."""
    betas: Annotated[tuple[Decay, Decay] | None, BeforeValidator(or_auto(as_is))] = None
    """AdamW's two decay rates."""
    max_length: Annotated[Annotated[int, Field(ge=16)] | None, AUTO_COUNT] = None
    """Longest row in tokens."""

    @model_validator(mode="after")
    def _hangs_together(self) -> Stage:
        found = [*_lr_errors(self), *_conflicts(self)]
        if found:
            details = [InitErrorDetails(type=error, loc=(key,), input=getattr(self, key)) for key, error in found]
            raise ValidationError.from_exception_data(type(self).__name__, details)
        return self

    @property
    def beside(self) -> Stage | None:
        """A stage whose rows this one learns beside what the model says; they are read as that one reads its data."""
        return None

    @property
    def files(self) -> tuple[DataFile, ...]:
        """Everything of the user's that it reads."""
        return (*self.data, *(self.beside.data if self.beside else ()))

    def settle(self, common: ResolvedStage, facts: Facts, sheet: Sheet) -> ResolvedStage:
        """Fills the values that only this technique has, and writes each on the sheet.

        Args:
            common: Every value that all techniques share, settled.
            facts: What is known of model, rows and machine.
            sheet: What `temper check` prints of this stage.

        Returns:
            `common` itself, or a subclass of `ResolvedStage` with further fields, all plain values.
        """
        del facts, sheet
        return common


def _lr_errors(stage: Stage) -> list[tuple[str, PydanticCustomError]]:
    table = rules.read_table(stage.technique)
    adapter = table.adapter.value if stage.adapter == "auto" else stage.adapter
    usual = rules.lr_range(table, "full" if adapter == "full" else "lora")
    if stage.lr == "probe" and stage.on_policy:
        expected = f"a number or auto, as no short run foretells what {stage.technique} will learn from"
        return [("lr", problem(expected, "leave it out and temper chooses"))]
    if stage.lr is None or stage.lr == "probe" or stage.lr < usual.absurd:
        return []
    do = "write one of these, or leave it out and temper chooses"
    expected = f"{usual.low:g} to {usual.high:g} with adapter {adapter}, surely below {usual.absurd:g}"
    return [("lr", problem(expected, do))]


def _conflicts(stage: Stage) -> list[tuple[str, PydanticCustomError]]:
    found = []
    if stage.on_policy:
        expected = f"nothing, {stage.technique} learns from what the model says and counts steps"
        found.extend(
            (key, problem(expected, "remove it, or write `steps: 100`"))
            for key in ("epochs", "batch_tokens")
            if getattr(stage, key) is not None
        )
    if stage.steps is not None and stage.epochs is not None:
        found.append(("steps", problem("either steps or epochs", "remove one of the two, it follows from the other")))
    if stage.steps is None and stage.replay is not None and stage.replay.share == 1 and not stage.on_policy:
        expected = "a number of steps, since a replay share of 100% has no epochs"
        found.append(("steps", problem(expected, "add `steps: 100`")))
    if stage.adapter == "full":
        found.extend(
            (key, problem("nothing, full fine-tuning has no such setting", "remove it, or write `adapter: lora`"))
            for key in ("rank", "alpha")
            if getattr(stage, key) is not None
        )
    return found


def stage_class(technique: str, folder: Path | None = None) -> type[Stage]:
    """The model of a technique, built in, installed or the user's own."""
    found = registry.load("technique", technique, folder=folder)
    if not (isinstance(found, type) and issubclass(found, Stage)):
        raise RecipeError(f"technique {technique!r}: {found!r} is not a technique; expected a subclass of Stage")
    return found


def _as_stage(value: Any, info: ValidationInfo) -> Stage:
    """A stage read by the model that its technique names."""
    if isinstance(value, Stage):
        return value
    known = ", ".join(registry.names("technique"))
    if not isinstance(value, Mapping):
        raise problem("a mapping of keys", f"write `technique: sft` and `data: FILE`; techniques: {known}")
    technique = value.get("technique")
    if not isinstance(technique, str):
        error = problem(f"one of: {known}", "add `technique: sft`")
        raise invalid("Stage", ("technique",), error, technique)
    folder = info.context.folder if isinstance(info.context, Context) else None
    try:
        model = stage_class(technique, folder)
    except RecipeError as fault:
        near = registry.hint(technique, registry.names("technique"))
        do = f"{near}temper {__version__} has no other technique; one of your own is written ./file.py:Name"
        error = problem(f"one of: {known}", str(fault) if ":" in technique else do)
        raise invalid("Stage", ("technique",), error, technique) from None
    return model.model_validate(value, context=info.context)


class Recipe(Frozen):
    """What the user asks for: a base model, what to measure, how much may be lost, and the stages."""

    base: Annotated[str, BeforeValidator(as_base), Field(min_length=1)]
    """Built-in name, hub id or folder."""
    probes: Probes
    tolerance: Tolerance = 0.01
    """Largest general drop accepted, at 95 % confidence."""
    prefer: Literal["domain", "general"] = "domain"
    """Which of the checkpoints that keep the tolerance: the best of the domain, or of those about as good the one that
    lost least."""
    floors: Mapping[str, Share] = {}
    """Ability -> largest drop accepted of it alone, e.g. `{safety: 0%}`."""
    budget: Budget | None = None
    machine: Machine = Machine()
    seed: Annotated[Count, Field(ge=0)] = 0
    stages: Annotated[tuple[SerializeAsAny[Annotated[Stage, PlainValidator(_as_stage)]], ...], Field(min_length=1)]

    _context: Context | None = PrivateAttr(default=None)

    def model_post_init(self, context: Any, /) -> None:
        """Remembers the file the recipe was read from."""
        if isinstance(context, Context):
            self._context = context

    @property
    def folder(self) -> Path:
        """Folder of the recipe file; the current one for a recipe built in Python."""
        return self._context.folder if self._context else Path.cwd()

    @property
    def text(self) -> str:
        """The recipe as YAML, as the user wrote it where it was read from a file."""
        if self._context:
            return self._context.text
        import yaml

        return yaml.safe_dump(self.model_dump(mode="json", exclude_unset=True, by_alias=True), sort_keys=False)

    @model_validator(mode="after")
    def _exam_is_held_out(self) -> Recipe:
        exams = {probe.file for probe in self.probes.domain if probe.split is None}
        for index, stage in enumerate(self.stages):
            for number, source in enumerate(stage.data):
                if source.file in exams:
                    error = problem(
                        "rows that no domain probe asks", "write `split: 10%` beside the exam's file to hold rows back"
                    )
                    raise invalid(self, ("stages", index, "data", number, "file"), error, str(source.file))
        return self
