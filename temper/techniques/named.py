"""Named: what a recipe says of rewards and environments, with the user's own files by their whole path."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationInfo

from temper.recipe.values import Context


def short(spec: object) -> str:
    """A specification as `temper check` shows it, files by their names."""
    if isinstance(spec, str):
        return Path(spec).name if ".py:" in spec else spec
    if isinstance(spec, Mapping):
        return "{" + ", ".join(f"{short(k)}: {short(v)}" for k, v in spec.items()) + "}"
    if isinstance(spec, list | tuple):
        return ", ".join(map(short, spec))
    return str(spec)


def hashes(specs: Sequence[object]) -> tuple[str, ...]:
    """sha256 of every file of the user's that the specifications name, so that another reward is another run."""
    found: list[str] = []
    for spec in specs:
        if isinstance(spec, str) and ".py:" in spec:
            path = Path(spec.rpartition(":")[0])
            found.append(hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "")
        elif isinstance(spec, Mapping):
            found += hashes([*spec, *spec.values()])
        elif isinstance(spec, list | tuple):
            found += hashes(spec)
    return tuple(found)


def _as_spec(value: Any, info: ValidationInfo) -> Any:
    """What a recipe says of a reward or an environment, with weights as a sum and files by their whole path."""
    folder = info.context.folder if isinstance(info.context, Context) else Path.cwd()
    if isinstance(value, list | tuple):
        return {"sum": [_summand(v, folder) for v in value]}
    if isinstance(value, Mapping) and isinstance(value.get("sum"), list | tuple):
        return {"sum": [_summand(v, folder) for v in value["sum"]]}
    if isinstance(value, Mapping) and value and all(_is_number(w) for w in value.values()):
        return {"sum": [{"reward": _absolute(n, folder), "weight": w} for n, w in value.items()]}
    return _named(value, folder)


def _summand(value: Any, folder: Path) -> Any:
    if isinstance(value, Mapping) and "reward" in value:
        return {**value, "reward": _named(value["reward"], folder)}
    return _named(value, folder)


def _named(value: Any, folder: Path) -> Any:
    if isinstance(value, Mapping):
        return {_absolute(name, folder): params for name, params in value.items()}
    return _absolute(value, folder)


def _absolute(name: Any, folder: Path) -> Any:
    """`rewards.py:exact` with the whole path of the file; any other name stays as it is."""
    place, colon, attribute = name.rpartition(":") if isinstance(name, str) else ("", "", "")
    if not colon or not place.endswith(".py"):
        return name
    return f"{(folder / Path(place).expanduser()).resolve()}:{attribute}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


Spec = Annotated[str | Mapping[str, Any] | None, BeforeValidator(_as_spec)]
