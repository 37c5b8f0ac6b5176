"""Explain: what is wrong with a recipe, a sentence per fault: where, what was found, what was expected, what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from temper import registry
from temper.errors import RecipeError
from temper.recipe.document import Document, Loc
from temper.recipe.schema import Recipe, Stage, stage_class

MOST = 10
"""More faults than this are counted, not listed."""

ADVICE: Mapping[str, str] = {
    "base": "add `base: smollm2-135m-instruct`, a hub id or a model folder",
    "probes": "add `probes: {domain: [exam.jsonl]}`, held-out rows of your domain; `temper init` makes them",
    "domain": "add `domain: [exam.jsonl]`, held-out rows of your domain; `temper init` makes them",
    "stages": "add a stage: `- technique: sft` with `data: FILE` below",
    "data": "add `data: FILE`, the rows to learn from",
    "file": "add `file: FILE`",
}
"""Key that is missing -> what to write."""

EXPECTED: Mapping[str, str] = {
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number of at most {le:g}",
    "too_short": "at least {min_length} of them",
    "string_too_short": "at least {min_length} character",
    "string_type": "text",
    "path_type": "a path",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping of keys",
    "mapping_type": "a mapping of keys",
    "model_type": "a mapping of keys",
    "model_attributes_type": "a mapping of keys",
    "literal_error": "one of: {expected}",
}
"""Kind of pydantic error -> what was expected."""


def explain(error: ValidationError, document: Document, folder: Path) -> RecipeError:
    """One error that tells of every fault, in the order of the file; `folder` is where the recipe lies."""
    found = error.errors(include_url=False)
    # A list whose entries are all wrong also counts as empty; that would blame the user for something else.
    faults = [f for f in found if f["type"] != "too_short" or not any(_is_below(o["loc"], f["loc"]) for o in found)]
    faults.sort(key=lambda f: document.line(f["loc"]))
    sentences = list(dict.fromkeys(_sentence(fault, document, folder) for fault in faults))
    if len(sentences) == 1:
        return RecipeError(sentences[0])
    listed = sentences[:MOST]
    more = [f"and {len(sentences) - MOST} more"] if len(sentences) > MOST else []
    return RecipeError("\n".join([f"{document.name}: {len(sentences)} problems", *listed, *more]))


def _sentence(fault: Any, document: Document, folder: Path) -> str:
    loc: Loc = fault["loc"]
    kind, context = fault["type"], fault.get("ctx", {})
    found, do = _found(fault, document), "write one of these"
    if kind == "extra_forbidden":
        known = tuple(_keys_at(loc[:-1], document, folder))
        found, expected = "a key that nothing reads", f"one of: {', '.join(known)}"
        do = f"{registry.hint(str(loc[-1]), known)}correct or remove it"
    elif kind == "missing":
        found, expected = "nothing", "a value"
        do = ADVICE.get(str(loc[-1]), f"add `{loc[-1]}: ...`")
    elif kind == "temper":
        expected, do = context["expected"], context["do"]
    elif kind == "literal_error":
        expected = EXPECTED[kind].format(**context)
        words = [word.strip("'") for word in context["expected"].replace(" or ", ", ").split(", ")]
        do = f"{registry.hint(str(fault['input']), words)}{do}"
    elif kind in EXPECTED:
        expected, do = EXPECTED[kind].format(**context), ADVICE.get(str(loc[-1]), "correct it")
    else:
        expected, do = fault["msg"], "correct it"
    shown = loc if kind in ("missing", "extra_forbidden") else _shown(loc, document)
    return f"{document.where(shown)}: found {found}; expected {expected}; {do}"


def _shown(loc: Loc, document: Document) -> Loc:
    """The part of a location that the user wrote: `data` where the models say `data.0.file`."""
    data: Any = document.data
    for depth, part in enumerate(loc):
        if not _holds(data, part):
            return loc[: depth + isinstance(data, dict)]
        data = data[part]
    return loc


def _is_below(loc: Loc, above: Loc) -> bool:
    return len(loc) > len(above) and loc[: len(above)] == above


def _found(fault: Any, document: Document) -> str:
    loc = _shown(fault["loc"], document)
    if loc in document.written:
        return document.written[loc] or "nothing"
    value = fault["input"]
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _keys_at(loc: Loc, document: Document, folder: Path) -> Iterator[str]:
    """The keys that the model at a location knows, as they are written in YAML."""
    models: list[type[BaseModel]] = [Recipe]
    data: Any = document.data
    for part in loc:
        data = data[part] if _holds(data, part) else None
        if isinstance(part, str):
            found = {f.alias or name: f.annotation for m in models for name, f in m.model_fields.items()}
            models = list(_models(found.get(part)))
        if models == [Stage] and isinstance(data, dict):
            models = [stage_class(str(data.get("technique")), folder)]
    for model in models:
        yield from (f.alias or name for name, f in model.model_fields.items())


def _holds(data: Any, part: str | int) -> bool:
    if isinstance(data, list):
        return isinstance(part, int) and part < len(data)
    return isinstance(data, dict) and part in data


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a type is made of: Replay of `Replay | None`, DataFile of `tuple[DataFile, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
