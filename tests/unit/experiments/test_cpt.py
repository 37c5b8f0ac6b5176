"""What the experiment on the manual makes of its runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.cpt.run import Cell, differences, write


def test_recipes_are_compared_question_by_question_and_averaged_over_seeds() -> None:
    """Over two seeds the first recipe is 0.2 and 0.4 above the other on every question, and both above the base."""
    base = {"a": 0.1, "b": 0.5}
    found = differences({
        ("cpt-sft", 0): {name: (score, score + 0.3) for name, score in base.items()},
        ("cpt-sft", 1): {name: (score, score + 0.5) for name, score in base.items()},
        ("sft", 0): {name: (score, score + 0.1) for name, score in reversed(base.items())},
        ("sft", 1): {name: (score, score + 0.1) for name, score in base.items()},
        ("cpt", 0): {name: (score, score) for name, score in base.items()},
    })  # fmt: skip
    by_pair = {(one["of"], one["over"]): one for one in found}
    assert set(by_pair) == {
        ("cpt", "cpt-sft"), ("cpt", "sft"), ("cpt-sft", "sft"), ("cpt", "base"), ("cpt-sft", "base"), ("sft", "base")
    }  # fmt: skip
    both = by_pair["cpt-sft", "sft"]
    assert both["by_seed"] == pytest.approx({0: 0.2, 1: 0.4})
    assert both["mean"] == pytest.approx(0.3)
    assert both["ci95"] == pytest.approx([0.3, 0.3])  # the same on every question: no doubt about others
    assert by_pair["cpt", "sft"]["by_seed"] == pytest.approx({0: -0.1})  # the seed that both have
    assert by_pair["sft", "base"]["mean"] == pytest.approx(0.1)


def test_the_interval_is_about_other_questions() -> None:
    # Differences 0 and 1 in equal parts over 100 questions: 0.5, standard error 0.5 / sqrt(99).
    answers = {("sft", 0): {str(n): (0.0, float(n % 2)) for n in range(100)}}
    (found,) = differences(answers)
    assert found["ci95"] == pytest.approx([0.5 - 1.96 * 0.0503, 0.5 + 1.96 * 0.0503], abs=0.015)


def _cell(recipe: str, seed: int, exam: float) -> Cell:
    return Cell(
        recipe=recipe, seed=seed, verdict="improved", stage="01-sft", text_base=1.0, text=0.9, exam_base=0.5, exam=exam,
        drop=0.0, ucb95=0.01, tokens=1, seconds=1.0,
    )  # fmt: skip


def test_what_was_found_of_other_runs_stays_in_the_file(tmp_path: Path) -> None:
    """With `--only`, or fewer seeds, the results of the others were lost."""
    path = tmp_path / "results.json"
    write(path, [_cell("cpt", 0, 0.6), _cell("sft", 1, 0.7)], {("sft", 1): {"a": (0.5, 0.7)}})
    write(path, [_cell("cpt", 0, 0.8)], {("cpt", 0): {"a": (0.5, 0.8)}})
    results = json.loads(path.read_text(encoding="utf-8"))
    assert [(run["recipe"], run["seed"], run["exam"]) for run in results["runs"]] == [("cpt", 0, 0.8), ("sft", 1, 0.7)]
    means = {(pair["of"], pair["over"]): pair["mean"] for pair in results["exam"]}
    assert means == pytest.approx({("sft", "base"): 0.2, ("cpt", "base"): 0.3})
