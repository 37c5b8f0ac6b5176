"""Document: a recipe file as plain values, each with the line it stands on and the words it was written in.

Scalars follow YAML 1.2: `off` is a word, `2e-4` a number. A key that is written twice is refused, where YAML loaders
take the last one in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from temper.errors import RecipeError

Loc = tuple[str | int, ...]
"""Where a value stands, e.g. `("stages", 0, "lr")`."""

INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
WORDS: Mapping[str, Any] = {"": None, "~": None, "null": None, "true": True, "false": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A YAML mapping and where each of its values came from."""

    name: str
    """File name, for messages."""
    text: str
    data: Any
    lines: Mapping[Loc, int] = field(default_factory=dict)
    """1-based line of every value that the file holds."""
    written: Mapping[Loc, str] = field(default_factory=dict)
    """Every scalar as it was written."""
    overrides: tuple[str, ...] = ()
    """Settings from the command line, as written."""

    def line(self, loc: Loc) -> int:
        """The line of a value, or of the nearest thing around it that the file holds."""
        return next((self.lines[loc[:n]] for n in range(len(loc), 0, -1) if loc[:n] in self.lines), 1)

    def where(self, loc: Loc) -> str:
        """`temper.yaml:9: stages.0.lr`, or the setting of the command line that put the value there."""
        path = dotted(loc)
        asked = next((o for o in self.overrides if (path + ".").startswith(o.partition("=")[0].strip() + ".")), None)
        start = f"--set {asked}" if asked else f"{self.name}:{self.line(loc)}"
        return f"{start}: {path}" if path else start


def dotted(loc: Loc) -> str:
    """`stages.0.lr` of `("stages", 0, "lr")`."""
    return ".".join(str(part) for part in loc)


def parse(text: str, name: str) -> Document:
    """Reads YAML text; `name` is what messages call the file."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise RecipeError(_syntax(error, name)) from None
    lines: dict[Loc, int] = {}
    written: dict[Loc, str] = {}
    data = None
    if root is not None:
        data = _value(root, (), name, ())
        for loc, node, line in _walk(root, (), 1):
            lines[loc] = line
            if isinstance(node, yaml.ScalarNode):
                written[loc] = node.value
    return Document(name=name, text=text, data=data, lines=lines, written=written)


def override(document: Document, settings: tuple[str, ...]) -> Document:
    """The document with settings such as `stages.0.lr=2e-4` put in, the text saying so at its end."""
    if not settings:
        return document
    data, written = document.data, dict(document.written)
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path.strip():
            raise RecipeError(f"--set {setting}: found no `=`; expected PATH=VALUE; write e.g. --set stages.0.lr=2e-4")
        value = parse(text, f"--set {setting}")
        loc = _locate(data, path.strip(), setting)
        data = _put(data, loc, value.data)
        written = {k: v for k, v in written.items() if k[: len(loc)] != loc}
        written.update({loc + k: v for k, v in value.written.items()})
    text = document.text.rstrip("\n") + "\n" + "".join(f"# --set {setting}\n" for setting in settings)
    return replace(document, data=data, written=written, overrides=settings, text=text)


def _syntax(error: yaml.YAMLError, name: str) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = f":{mark.line + 1}" if mark is not None else ""
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
    return f"{name}{line}: found {what}; expected YAML; check indentation (spaces, no tabs), colons and quotes there"


def _value(node: yaml.Node, loc: Loc, name: str, above: tuple[int, ...]) -> Any:
    line = node.start_mark.line + 1
    if id(node) in above:
        where = f"{name}:{line}: {dotted(loc)}"
        raise RecipeError(f"{where}: found an alias to itself; expected plain values; write them out")
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)
    above = (*above, id(node))
    if isinstance(node, yaml.SequenceNode):
        return [_value(child, (*loc, index), name, above) for index, child in enumerate(node.value)]
    mapping: dict[str, Any] = {}
    for key_node, child in node.value:
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
        if key in mapping:
            at = key_node.start_mark.line + 1
            raise RecipeError(f"{name}:{at}: {dotted((*loc, key))}: found twice; expected once; remove one of the two")
        mapping[key] = _value(child, (*loc, key), name, above)
    return mapping


def _scalar(node: yaml.ScalarNode) -> Any:
    text: str = node.value
    if node.style is not None:  # quoted or a block: text
        return text
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    if INTEGER.fullmatch(text):
        return int(text)
    return float(text) if FLOAT.fullmatch(text) else text


def _walk(node: yaml.Node, loc: Loc, line: int) -> Iterator[tuple[Loc, yaml.Node, int]]:
    """Every value with its line: of a mapping's value the key's line, which is where the user looks."""
    yield loc, node, line
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            yield from _walk(child, (*loc, index), child.start_mark.line + 1)
    elif isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            yield from _walk(child, (*loc, key.value), key.start_mark.line + 1)


def _locate(data: Any, path: str, setting: str) -> Loc:
    """The location a dotted path stands for; an index has to be there, a key may be new."""
    loc: Loc = ()
    for part in path.split("."):
        here = dotted(loc) or "the recipe"
        if isinstance(data, list):
            if not part.isdecimal() or int(part) >= len(data):
                raise RecipeError(
                    f"--set {setting}: found {here}.{part}; expected an entry of {here}, 0 to {len(data) - 1}; "
                    "entries are counted from 0"
                )
            loc, data = (*loc, int(part)), data[int(part)]
        elif isinstance(data, dict) or data is None or data == "auto":
            loc, data = (*loc, part), data.get(part) if isinstance(data, dict) else None
        else:
            raise RecipeError(
                f"--set {setting}: found {here} = {data!r}, which has no {part!r}; expected a mapping or a list; "
                f"set {here} as a whole"
            )
    return loc


def _put(data: Any, loc: Loc, value: Any) -> Any:
    if not loc:
        return value
    head, rest = loc[0], loc[1:]
    if isinstance(data, list):
        return [_put(item, rest, value) if index == head else item for index, item in enumerate(data)]
    inner = data if isinstance(data, dict) else {}
    return {**inner, head: _put(inner.get(head), rest, value)}
