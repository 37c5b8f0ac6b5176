"""Space: the values that a search may try, read from the ranges and lists that stand in a recipe instead of values.

`lr: [1e-5..1e-3]` (or `1e-5..1e-3`) is a range, `rank: [8, 16, 32]` a choice; a list is a choice exactly where the
recipe takes no list. A recipe without either is searched where temper's own values are least certain: the learning
rate and the share of replay of every stage that leaves them open.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from temper.calibrate import rules
from temper.errors import RecipeError
from temper.recipe.document import INTEGER, Document, Loc, dotted, override, parse
from temper.recipe.explain import explain
from temper.recipe.load import load
from temper.recipe.schema import Recipe, Stage
from temper.recipe.values import Context

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?%?"
RANGE = re.compile(rf"\s*({NUMBER})\s*\.\.\s*({NUMBER})\s*")
LOG_RATIO = 10.0
"""From this ratio of its ends on, a range is walked in equal factors instead of equal steps."""
SHARES = (0.0, 0.5)
"""Shares of replay that are tried when the recipe says nothing; more than half is rehearsal, not specialisation."""

Value = str | float | int
Values = Mapping[str, Value]
"""Dotted path -> value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """One value of the recipe that is searched: a range of numbers, or a choice."""

    path: str
    """Dotted, e.g. `stages.0.lr`."""
    low: float = math.nan
    high: float = math.nan
    log: bool = False
    whole: bool = False
    """Whole numbers only."""
    choices: tuple[str, ...] = ()
    """As written in the recipe; empty for a range."""
    first: str
    """What the first trial takes: `auto` where the recipe understands it."""

    @property
    def words(self) -> str:
        """For the report: `1e-05 to 0.001, log`."""
        if self.choices:
            return ", ".join(self.choices)
        return f"{self.low:g} to {self.high:g}" + (", log" if self.log else "") + (", whole" if self.whole else "")

    def written(self, value: Value) -> str:
        """A value as `--set` takes it, three digits."""
        if self.choices:
            return str(value)
        return str(round(float(value))) if self.whole else f"{float(value):.3g}"

    def read(self, text: str) -> Value | None:
        """The value of a printed setting; None when it lies outside of what may be tried."""
        if self.choices:
            return text if text in self.choices else None
        number = _number(text) if re.fullmatch(NUMBER, text.strip()) else math.nan
        slack = 1e-3 * abs(self.high)  # settings are printed with few digits
        if not self.low - slack <= number <= self.high + slack:
            return None
        held = min(max(number, self.low), self.high)
        return round(held) if self.whole else held


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What is searched, and the recipe around it."""

    recipe: Recipe
    """With the first trial's values."""
    text: str
    """As the user wrote it, settings of the command line at its end."""
    knobs: tuple[Knob, ...]
    by_default: bool
    """Whether the recipe names no range, so that temper chose the knobs."""

    def settings(self, values: Values) -> tuple[str, ...]:
        """Values as settings of the command line."""
        return tuple(f"{knob.path}={knob.written(values[knob.path])}" for knob in self.knobs)

    @property
    def first(self) -> tuple[str, ...]:
        """The settings of the first trial: what temper would do by itself."""
        return tuple(f"{knob.path}={knob.first}" for knob in self.knobs)


def read_space(path: Path, settings: Sequence[str] = ()) -> Space:
    """The space of a recipe file.

    Raises:
        RecipeError: a range that ends before it begins, an empty list, a value that the recipe refuses, nothing to
            search.
    """
    if not path.is_file():
        load(path)  # says what is wrong with the path
    document = override(parse(path.read_text(encoding="utf-8"), path.name), tuple(settings))
    folder = path.resolve().parent
    found = {loc: value for loc, value in _candidates(document.data) if _is_knob(document, folder, loc, value)}
    knobs = tuple(_knob(document, folder, loc, value, found) for loc, value in found.items())
    if not knobs:
        recipe = _recipe(document, folder)
        knobs = tuple(_default_knobs(recipe))
    if not knobs:
        raise RecipeError(
            f"{document.name}: found no value to search, every learning rate and share is fixed; expected a range; "
            "write e.g. `lr: [1e-5..1e-3]`, or leave the learning rate out"
        )
    recipe = _recipe(override(document, tuple(f"{k.path}={k.first}" for k in knobs)), folder)
    return Space(recipe=recipe, text=document.text, knobs=knobs, by_default=not found)


def _candidates(data: Any, loc: Loc = ()) -> Iterator[tuple[Loc, Any]]:
    """Every list and every range below `stages`."""
    if loc[:1] == ("stages",) and len(loc) > 2:
        if isinstance(data, list) or (isinstance(data, str) and RANGE.fullmatch(data)):
            yield loc, data
        if isinstance(data, list):
            return
    parts = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in parts:
        yield from _candidates(value, (*loc, key))


