"""The package as syntax trees, read once for all architecture tests; nothing of temper is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

LAYERS = (
    "errors", "registry", "events", "stats", "budget", "data", "losses", "decide", "calibrate", "recipe", "model",
    "probes", "rollout", "techniques", "train", "run", "report", "launch", "search", "cli",
)  # fmt: skip
"""A module imports only from its own name and from names to its left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One Python file."""

    path: str
    """Relative to the repository, with forward slashes."""
    module: str
    """Dotted name, e.g. `temper.data.render`."""
    lines: int
    tree: ast.Module

    @property
    def layer(self) -> str:
        """The name right below `temper`; empty for the package itself."""
        return layer_of(self.module)


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One imported module, and whether importing the file imports it too."""

    target: str
    line: int
    lazy: bool
    """Inside a function or under TYPE_CHECKING."""


def layer_of(module: str) -> str:
    """`data` of `temper.data.render`; empty for `temper`."""
    return ".".join(module.split(".")[1:2])


def parse(text: str, path: str) -> Source:
    """A source of text that need not be on disk, so that the rules themselves can be tested."""
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return Source(path=path, module=module, lines=len(text.splitlines()), tree=ast.parse(text, path))


@cache
def package(folder: str = "temper") -> tuple[Source, ...]:
    """Every Python file below a folder of the repository."""
    return tuple(parse(file.read_text(encoding="utf-8"), _name(file)) for file in _files(folder))


def lines_of(folder: str) -> dict[str, int]:
    """Lines of every Python file below a folder of the repository, by its path; nothing is parsed."""
    return {_name(file): len(file.read_text(encoding="utf-8").splitlines()) for file in _files(folder)}


def _files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def _name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def imports(source: Source) -> Iterator[Import]:
    """Every import of a file; `from a import b` counts as `a.b` when `a.b` is a module of temper, else as `a`."""
    yield from _walk(source.tree, source, lazy=False)


def _walk(node: ast.AST, source: Source, *, lazy: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(target=a.name, line=child.lineno, lazy=lazy) for a in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{source.path}:{child.lineno}: relative import; write the full name"
            for alias in child.names:
                yield Import(target=_module(child.module or "", alias.name), line=child.lineno, lazy=lazy)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _walk(child, source, lazy=True)
        else:
            inner = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _walk(child, source, lazy=inner)


def _module(parent: str, name: str) -> str:
    joined = f"{parent}.{name}"
    if parent.split(".")[0] != "temper":
        return joined
    place = ROOT / joined.replace(".", "/")
    return joined if place.with_suffix(".py").is_file() or place.is_dir() else parent
