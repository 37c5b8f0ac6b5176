"""Inputs: the parts of a recipe that name data, probes, general rows and limits. Frozen models; see `schema`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from temper.data import filters
from temper.data.selfplay import OwnReplay as OwnPlay
from temper.errors import RecipeError
from temper.recipe.values import (
    AUTO_COUNT,
    AUTO_SHARE,
    AutoShare,
    Count,
    DataPath,
    ExistingFolder,
    Number,
    as_file,
    as_list,
    as_suite,
    problem,
)


class Frozen(BaseModel):
    """Base of every part of a recipe: unknown keys are refused, nothing changes after reading."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataFile(Frozen):
    """Rows or texts to learn from."""

    file: DataPath
    """A file, a folder or a glob, relative to the folder of the recipe; or `hub:owner/name`."""
    columns: Mapping[str, str] | None = None
    """What the columns mean, e.g. `{prompt: question, completion: sql}`; recognised by themselves when left out."""


DataFiles = Annotated[
    tuple[Annotated[DataFile, BeforeValidator(as_file)], ...], BeforeValidator(as_list), Field(min_length=1)
]


class DomainProbe(Frozen):
    """Held-out rows of the domain, with the metric they are marked by."""

    file: DataPath
    """Path, relative to the folder of the recipe; with `metric: loss` also a folder or a glob of documents."""
    name: str = ""
    """How the report calls it; the file's name when left out."""
    metric: Literal[
        "auto", "exact", "json", "choice", "numeric", "regex", "rouge-l", "bleu", "chrf", "code", "preference", "loss"
    ] = "auto"
    """`json` when every reference is a JSON object, `exact` otherwise, unless it is said here; `loss` for documents."""
    max_new_tokens: Annotated[Annotated[int, Field(ge=1)] | None, AUTO_COUNT] = None
    """Longest answer; follows from the references when left out."""
    columns: Mapping[str, str] | None = None
    """What the columns mean, as for training data."""
    split: Annotated[Annotated[float, Field(gt=0, lt=1)] | None, AUTO_SHARE] = None
    """Part of the rows that is held out for the exam, where a stage trains on the same file; its rest is learnt."""
    group: str | None = None
    """Column whose value keeps rows together: no group is learnt and asked, none both chooses and reports."""

    @model_validator(mode="after")
    def _rows_are_in_a_file(self) -> DomainProbe:
        several = self.file.is_dir() or not self.file.is_file()
        if self.metric != "loss" and several and self.file.is_absolute():
            error = problem("a file of rows", "name one, or write `metric: loss` beside a folder of documents")
            raise invalid(self, ("file",), error, str(self.file))
        return self

    @property
    def label(self) -> str:
        """The probe's name in events and report."""
        return self.name or self.file.name.split(".")[0]


class Probes(Frozen):
    """What is measured: the domain to become good at, the general abilities to keep."""

    domain: Annotated[
        tuple[Annotated[DomainProbe, BeforeValidator(as_file)], ...], BeforeValidator(as_list), Field(min_length=1)
    ]
    general: Annotated[
        tuple[Annotated[str, BeforeValidator(as_suite)] | Mapping[str, Any], ...],
        BeforeValidator(as_list),
        Field(min_length=1),
    ] = ("core",)
    """Built-in suites, files of one's own, or a probe written out: `{name: my, kind: lm-eval, task: arc_easy}`."""

    @model_validator(mode="after")
    def _labels_differ(self) -> Probes:
        labels = [probe.label for probe in self.domain]
        for index, label in enumerate(labels):
            if label in labels[:index]:
                error = problem(f"a name of its own, {label!r} is taken", "add `name:` to one of the two probes")
                raise invalid(self, ("domain", index), error, label)
        return self


class Budget(Frozen):
    """What a run may cost at most; steps are cut to fit."""

    minutes: Annotated[Number, Field(gt=0)] | None = None
    """Wall clock of the whole run, probes included."""
    tokens: Annotated[Count, Field(ge=1)] | None = None
    """Tokens trained on, prompts and replay included."""
    gpu_hours: Annotated[Number, Field(gt=0)] | None = None
    """Hours of one GPU."""


class OwnReplay(Frozen):
    """What the base model writes for its own replay."""

    kinds: Annotated[tuple[Literal["answers", "chat", "free"], ...], BeforeValidator(as_list), Field(min_length=1)] = (
        "answers",
    )
    """`answers` to general prompts, `chat` where it writes the user's turn too, `free` text from nothing."""
    count: Annotated[Count, Field(ge=8, le=1_000_000)] = 400
    """Samples over all kinds."""
    temperature: Annotated[Number, Field(gt=0, le=2)] = 1.0
    """Only 1 is the model's own distribution."""
    max_new_tokens: Annotated[Count, Field(ge=8)] = 72
    """Longest sample."""

    def play(self, seed: int) -> OwnPlay:
        """The same, for the part that writes."""
        return OwnPlay(
            kinds=tuple(dict.fromkeys(self.kinds)), count=self.count, temperature=self.temperature,
            max_new_tokens=self.max_new_tokens, seed=seed,
        )  # fmt: skip


class Machine(Frozen):
    """How this machine is used; the result does not depend on it but for rounding."""

    threads: Annotated[Annotated[int, Field(ge=1)] | None, AUTO_COUNT] = None
    """Of torch; timed when left out."""
    precision: Literal["auto", "float32", "float32-onednn", "bfloat16"] = "auto"
    """Of the linear layers on a CPU, and who multiplies; what lies between them and everything on disk is float32."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether elementwise kernels are compiled, which takes seconds and pays over minutes."""


class Replay(Frozen):
    """General rows mixed into every step."""

    share: AutoShare = None
    """Part of the supervised tokens of every step that is general."""
    categories: Annotated[Mapping[str, Annotated[Number, Field(ge=0)]] | None, Field(alias="from")] = None
    """Category, or a source of the catalogue -> weight; the weights need not sum to anything."""
    own: OwnReplay | None = None
    """What the base model writes for its own replay; its answers to general prompts when left out."""
    local: ExistingFolder | None = None
    """Folder with copies of the hub's data sets, owner/name/..., for machines that cannot reach the hub."""

    @model_validator(mode="after")
    def _weighs_something(self) -> Replay:
        if self.categories is not None and sum(self.categories.values()) <= 0:
            error = problem("at least one weight above 0", "leave `from` out to let temper weigh the categories")
            raise invalid(self, ("from",), error, dict(self.categories))
        return self


def _as_filters(value: Any) -> Any:
    if isinstance(value, tuple) and all(isinstance(spec, filters.FilterSpec) for spec in value):
        return value
    try:
        return filters.parse(value)
    except RecipeError as fault:
        place, _, said = str(fault).removeprefix("filters").partition(": ")
        found, _, wanted = said.partition("; expected ")
        expected, _, do = wanted.partition("; ")
        raise problem(f"{expected} (entry {place.strip('.')}: {found})" if place else expected, do) from None


Filters = Annotated[tuple[Any, ...], BeforeValidator(_as_filters)]
"""Which rows are left out: `[quality, dedup, {name: length, min_words: 5}]`."""


def invalid(
    model: BaseModel | str, loc: tuple[str | int, ...], error: PydanticCustomError, found: Any
) -> ValidationError:
    """An error of one value, raised by the model that holds it."""
    title = model if isinstance(model, str) else type(model).__name__
    return ValidationError.from_exception_data(title, [InitErrorDetails(type=error, loc=loc, input=found)])
