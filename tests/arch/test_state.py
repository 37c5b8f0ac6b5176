"""No hidden state, no deep families, no swallowed errors."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

import pytest

from tests.arch.source import Source, package, parse

READ_ONLY = {"Mapping", "Sequence", "Collection", "Iterable", "Set", "AbstractSet", "Final", "frozenset", "tuple"}
"""Annotations that forbid a type checker to let anybody change the value."""

MAKERS = {"dict", "list", "set", "defaultdict", "OrderedDict", "Counter", "deque", "bytearray", "WeakValueDictionary"}

STATEFUL: Mapping[str, str] = {}
"""path -> why its module-level state is right; the registry is the one intended entry."""

FOREIGN_BASES = {
    "Exception", "Protocol", "Generic", "Enum", "StrEnum", "IntEnum", "NamedTuple", "TypedDict", "BaseModel",
    "Module", "Linear", "Function", "Sequence",
}  # fmt: skip
"""What a class may derive from besides one class of temper: torch's Module, Linear (peft looks for one) and autograd
Function, and Sequence, are the last four."""

BROAD_EXCEPT: Mapping[str, str] = {
    "temper/rollout/worker.py": "a reward of the user's that fails is an outcome, not a crash",
    "temper/rollout/environment.py": "an environment of the user's that fails is an outcome, not a crash",
}
"""path -> why any exception is data there: a reward or a judge of the user's that fails is an outcome, not a crash."""


def mutable_globals(source: Source) -> Iterator[str]:
    """Module-level dicts, lists and sets that nothing marks as constant."""
    for node in source.tree.body:
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if value is None or not _is_mutable(value):
            continue
        annotation = _name(node.annotation) if isinstance(node, ast.AnnAssign) else ""
        if annotation not in READ_ONLY and "__all__" not in map(_name, _targets(node)):
            yield f"{source.path}:{node.lineno}: mutable module-level value; annotate it Mapping, Sequence or Final"


def _is_mutable(value: ast.expr) -> bool:
    literal = isinstance(value, ast.Dict | ast.List | ast.Set | ast.DictComp | ast.ListComp | ast.SetComp)
    return literal or (isinstance(value, ast.Call) and _name(value.func) in MAKERS)


def _name(node: ast.expr) -> str:
    """`Mapping` of `collections.abc.Mapping[str, int]`."""
    if isinstance(node, ast.Subscript):
        node = node.value
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def written_globals(source: Source) -> Iterator[str]:
    """Functions that write to a module-level name, by `global` or in place."""
    names = {_name(t) for n in source.tree.body if isinstance(n, ast.Assign | ast.AnnAssign) for t in _targets(n)}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Global):
            yield f"{source.path}:{node.lineno}: global {', '.join(node.names)}; pass the value in"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for inner in ast.walk(node):
                written = [t for t in _targets(inner) if isinstance(t, ast.Subscript) and _name(t) in names]
                yield from (f"{source.path}:{t.lineno}: writes to the module-level {_name(t)}" for t in written)


def _targets(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Assign | ast.Delete):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign | ast.AugAssign) else []


def family_faults(sources: tuple[Source, ...]) -> Iterator[str]:
    """Classes with more than one own base, with a foreign base that is not listed, or deeper than one step."""
    classes = {n.name: (s, n) for s in sources for n in ast.walk(s.tree) if isinstance(n, ast.ClassDef)}

    def depth(name: str) -> int:
        _, node = classes[name]
        steps = [
            depth(_name(b)) + (not _only_configures(classes[_name(b)][1])) for b in node.bases if _name(b) in classes
        ]
        return max(steps, default=0)

    for name, (source, node) in classes.items():
        own = [b for b in map(_name, node.bases) if b in classes]
        foreign = {b for b in map(_name, node.bases) if b not in classes} - FOREIGN_BASES
        where = f"{source.path}:{node.lineno}: {name}"
        if len(own) > 1:
            yield f"{where} has {len(own)} bases of temper; no mixins"
        if foreign:
            yield f"{where} derives from {', '.join(sorted(foreign))}; hold one instead"
        if depth(name) > 1:
            yield f"{where} is the third generation; one base class, one step"


