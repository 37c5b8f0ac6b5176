"""Measures the sources of the catalogue and writes docs/catalogue.md.

Run: python scripts/make_catalogue.py              (the page alone, from catalog.toml and catalog_sizes.json)
     python scripts/make_catalogue.py --measure    (counts rows and tokens first; fetches what is not in the cache)
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from temper.data import catalog

if TYPE_CHECKING:
    from temper.data.render import Renderer

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "catalogue.md"
TOKENIZER = "smollm2-135m-instruct"
HEAD = """# Catalogue

This page is written by `scripts/make_catalogue.py` from `temper/data/catalog.toml`; do not edit it.

Every package is pinned by version and sha256 and read without being installed. Rows to train on that ask what a probe
asks, or share thirteen words in a row with one, are dropped (`dropped`). Tokens are those to learn, counted with the
tokenizer of `{tokenizer}`; sources made from the standard library were counted with Python {python}.
"""


def main(arguments: Sequence[str]) -> None:
    """Writes the page, after measuring when asked to."""
    if "--measure" in arguments:
        measure(Path(catalog.__file__).with_name("catalog_sizes.json"))
    PAGE.write_text(page(), encoding="utf-8")


def measure(to: Path) -> None:
    """Counts the rows of every source that needs no hub, and the tokens to learn of those to train on."""
    from temper.data.render import Renderer
    from temper.model.torch_backend import TorchBackend

    renderer = Renderer.load(TorchBackend().locate(TOKENIZER).folder)
    sizes: dict[str, dict[str, int]] = {}
    for name, entry in catalog.sources(optional=True).items():
        if entry.hub is None:
            items = catalog.load(name)
            sizes[name] = {"rows": len(items)}
            if entry.role == "train":
                sizes[name]["removed"] = catalog.removed(name)
            if entry.role == "train" and "prompt" not in items[0]:
                sizes[name]["tokens"] = sum(_tokens(renderer, item) for item in items)
            print(name, sizes[name], file=sys.stderr, flush=True)
    about = {"tokenizer": TOKENIZER, "python": platform.python_version()}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(size)}" for name, size in sizes.items())
    to.write_text(f'{{"measured": {json.dumps(about)}, "sources": {{\n{lines}\n}}}}\n', encoding="utf-8")


def page() -> str:
    """The page as text."""
    sizes = json.loads(Path(catalog.__file__).with_name("catalog_sizes.json").read_text(encoding="utf-8"))
    about = sizes.get("measured", {"tokenizer": TOKENIZER, "python": "?"})
    described = list(catalog.sources(optional=True).values())
    groups = {
        "Rows that a category brings in": [e for e in described if e.role == "train" and not e.optional],
        "Rows to ask for by name": [e for e in described if e.role == "train" and e.optional and not e.hub],
        "Rows from a hub, to ask for by name": [e for e in described if e.role == "train" and e.hub],
        "Probes and what is held out beside them": [e for e in described if e.role != "train"],
    }
    parts = [HEAD.format(**about)]
    parts += [f"\n## {title}\n\n{_table(entries, sizes['sources'])}" for title, entries in groups.items()]
    return "".join(parts)


def _table(entries: Sequence[catalog.Source], sizes: dict[str, dict[str, int]]) -> str:
    lines = [
        "| name | category | from | rows | tokens | dropped | licence | what |",
        "|---|---|---|--:|--:|--:|---|---|",
    ]
    for entry in entries:
        size = sizes.get(entry.name, {})
        rows = f"up to {entry.limit:,}" if entry.hub else f"{size['rows']:,}" if "rows" in size else ""
        counts = " | ".join(f"{size[key]:,}" if key in size else "" for key in ("tokens", "removed"))
        held = " Held out, in no built-in suite." if entry.role == "eval-only" else ""
        about = f"{entry.licence} | {entry.note}{held}"
        lines.append(f"| `{entry.name}` | {entry.category} | {entry.where} | {rows} | {counts} | {about} |")
    return "\n".join(lines) + "\n"


def _tokens(renderer: Renderer, item: catalog.Item) -> int:
    """Tokens that carry loss: the assistant's, or all of a text."""
    from temper.data.rows import Message, Row

    if "messages" not in item:
        return len(renderer.text(cast("catalog.TextRow", item)["text"]))
    messages = tuple(Message(**message) for message in item["messages"])
    return renderer.datum(Row(id=item["id"], messages=messages, origin=item["id"]), source="").supervised


if __name__ == "__main__":
    main(sys.argv[1:])
