"""Load: from a recipe file and the settings of the command line to a checked recipe; every fault is named at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from temper import registry
from temper.errors import RecipeError
from temper.recipe.document import Document, override, parse
from temper.recipe.explain import explain
from temper.recipe.schema import Recipe
from temper.recipe.values import Context


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a file, with `--set` settings such as `stages.0.lr=2e-4` applied."""
    path = Path(path)
    document = override(_read(path), tuple(overrides))
    folder = path.resolve().parent
    try:
        return Recipe.model_validate(document.data, context=Context(folder=folder, text=document.text))
    except ValidationError as error:
        raise explain(error, document, folder) from None


def _read(path: Path) -> Document:
    if path.is_dir():
        raise RecipeError(f"{path}: found a folder; expected a recipe file; name it, e.g. {path / 'temper.yaml'}")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        near = registry.hint(path.name, beside) or (f"there is {', '.join(sorted(beside)[:5])}; " if beside else "")
        raise RecipeError(f"{path}: found no such file; expected a recipe; {near}`temper init` writes one") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: found bytes that are not UTF-8 at {error.start}; expected a text file") from None
    document = parse(text, path.name)
    if not isinstance(document.data, dict):
        found = "an empty file" if document.data is None else f"a {type(document.data).__name__}"
        raise RecipeError(f"{path}: found {found}; expected keys base, probes and stages; `temper init` writes them")
    return document
