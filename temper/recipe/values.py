"""Values: how a number, a share or a path is written in a recipe, and what is said when it is written wrongly.

Percent strings, `2e-4` and `auto` are understood; a path starts at the folder of the recipe and has to be there.
"""

from __future__ import annotations

import contextlib
import glob
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ValidationInfo
from pydantic_core import PydanticCustomError

from temper import registry
from temper.data import hub


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the models need to know about the file they are read from."""

    folder: Path
    """Relative paths of the recipe start here."""
    text: str
    """The file as the user wrote it."""


def problem(expected: str, do: str = "") -> PydanticCustomError:
    """An error that says what was expected and what to do; `explain` adds where it is and what was found."""
    return PydanticCustomError("temper", "expected {expected}; {do}", {"expected": expected, "do": do})


def as_number(value: Any) -> float:
    """A finite number, also when it is written as text."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise problem("a number", "write it like 0.0002 or 2e-4")
    return float(value)


def _count(value: Any) -> int:
    try:
        number = as_number(value)
    except PydanticCustomError:
        number = math.nan
    if not number.is_integer():
        raise problem("a whole number", "write it like 200")
    return int(number)


def _share(value: Any) -> float:
    percent = isinstance(value, str) and value.rstrip().endswith("%")
    try:
        share = as_number(value.rstrip().removesuffix("%") if percent else value) / (100 if percent else 1)
    except PydanticCustomError:
        raise problem("a share", "write it like 25% or 0.25") from None
    if not 0 <= share <= 1:
        do = f"write {share:g}% or {share / 100:g}" if 1 < share <= 100 and not percent else "write it like 25% or 0.25"
        raise problem("a share between 0% and 100%", do)
    return share


def _tolerance(value: Any) -> float:
    try:
        share = _share(value)
    except PydanticCustomError:
        share = math.nan
    if not 0 < share <= 0.5:
        raise problem("a share above 0% and at most 50%", "write the largest general drop you accept, like 1% or 0.01")
    return share


def or_auto(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same conversion, with None for `auto`."""

    def converted(value: Any) -> Any:
        if value is None or value == "auto":
            return None
        try:
            return convert(value)
        except PydanticCustomError as error:
            seen = error.context or {}
            raise problem(f"{seen['expected']}, or auto", seen["do"]) from None

    return converted


def as_is(value: Any) -> Any:
    """No conversion: what a value may be is said by its type."""
    return value


def as_list(value: Any) -> Any:
    """One value where a list is meant."""
    return list(value) if isinstance(value, list | tuple) else [value]


def as_file(value: Any) -> Any:
    """A path where `{file: path}` is meant."""
    return {"file": value} if isinstance(value, str | Path) else value


def _existing(value: Path, info: ValidationInfo) -> Path:
    """The absolute path of a file that is there; recipes built in Python are taken as they are."""
    if not isinstance(info.context, Context):
        return value
    path = (info.context.folder / value.expanduser()).resolve()
    if path.is_dir():
        raise problem("a file", f"this is a folder; name the files in it as a list, e.g. [{value}/rows.jsonl]")
    if not path.is_file():
        folder = path.parent
        beside = sorted(p.name for p in folder.iterdir() if p.is_file()) if folder.is_dir() else []
        near = registry.hint(path.name, beside)
        files = ", ".join(beside[:5]) or "no files"
        there = f"{folder} has {files}" if folder.is_dir() else f"there is no folder {folder}"
        raise problem("a file that exists", f"{near}{there}; paths start at the folder of the recipe")
    return path


def _existing_folder(value: Path, info: ValidationInfo) -> Path:
    if not isinstance(info.context, Context):
        return value
    path = (info.context.folder / value.expanduser()).resolve()
    if not path.is_dir():
        raise problem("a folder that exists", f"there is no folder {path}; paths start at the folder of the recipe")
    return path


def _existing_data(value: Path, info: ValidationInfo) -> Path:
    """A file, a folder or a glob that finds something, as an absolute path; a data set of the hub as it is."""
    if hub.is_hub(str(value)) or not isinstance(info.context, Context):
        return value
    path = info.context.folder / value.expanduser()
    if path.is_dir():
        return path.resolve()
    if glob.has_magic(str(value)) and not path.exists():
        if not glob.glob(str(path), recursive=True):
            raise problem("a pattern that finds files", f"nothing matches {path}; correct the pattern")
        return path.absolute()
    return _existing(value, info)


def as_base(value: Any, info: ValidationInfo) -> Any:
    """A name stays a name; a folder, relative to the recipe, becomes an absolute path."""
    if not isinstance(value, str) or not value.strip() or not isinstance(info.context, Context):
        return value
    path = (info.context.folder / Path(value).expanduser()).resolve()
    if path.is_dir():
        return str(path)
    if path.is_file() or value.startswith((".", "/", "~")):
        found = "this is a file" if path.is_file() else f"there is no folder {path}"
        raise problem("a model folder, a hub id or a built-in name", f"{found}; name the folder that holds config.json")
    return value


def as_suite(value: Any, info: ValidationInfo) -> Any:
    """A suite by name, or a file of one's own."""
    is_file = isinstance(value, str) and ("/" in value or Path(value).suffix != "")
    return str(_existing(Path(value), info)) if is_file else value


Number = Annotated[float, BeforeValidator(as_number)]
Count = Annotated[int, BeforeValidator(_count)]
Share = Annotated[float, BeforeValidator(_share)]
AUTO_NUMBER = BeforeValidator(or_auto(as_number))
AUTO_COUNT = BeforeValidator(or_auto(_count))
AUTO_SHARE = BeforeValidator(or_auto(_share))
AutoShare = Annotated[float | None, AUTO_SHARE]
Tolerance = Annotated[float, BeforeValidator(_tolerance)]
ExistingFolder = Annotated[Path, AfterValidator(_existing_folder)]
DataPath = Annotated[Path, AfterValidator(_existing_data)]