def _is_knob(document: Document, folder: Path, loc: Loc, value: Any) -> bool:
    """Whether a list or range stands where the recipe does not take it."""
    if _as_range(value):
        return True
    try:
        Recipe.model_validate(document.data, context=Context(folder=folder, text=document.text))
    except ValidationError as error:
        return any(fault["loc"][: len(loc)] == loc for fault in error.errors(include_url=False))
    return False


def _as_range(value: Any) -> re.Match[str] | None:
    alone = value[0] if isinstance(value, list) and len(value) == 1 else value
    return RANGE.fullmatch(alone) if isinstance(alone, str) else None


def _knob(document: Document, folder: Path, loc: Loc, value: Any, found: Mapping[Loc, Any]) -> Knob:
    """The knob at a location, every end or choice of it accepted by the recipe."""
    others = [f"{dotted(other)}={_first(document, other, found[other])}" for other in found if other != loc]
    where, path = document.where(loc), dotted(loc)
    span = _as_range(value)
    if span is None:
        choices = tuple(dict.fromkeys(_as_written(document, (*loc, i), item) for i, item in enumerate(value)))
        if len(choices) < 2:
            raise RecipeError(
                f"{where}: found {len(choices)} value{'s' * (not choices)} to choose from; expected two or more; write "
                "e.g. [8, 16, 32], a range [1e-5..1e-3], or a plain value"
            )
        for choice in choices:
            _check(document, folder, (*others, f"{path}={choice}"), where, f"{choice} in the list")
        return Knob(path=path, choices=choices, first=choices[0])
    if "..." in span[0]:  # read as `..` and an end such as .1e-3
        raise RecipeError(
            f"{where}: found {span[0].strip()}; expected two dots between the ends, and ends that begin with a"
            f" digit; write [{re.sub('[.]{3,}', '..', span[0].strip())}]"
        )
    low, high = _number(span[1]), _number(span[2])
    if not low < high:
        raise RecipeError(
            f"{where}: found a range from {span[1]} to {span[2]}; expected one that ends above its beginning; "
            f"write [{span[2]}..{span[1]}]" if low > high else
            f"{where}: found a range from {span[1]} to itself; expected two different ends; write the plain value"
        )  # fmt: skip
    for end in (span[1], span[2]):
        _check(document, folder, (*others, f"{path}={end}"), where, f"{end}, an end of the range")
    whole = bool(INTEGER.fullmatch(span[1]) and INTEGER.fullmatch(span[2]))
    log = low > 0 and (high / low >= LOG_RATIO or loc[-1] == "lr")
    middle = math.sqrt(low * high) if log else (low + high) / 2
    auto = _accepts(document, folder, (*others, f"{path}=auto"))
    first = "auto" if auto else str(round(middle)) if whole else f"{middle:.3g}"
    return Knob(path=path, low=low, high=high, log=log, whole=whole, first=first)


def _first(document: Document, loc: Loc, value: Any) -> str:
    """Any one value of a knob."""
    span = _as_range(value)
    if span:
        return span[1]
    return _as_written(document, (*loc, 0), value[0]) if value else "auto"


def _as_written(document: Document, loc: Loc, value: Any) -> str:
    """A scalar of the document in the words of the user; anything else as JSON, which is YAML."""
    if isinstance(value, list | dict):
        return json.dumps(value)
    return document.written.get(loc) or ("null" if value is None else str(value))


def _check(document: Document, folder: Path, settings: tuple[str, ...], where: str, what: str) -> None:
    try:
        _recipe(override(document, settings), folder)
    except RecipeError as error:
        raise RecipeError(f"{where}: {what} cannot be tried: {error}") from None


def _accepts(document: Document, folder: Path, settings: tuple[str, ...]) -> bool:
    try:
        _recipe(override(document, settings), folder)
    except RecipeError:
        return False
    return True


def _recipe(document: Document, folder: Path) -> Recipe:
    try:
        return Recipe.model_validate(document.data, context=Context(folder=folder, text=document.text))
    except ValidationError as error:
        raise explain(error, document, folder) from None


def _default_knobs(recipe: Recipe) -> Iterator[Knob]:
    """Learning rate and share of replay, of the stages that leave them open."""
    for index, stage in enumerate(recipe.stages):
        table = rules.read_table(stage.technique)
        if getattr(stage, "lr", 0.0) is None:
            usual = rules.lr_range(table, _adapter(stage, table))
            yield Knob(path=f"stages.{index}.lr", low=usual.low, high=usual.high, log=True, first="auto")
        if stage.replay is not None and stage.replay.share is None:
            yield Knob(path=f"stages.{index}.replay.share", low=SHARES[0], high=SHARES[1], first="auto")


def _adapter(stage: Stage, table: rules.TechniqueTable) -> str:
    asked = getattr(stage, "adapter", "auto")
    return table.adapter.value if asked == "auto" else asked


def _number(text: str) -> float:
    share = text.strip().endswith("%")
    return float(text.strip().removesuffix("%")) / (100 if share else 1)
