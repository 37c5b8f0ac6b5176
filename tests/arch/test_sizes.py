"""Nothing grows beyond what one reads in one go; an exception is listed with its reason and its own limit."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from tests.arch.source import Source, lines_of, package, parse

FILE_SOFT, FILE_HARD = 400, 600
FUNCTION_SOFT, FUNCTION_HARD = 60, 100
PARAMETERS = 7

LONG_FILES: Mapping[str, tuple[int, str]] = {}
"""path -> (limit, reason); a limit only ever goes down."""

LONG_FUNCTIONS: Mapping[str, tuple[int, str]] = {}
"""path:name -> (limit, reason)."""

MANY_PARAMETERS: Mapping[str, tuple[int, str]] = {}
"""path:name -> (limit, reason)."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def own() -> tuple[Source, ...]:
    """Everything that is not a test."""
    return package("temper") + package("examples") + package("benchmarks")


def functions(source: Source) -> Iterator[tuple[str, Function]]:
    """Every function and method with its key in the lists above."""
    for node in ast.walk(source.tree):
        if isinstance(node, Function):
            yield f"{source.path}:{node.name}", node


def length(node: Function) -> int:
    """Lines from `def` to the end, docstring included."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def parameters(node: Function) -> int:
    """How many arguments a reader has to know; `self` and `cls` are not among them."""
    a = node.args
    names = [p.arg for p in (*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg)))]
    return len([name for i, name in enumerate(names) if not (i == 0 and name in {"self", "cls"})])


def over(sizes: Mapping[str, int], soft: int, listed: Mapping[str, tuple[int, str]]) -> dict[str, int]:
    """What is beyond its limit."""
    return {key: size for key, size in sizes.items() if size > listed.get(key, (soft, ""))[0]}


def test_files_can_be_read_in_one_go() -> None:
    assert over({s.path: s.lines for s in own()}, FILE_SOFT, LONG_FILES) == {}
    assert over(lines_of("tests"), FILE_HARD, {}) == {}


def test_functions_fit_on_a_screen() -> None:
    sizes = {key: length(node) for source in own() for key, node in functions(source)}
    assert over(sizes, FUNCTION_SOFT, LONG_FUNCTIONS) == {}


def test_functions_take_few_parameters() -> None:
    sizes = {key: parameters(node) for source in own() for key, node in functions(source)}
    assert over(sizes, PARAMETERS, MANY_PARAMETERS) == {}


def test_exceptions_are_needed_reasoned_and_below_the_hard_limit() -> None:
    files = {s.path: s.lines for s in own()}
    long = {key: length(node) for source in own() for key, node in functions(source)}
    many = {key: parameters(node) for source in own() for key, node in functions(source)}
    for listed, sizes, soft, hard in (
        (LONG_FILES, files, FILE_SOFT, FILE_HARD),
        (LONG_FUNCTIONS, long, FUNCTION_SOFT, FUNCTION_HARD),
        (MANY_PARAMETERS, many, PARAMETERS, PARAMETERS + 3),
    ):
        for key, (limit, reason) in listed.items():
            assert soft < sizes.get(key, 0), f"{key} fits again (or is gone): take it off the list"
            assert limit <= hard, f"{key}: no list entry goes above {hard}"
            assert len(reason.split()) >= 4, f"{key}: say why"


def test_sizes_are_counted_as_a_reader_counts_them() -> None:
    source = parse("class A:\n    def f(self, a, *, b, **c):\n        return a\n", "temper/x.py")
    ((key, node),) = functions(source)
    assert (key, length(node), parameters(node), source.lines) == ("temper/x.py:f", 2, 3, 3)
