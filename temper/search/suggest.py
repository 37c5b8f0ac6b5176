"""Suggest: the next values to try, from Optuna's tree-structured Parzen estimator on both axes and the cost.

The study lives in our own log: a trial that goes on to a higher rung is known better than before, and Optuna's storage
does not take a word back. So the sampler is told everything anew each time, which costs milliseconds, and its choice
follows from the log and the seed alone: a study that was killed goes on with the same values.
"""

from __future__ import annotations

import importlib
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from temper.errors import MissingExtra
from temper.search.space import Knob, Value, Values

STARTUP = 5
"""Trials spread evenly over the space before the estimator has something to estimate from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What is known of the values of a trial."""

    values: Values
    domain: float
    """Expected at the end; higher is better."""
    drop: float
    """General drop where it is near the tolerance: what is far inside it should not be bought with domain score."""
    cost: float
    """Tokens of the whole length."""
    excess: float
    """Drop beyond the tolerance; at most 0 when it is kept."""


def suggest(knobs: Sequence[Knob], told: Sequence[Told], *, number: int, seed: int) -> Values:
    """Values for trial `number`: three objectives (domain, drop, cost) under the constraint of the tolerance."""
    if len(told) < STARTUP:
        return spread(knobs, number=number, seed=seed)
    optuna = _optuna()
    with _quiet():
        sampler = optuna.samplers.TPESampler(seed=(seed * 100_003 + number) % 2**32, n_startup_trials=0)
        study = optuna.create_study(directions=["maximize", "minimize", "minimize"], sampler=sampler)
        distributions = _distributions(knobs)
        for one in told:
            study.add_trial(_frozen(optuna, one, distributions))
        asked = study.ask(distributions)
        found: Mapping[str, Any] = asked.params
    return {knob.path: _held(knob, found[knob.path]) for knob in knobs}


def spread(knobs: Sequence[Knob], *, number: int, seed: int) -> Values:
    """The values of point `number` of an even cover of the space: five random ones may well lie side by side.

    Additive recurrence with the powers of the root of x^(d+1) = x + 1 (Roberts 2018), the golden ratio for one knob.
    """
    root = 1.5
    for _ in range(30):
        root = (1.0 + root) ** (1.0 / (len(knobs) + 1))
    found: dict[str, Value] = {}
    for place, knob in enumerate(knobs, start=1):
        part = (0.5 + seed * math.sqrt(2.0) + number * root**-place) % 1.0
        if knob.choices:
            found[knob.path] = knob.choices[int(part * len(knob.choices))]
        elif knob.log:
            found[knob.path] = _held(knob, knob.low * (knob.high / knob.low) ** part)
        else:
            found[knob.path] = _held(knob, knob.low + (knob.high - knob.low) * part)
    return found


def importance(knobs: Sequence[Knob], told: Sequence[Told]) -> dict[str, float]:
    """How much of what parts the better trials from the others each knob explains, summing to 1 (PED-ANOVA).

    Zero for all where there are too few trials to tell.
    """
    nothing = {knob.path: 0.0 for knob in knobs}
    if len(told) < STARTUP or len({one.domain for one in told}) < 2:
        return nothing
    optuna = _optuna()
    with _quiet():
        study = optuna.create_study()
        distributions = _distributions(knobs)
        for one in told:
            kept = one.domain if one.excess <= 0 else -one.excess
            study.add_trial(optuna.trial.create_trial(params=_params(one), distributions=distributions, value=-kept))
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return nothing | {path: float(share) for path, share in found.items()}


def _optuna() -> Any:
    try:
        return importlib.import_module("optuna")
    except ImportError:
        raise MissingExtra("optuna", "search") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna logs every trial and warns about what is experimental; a study says what it does itself."""
    logger = logging.getLogger("optuna")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _distributions(knobs: Sequence[Knob]) -> dict[str, Any]:
    kinds = _optuna().distributions
    found: dict[str, Any] = {}
    for knob in knobs:
        if knob.choices:
            found[knob.path] = kinds.CategoricalDistribution(knob.choices)
        elif knob.whole:
            found[knob.path] = kinds.IntDistribution(round(knob.low), round(knob.high), log=knob.log)
        else:
            found[knob.path] = kinds.FloatDistribution(knob.low, knob.high, log=knob.log)
    return found


def _frozen(optuna: Any, one: Told, distributions: Mapping[str, Any]) -> Any:
    return optuna.trial.create_trial(
        params=_params(one), distributions=dict(distributions), values=[one.domain, one.drop, one.cost],
        constraints={"drop": one.excess},
    )  # fmt: skip


def _params(one: Told) -> dict[str, Value]:
    return dict(one.values)


def _held(knob: Knob, value: Value) -> Value:
    """The value as it will be written, so that what is told is what was run."""
    if knob.choices:
        return value
    held = min(max(float(knob.written(value)), knob.low), knob.high)
    return round(held) if knob.whole else held