def _only_configures(node: ast.ClassDef) -> bool:
    """A base that sets `model_config` and nothing else is a setting, not a generation."""
    body = [n for n in node.body if not isinstance(n, ast.Expr | ast.Pass)]
    return len(body) == 1 and isinstance(body[0], ast.Assign | ast.AnnAssign) and "model_config" in ast.unparse(body[0])


def broad_excepts(source: Source) -> Iterator[str]:
    """Handlers of everything that do not raise again."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        broad = any(c is None or _name(c) in {"Exception", "BaseException"} for c in caught)
        if broad and not any(isinstance(n, ast.Raise) for n in ast.walk(node)):
            yield f"{source.path}:{node.lineno}: catches everything; name what can be put right here"


def test_modules_hold_no_mutable_state() -> None:
    sources = [s for s in package() if s.path not in STATEFUL]
    assert [fault for s in sources for rule in (mutable_globals, written_globals) for fault in rule(s)] == []


def test_classes_have_one_base_and_one_step() -> None:
    assert list(family_faults(package())) == []


def test_only_listed_files_catch_everything() -> None:
    assert [fault for s in package() if s.path not in BROAD_EXCEPT for fault in broad_excepts(s)] == []


def test_listed_exceptions_are_needed() -> None:
    for listed, rules in ((STATEFUL, (mutable_globals, written_globals)), (BROAD_EXCEPT, (broad_excepts,))):
        for source in (s for s in package() if s.path in listed):
            assert any(fault for rule in rules for fault in rule(source)), (
                f"{source.path} is clean: take it off the list"
            )
        assert set(listed) <= {s.path for s in package()}, "a listed file is gone"


@pytest.mark.parametrize(
    "text", ["CACHE = {}", "SEEN: list[str] = []", "x = defaultdict(list)", "A: dict[str, int] = {}"]
)
def test_the_state_rule_notices(text: str) -> None:
    assert len(list(mutable_globals(parse(text, "temper/x.py")))) == 1


@pytest.mark.parametrize(
    "text", ["A: Mapping[str, int] = {}", "A: Final = [1]", "__all__ = []", "A = (1, 2)", "def f():\n    a = {}"]
)
def test_the_state_rule_lets_constants_and_locals_pass(text: str) -> None:
    assert list(mutable_globals(parse(text, "temper/x.py"))) == []


@pytest.mark.parametrize(
    "text", ["A = 1\ndef f():\n    global A\n    A = 2", "A: Mapping = {}\ndef f():\n    A['x'] = 1"]
)
def test_the_state_rule_notices_a_write_from_a_function(text: str) -> None:
    assert len(list(written_globals(parse(text, "temper/x.py")))) == 1


def test_the_family_rule_notices_depth_mixins_and_foreign_bases() -> None:
    # C is the third generation, D has two bases of temper, E derives from somebody's Trainer: three faults.
    text = "class A: ...\nclass B(A): x = 1\nclass C(B): ...\nclass M: ...\nclass D(A, M): ...\nclass E(Trainer): ..."
    assert len(list(family_faults((parse(text, "temper/x.py"),)))) == 3


def test_a_base_that_only_configures_pydantic_is_no_generation() -> None:
    text = "class F(BaseModel):\n    model_config = 1\nclass Stage(F):\n    lr: float\nclass SFT(Stage): ...\n"
    assert list(family_faults((parse(text, "temper/x.py"),))) == []


def test_the_broad_except_rule_notices_silence_and_allows_cleaning_up() -> None:
    silent = parse("try:\n    f()\nexcept Exception:\n    pass\n", "temper/x.py")
    cleaning = parse("try:\n    f()\nexcept BaseException:\n    g()\n    raise\n", "temper/x.py")
    assert (len(list(broad_excepts(silent))), len(list(broad_excepts(cleaning)))) == (1, 0)
