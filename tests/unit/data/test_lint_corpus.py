"""The corpus: small broken files with what the linter must say of each, row by row, and clean files without a word.

Everything goes through the real reader, and through a real renderer with a small tokenizer where tokens matter.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from temper.data.datum import Datum
from temper.data.lint import CODES, Finding, Marks, as_text, conclude, from_errors, inspect, know
from temper.data.render import Renderer
from temper.data.rows import read_rows
from temper.errors import DataError
from tests.tiny import CHATML, GEMMA, MISTRAL, tiny_tokenizer

CORPUS = Path(__file__).parents[2] / "data" / "lint"
BROKEN = tomllib.loads((CORPUS / "broken" / "index.toml").read_text(encoding="utf-8"))["file"]
CLEAN = sorted(path.name for path in (CORPUS / "clean").iterdir())
TECHNIQUES = {"cpt_text.jsonl": "cpt", "dpo_pairs.jsonl": "dpo", "rft_tasks.jsonl": "rft"}
TEMPLATES = {"chatml": CHATML, "gemma": GEMMA, "mistral": MISTRAL}
TEXTS = ("Which of these metals is a liquid at room temperature and normal pressure?", "Name the capital of Peru.")


@cache
def renderer(template: str, folder: Path) -> Renderer:
    return Renderer.load(tiny_tokenizer(folder / template, TEMPLATES[template]))


def findings(path: Path, case: dict[str, Any], folder: Path) -> tuple[Finding, ...]:
    """What the linter says of a file, as `temper check` would have it."""
    try:
        rows = read_rows(path)
    except DataError as error:
        return from_errors([error])
    used = renderer(case["template"], folder) if "template" in case else None
    datums: list[Datum | DataError | None] = [None] * len(rows)
    if used is not None:
        datums = list(used.datums(rows, source="corpus"))
    knowledge = know(
        exam=read_rows(CORPUS / "broken" / case["exam"]) if "exam" in case else (),
        probes=case.get("probes"),
        marks=Marks.of(used) if used is not None else None,
        max_length=case.get("max_length"),
        technique=case.get("technique", "sft"),
        rows=len(rows),
    )
    facts = (
        inspect(row, datum if isinstance(datum, Datum) else None, knowledge)
        for row, datum in zip(rows, datums, strict=True)
    )
    refused = from_errors([datum for datum in datums if isinstance(datum, DataError)])
    return (*refused, *conclude(facts, knowledge))


def said(found: tuple[Finding, ...]) -> list[tuple[str, tuple[str, ...]]]:
    """Code and places of each finding, folders left out."""
    places = ((f.code, re.sub(r" and \d+ more$", "", f.where).split(", ")) for f in found)
    return sorted((code, tuple(place.rpartition("/")[2] for place in where)) for code, where in places)


def wanted(case: dict[str, Any]) -> list[tuple[str, tuple[str, ...]]]:
    name = case["name"]
    expected: list[tuple[str, tuple[str, ...]]] = []
    for finding in case["findings"]:
        file = Path(case["exam"]).name if finding.get("file") == "exam" else name
        expected.append((finding["code"], tuple(f"{file}:{row}" for row in finding["rows"]) or (file,)))
    return sorted(expected)


@pytest.mark.parametrize("case", BROKEN, ids=[case["name"] for case in BROKEN])
def test_a_broken_file_has_its_findings_and_no_others(case: dict[str, Any], tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.getbasetemp() / "lint-tokenizers"
    found = findings(CORPUS / "broken" / case["name"], case, folder)
    assert said(found) == wanted(case)
    assert all(f.what and f.why and f.fix and f.level == CODES[f.code].level for f in found)


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_file_has_no_finding(name: str, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.getbasetemp() / "lint-tokenizers"
    case = {"technique": TECHNIQUES.get(name, "sft"), "probes": {"facts": TEXTS}, "max_length": 2000}
    if name not in ("dpo_pairs.jsonl", "rft_tasks.jsonl", "tools.jsonl"):
        case["template"] = "chatml"
    assert [as_text(f) for f in findings(CORPUS / "clean" / name, case, folder)] == []


def test_the_corpus_is_as_large_as_promised_and_nothing_lies_about_unused() -> None:
    broken = {path.name for path in (CORPUS / "broken").iterdir() if path.is_file()} - {"index.toml"}
    exams = {f"exams/{path.name}" for path in (CORPUS / "broken" / "exams").iterdir()}
    assert broken == {case["name"] for case in BROKEN}
    assert exams == {case["exam"] for case in BROKEN if "exam" in case}
    assert len(broken) >= 60
    assert len(CLEAN) >= 12


def test_every_code_that_a_file_can_cause_is_in_the_corpus() -> None:
    # R001 to R003 need a renderer at fault, M codes have no file: test_lint.py has them.
    elsewhere = {"R001", "R002", "R003", "M001", "M002", "M003"}
    assert {finding["code"] for case in BROKEN for finding in case["findings"]} == set(CODES) - elsewhere


SECRETS = [case["name"] for case in BROKEN if case["name"].startswith("S00")]


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_not_repeated_in_its_finding(name: str, tmp_path: Path) -> None:
    (found,) = findings(CORPUS / "broken" / name, {}, tmp_path)
    text = as_text(found)
    row = int(found.where.rpartition(":")[2])
    fields = read_rows(CORPUS / "broken" / name)[row - 1].fields
    words = {word for word in re.findall(r"[^\s\"',{}\\]+", str(fields)) if re.search(r"[\d@]", word)}
    assert words
    assert not [word for word in words if len(word) > 3 and word in text]
