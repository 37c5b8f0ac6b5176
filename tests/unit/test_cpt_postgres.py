"""The manual's questions: made from the structure of its pages, answered by them, and never on both sides."""

from __future__ import annotations

import importlib.util
import json
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "cpt-postgres"
HEAD = '<html><head><title>{title}</title></head><body><div class="navheader">Prev<hr /></div>'
FOOT = '<div class="navfooter">Next</div></body></html>'
WORDS = ("cache", "lock", "log", "query", "replica", "socket", "table", "vacuum", "view", "worker", "page", "index")


@cache
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cpt_postgres_make_data", EXAMPLE / "make_data.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def manual(folder: Path) -> Path:
    """A manual of one configuration page and a page per command, in the markup of the real one."""
    folder.mkdir()
    entries = "".join(
        f'<dt id="GUC-{w.upper()}"><span class="term"><code class="varname">max_{w}_size</code> '
        f'(<code class="type">integer</code>)</span></dt><dd><p>\n Sets the largest size of a {w}.  The default is\n'
        f' {n + 1} megabytes (<code class="literal">{n + 1}MB</code>).  A <em>{w}</em> may grow.</p></dd>'
        for n, w in enumerate(WORDS)
    )
    config = f"{HEAD.format(title='20. Sizes')}<h2>20. Sizes</h2><dl>{entries}</dl>{FOOT}"
    (folder / "runtime-config-sizes.html").write_text(config, encoding="utf-8")
    for w in (*WORDS, "select"):
        name = "SELECT" if w == "select" else f"CREATE {w.upper()}"
        purpose = f'<div class="refnamediv"><h2>{name}</h2><p>{name} \u2014 define a new {w}</p></div>'
        long = "<p>More of it.</p>" * (1200 if w in ("select", "view") else 0)
        title = f'{name}<a title="PostgreSQL 15.99 Documentation"></a>'
        page = f"{HEAD.format(title=title)}{purpose}<p>{'It does. ' * 20}</p>{long}{FOOT}"
        (folder / f"sql-{w}.html").write_text(page, encoding="utf-8")
    return folder


def made(tmp_path: Path) -> tuple[list[dict[str, Any]], Path]:
    out = tmp_path / "data"
    script().write(manual(tmp_path / "html"), out)
    lines = [line for side in ("train", "exam") for line in (out / f"{side}.jsonl").read_text().splitlines()]
    return [json.loads(line) for line in lines], out


def test_questions_follow_from_the_markup(tmp_path: Path) -> None:
    rows, out = made(tmp_path)
    answers = {row["prompt"]: row["completion"] for row in rows}
    assert answers["Which PostgreSQL configuration parameter sets the largest size of a lock?"] == (
        "The parameter is max_lock_size."
    )
    assert answers["What is the default value of the PostgreSQL configuration parameter max_lock_size?"] == (
        "Its default value is 2MB."
    )
    assert answers["Which PostgreSQL command is used to define a new table?"] == "The command is CREATE TABLE."
    # 12 parameters with two questions each, and 11 commands: two pages are too long to be learnt.
    assert len(rows) == 24 + 11
    assert sorted(path.name for path in (out / "manual").iterdir())[0] == "runtime-config-sizes.txt"
    assert len(list((out / "manual").iterdir())) == 12
    assert {path.name for path in (out / "held-out").iterdir()} <= {"sql-select.txt", "sql-view.txt"}


def test_a_subject_is_on_one_side_and_its_answer_stands_in_the_manual(tmp_path: Path) -> None:
    rows, out = made(tmp_path)
    sides: dict[str, set[str]] = {}
    for row in rows:
        sides.setdefault(row["subject"], set()).add(row["side"])
    assert all(len(found) == 1 for found in sides.values())
    assert {side for found in sides.values() for side in found} == {"train", "exam"}
    text = "".join(path.read_text() for path in (out / "manual").iterdir())
    assert "Prev" not in text and "Next" not in text
    assert all(row["fact"] in text and row["fact"] in row["completion"] for row in rows)


def test_options_are_four_different_answers_of_the_same_kind(tmp_path: Path) -> None:
    rows, _ = made(tmp_path)
    of_kind = {
        kind: {row["completion"] for row in rows if row["kind"] == kind} for kind in {row["kind"] for row in rows}
    }
    for row in rows:
        assert len(set(row["options"])) == 4
        assert row["completion"] in row["options"]
        assert set(row["options"]) <= of_kind[row["kind"]]


def test_the_same_pages_give_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert made(tmp_path / "a")[0] == made(tmp_path / "b")[0]
