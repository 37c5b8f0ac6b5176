"""Bind: a reward by name with its parameters, checked against the function's own signature.

The keyword-only arguments of a reward are its parameters; their annotations say what a recipe may write. The same code
runs in the worker process, where a user's own file is imported, so nothing heavy is at the top.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from temper import registry
from temper.errors import RecipeError
from temper.rollout.score import Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One reward of a recipe: a name and parameters, plain data that travels to any process."""

    label: str
    """Name of its part in a score, and in messages."""
    name: str
    """A built-in name, an entry point, `package.module:function`, or `/folder/file.py:function`."""
    params: Mapping[str, Any] = field(default_factory=dict)
    where: str = "reward"
    """Dotted path in the recipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A rule with its checked parameters: ready to be called."""

    rule: Rule
    params: Mapping[str, Any]

    @property
    def needs(self) -> tuple[str, ...]:
        """Fields that every task must have."""
        return (*self.rule.needs, *self.rule.further(self.params))

    @property
    def seconds(self) -> float:
        """The time it limits itself to, of a rule with a parameter of that name; else 0."""
        default = inspect.signature(self.rule.function).parameters.get("seconds")
        value = self.params.get("seconds", default.default if default is not None else 0.0)
        return float(value) if isinstance(value, int | float) else 0.0


def bind(leaf: Leaf) -> Bound:
    """Loads what a leaf names and checks its parameters.

    Raises:
        RecipeError: it is not there, it is no reward, or a parameter does not fit.
    """
    try:
        found = registry.load("reward", leaf.name)
    except RecipeError as error:
        raise RecipeError(f"{leaf.where}: {error}") from None
    rule = found if isinstance(found, Rule) else Rule(function=found)
    if not callable(rule.function) or isinstance(rule.function, type):
        raise RecipeError(
            f"{leaf.where}: {leaf.name} is {found!r}; expected a function (task, reply) that returns a number or a"
            " Score; name one"
        )
    _check_shape(rule.function, leaf)
    params = checked(rule.function, leaf.params, f"{leaf.where}.{leaf.name}")
    rule.check(params)
    return Bound(rule=rule, params=params)


def checked(function: Callable[..., Any], given: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The keyword-only arguments of a function (all those of a class) as its annotations want them.

    Raises:
        RecipeError: one is not known, missing, or of the wrong type.
    """
    parameters = inspect.signature(function).parameters
    known = {n: p for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY or _is_named(function, p)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in given:
        if name not in known and not takes_any:
            raise RecipeError(
                f"{where}.{name}: found a parameter that is not known; expected one of: {', '.join(known) or 'none'};"
                f" {registry.hint(name, known)}remove or rename it"
            )
    missing = [n for n, p in known.items() if p.default is p.empty and n not in given]
    if missing:
        raise RecipeError(
            f"{where}: found no {missing[0]}; expected a value, there is no default for it; add {missing[0]}: ..."
        )
    types = _annotations(function)
    return {name: _value(types.get(name, Any), value, f"{where}.{name}") for name, value in given.items()}


def _is_named(function: Callable[..., Any], parameter: inspect.Parameter) -> bool:
    """A class is only ever made with names, so all of its arguments are parameters."""
    return isinstance(function, type) and parameter.kind is parameter.POSITIONAL_OR_KEYWORD


def _annotations(function: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(function.__init__ if isinstance(function, type) else function)
    except (NameError, TypeError):  # a name that only a type checker imports: the value is taken as it is
        return {}


def _value(wanted: Any, value: Any, where: str) -> Any:
    if wanted is Any:
        return value
    from pydantic import ConfigDict, TypeAdapter, ValidationError
    from pydantic.errors import PydanticUserError

    try:
        strict = TypeAdapter(wanted, config=ConfigDict(strict=False, coerce_numbers_to_str=False))
    except PydanticUserError:  # a class of its own, for which pydantic takes no configuration
        strict = TypeAdapter(wanted)
    try:
        return strict.validate_python(value)
    except ValidationError as error:
        raise RecipeError(
            f"{where}: found {value!r}; expected {inspect.formatannotation(wanted)} ({error.errors()[0]['msg']});"
            " correct it"
        ) from None


def _check_shape(function: Callable[..., Any], leaf: Leaf) -> None:
    if inspect.iscoroutinefunction(function):
        raise RecipeError(
            f"{leaf.where}: {leaf.name} is an async function; expected a plain one; write def instead of async def"
        )
    try:
        inspect.signature(function).bind("task", "reply", **leaf.params)
    except TypeError:
        signature = inspect.signature(function)
        try:
            signature.bind_partial("task", "reply")
        except TypeError:
            raise RecipeError(
                f"{leaf.where}: {leaf.name} is called as {signature}; expected (task, reply), further parameters after"
                " a star; change its signature"
            ) from None
        positional = [
            p.name for p in signature.parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
        ][2:]  # fmt: skip
        if positional:
            raise RecipeError(
                f"{leaf.where}: {leaf.name} is called as {signature}; expected (task, reply), further parameters after"
                " a star; change its signature"
            ) from None
