"""Registry: from a name in a recipe to the object behind it, loaded only when it is asked for.

A name is looked up in three places: the table of what temper brings (`BUILT_IN`), the entry points `temper.<group>` of
installed packages, and the name itself, read as `package.module:attribute` or `./file.py:attribute`. So a recipe can
name a technique without the recipe package importing it. Imports nothing of temper but errors.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from temper.errors import RecipeError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

BUILT_IN: Mapping[str, Mapping[str, str]] = {
    "technique": {
        "cpt": "temper.techniques.cpt:CPT",
        "distill": "temper.techniques.distill:Distill",
        "dpo": "temper.techniques.dpo:DPO",
        "rft": "temper.techniques.rft:RFT",
        "sft": "temper.techniques.sft:SFT",
    },
    "backend": {"torch": "temper.model.torch_backend:TorchBackend"},
    "reward": {
        "exact": "temper.rollout.rewards.text:exact",
        "contains": "temper.rollout.rewards.text:contains",
        "regex": "temper.rollout.rewards.text:regex",
        "length": "temper.rollout.rewards.text:length",
        "numeric": "temper.rollout.rewards.numbers:numeric",
        "math": "temper.rollout.rewards.numbers:math",
        "json_schema": "temper.rollout.rewards.json_schema:json_schema",
        "ifeval": "temper.rollout.rewards.checks:ifeval",
        "code": "temper.rollout.rewards.checks:code",
        "endpoint": "temper.rollout.endpoint:endpoint",
        "judge": "temper.rollout.judge:judge",
        "reasoning_gym": "temper.rollout.rewards.gyms:reasoning_gym",
        "verifiers": "temper.rollout.rewards.gyms:verifiers",
    },
    "export": {"hf": "temper.model.export:whole", "adapter": "temper.model.export:adapter"},
}
"""Group -> name -> `module:attribute`. A new technique is one line here."""


def names(group: str) -> tuple[str, ...]:
    """All names of a group, built in and installed, sorted."""
    installed = (point.name for point in _installed(group))
    return tuple(sorted({*BUILT_IN.get(group, {}), *installed}))


def load(group: str, name: str, *, folder: Path | None = None) -> Any:
    """The object that a name of a group stands for; files are looked up relative to `folder`.

    Example:
        load("technique", "sft"), load("technique", "acme.techniques:Curriculum"), load("technique", "./mine.py:Mine")
    """
    target = BUILT_IN.get(group, {}).get(name)
    if target is not None:
        return _load_target(target, group=group, folder=folder)
    for point in (point for point in _installed(group) if point.name == name):
        return _load_target(point.value, group=group, folder=folder)
    if ":" in name:
        return _load_target(name, group=group, folder=folder)
    known = names(group)
    raise RecipeError(
        f"{group} {name!r} is not known; expected one of: {', '.join(known) or 'none installed'}; "
        f"{hint(name, known)}write one of these, or your own as package.module:name or ./file.py:name"
    )


def hint(name: str, known: Iterable[str]) -> str:
    """`did you mean 'X'? ` for a name that is close to a known one, else nothing."""
    spelt = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), spelt, n=1, cutoff=0.6)
    return f"did you mean {spelt[near[0]]!r}? " if near else ""


def _installed(group: str) -> EntryPoints:
    """What installed packages bring; imported here, since a worker that grades replies starts twice as fast without."""
    from importlib.metadata import entry_points

    return entry_points(group=f"temper.{group}")


def _load_target(target: str, *, group: str, folder: Path | None) -> Any:
    place, _, attribute = target.partition(":")
    where = f"{group} {target!r}"
    if place.endswith(".py"):
        module = _import_file((folder or Path()) / Path(place).expanduser(), where)
    else:
        module = _import_module(place, where)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [n for n in vars(found) if not n.startswith("_")] if hasattr(found, "__dict__") else []
            raise RecipeError(
                f"{where}: {place} has no {part!r}; {hint(part, public)}expected the name of something defined there"
            )
        found = getattr(found, part)
    return found


def _import_module(name: str, where: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A dependency that the named module lacks is a fault to be seen with its traceback, not a wrong name.
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise
        raise RecipeError(
            f"{where}: there is no module {error.name!r}; expected one that Python can import; "
            "install its package, or write ./file.py:name for a file beside the recipe"
        ) from None


def _import_file(path: Path, where: str) -> Any:
    path = path.resolve()
    if not path.is_file():
        beside = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise RecipeError(f"{where}: no such file {path}; {hint(path.name, beside)}expected a Python file")
    name = f"temper_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up here
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
