"""Between parts travel values with names: a dict of anything is for the border, where JSON is read or written."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from tests.arch.source import Source, package, parse

BORDER: Mapping[str, str] = {
    "temper/report/summary.py": "its result is the JSON document of `temper report --json`",
}
"""path -> which JSON it reads or writes."""

IMPOSED: Mapping[str, str] = {
    "backward": "torch's autograd wants one gradient per input, by position",
    "key": "an identity to compare and to look up by, never taken apart",
}
"""Function name -> why its tuple has no names."""


def loose_signatures(source: Source) -> Iterator[str]:
    """Public functions that take or return `dict[str, Any]` or a bare tuple of three and more different things."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        annotations = [a.annotation for a in arguments] + [node.returns]
        if any("dict[str, Any]" in ast.unparse(a) for a in annotations if a is not None):
            yield f"{source.path}:{node.lineno}: {node.name} has a dict[str, Any]; name the fields in a dataclass"
        if node.name not in IMPOSED and _is_bare_tuple(node.returns):
            yield f"{source.path}:{node.lineno}: {node.name} returns a bare tuple; name the fields in a dataclass"


def _is_bare_tuple(node: ast.expr | None) -> bool:
    if not (
        isinstance(node, ast.Subscript) and ast.unparse(node.value) == "tuple" and isinstance(node.slice, ast.Tuple)
    ):
        return False
    kinds = [ast.unparse(part) for part in node.slice.elts]
    return len(kinds) >= 3 and len(set(kinds)) > 1


def test_public_functions_exchange_named_values() -> None:
    assert [fault for s in package() if s.path not in BORDER for fault in loose_signatures(s)] == []


def test_the_border_is_where_it_is_said_to_be() -> None:
    idle = {path for path in BORDER if not any(list(loose_signatures(s)) for s in package() if s.path == path)}
    assert idle == set(), "take it off the list"


def test_the_rule_notices_and_lets_pass() -> None:
    loose = parse("def f(x: dict[str, Any]): ...\ndef g() -> tuple[int, str, float]: ...", "temper/x.py")
    named = parse(
        "def f(x: Mapping[str, float]) -> tuple[int, int, int]: ...\ndef _g() -> dict[str, Any]: ...", "temper/x.py"
    )
    assert (len(list(loose_signatures(loose))), len(list(loose_signatures(named)))) == (2, 0)
