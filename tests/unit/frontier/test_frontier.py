"""What the runs of the study add up to, by figures worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.frontier import cells, frontier, page, study
from experiments.frontier.cells import CELLS, METHODS, Job, Known, Method
from experiments.frontier.frontier import Row
from experiments.frontier.outcome import Outcome, Seen, from_json, read_outcome, to_json
from temper import events
from temper.recipe.load import load
from tests.fakes.world import World

BY_NAME = {method.name: method for method in METHODS}
LORA = BY_NAME["lora-tuned"]
WISE = BY_NAME["wise-ft"]


def seen(name: str, domain: float, drop: float, *, eligible: bool = True, confirmed: bool = True) -> Seen:
    return Seen(
        checkpoint=name, alpha=1.0, domain=domain, drop=drop, ucb95=round(drop + 0.005, 6),
        confirmed=confirmed, eligible=eligible, seconds=100.0, tokens=1000,
    )  # fmt: skip


def outcome(chosen: str, score: float, *found: Seen, seconds: float = 600.0) -> Outcome:
    """Ten exam items, of which `score` are right."""
    right = round(10 * score)
    return Outcome(
        verdict="improved", chosen=chosen, base=0.0, base_selection=0.0,
        scores={str(n): float(n < right) for n in range(10)}, drop=0.002, ucb95=0.008, seen=found, tokens=50_000,
        seconds=seconds, training_seconds=seconds / 2,
    )  # fmt: skip


def row(method: str, found: Outcome, *, trial: int = 0, seed: int = 0, cell: str = "icd10-hard") -> Row:
    return Row(
        job=f"{cell}/{method}-{trial}/seed-{seed}", cell=cell, method=method, trial=trial, seed=seed, key="k",
        adapter="lora", shared=False, failed="", outcome=found,
    )  # fmt: skip


def three_trials(*scores: float) -> list[Row]:
    return [
        row("lora-tuned", outcome("step-000040", s, seen("step-000040", s, 0.004)), trial=n)
        for n, s in enumerate(scores)
    ]


def test_a_method_hands_on_what_its_run_chose() -> None:
    run = outcome("step-000040", 0.6, seen("step-000040", 0.5, 0.001), seen("step-000080", 0.7, 0.2, eligible=False))

    found = frontier.pick(run, LORA)

    assert found.selection == 0.5
    assert found.scores == run.scores


def test_a_point_on_the_line_is_not_a_trained_checkpoint() -> None:
    line = seen("step-000080-alpha-0.70", 0.6, 0.005)
    run = outcome("step-000080-alpha-0.70", 0.6, seen("step-000040", 0.3, 0.004), line)

    assert frontier.pick(run, WISE).seen == line
    trained = frontier.pick(run, LORA)
    assert (trained.selection, trained.scores) == (0.3, None)  # known on the selection split alone


def test_where_the_run_kept_the_base_the_gain_is_nothing() -> None:
    run = outcome("base", 0.0, seen("step-000040", 0.3, 0.004))

    assert frontier.pick(run, LORA).seen is None
    assert set((frontier.pick(run, LORA).scores or {}).values()) == {0.0}


def test_a_last_checkpoint_that_breaks_the_tolerance_counts_as_the_base() -> None:
    run = outcome("step-000080", 0.9, seen("step-000080", 0.9, 0.4, eligible=False))

    found = frontier.pick(run, BY_NAME["naive-makers"])

    assert (found.selection, set((found.scores or {}).values())) == (0.0, {0.0})


def test_the_trial_that_wins_has_the_best_score_inside_the_tolerance_and_all_trials_are_needed() -> None:
    rows = three_trials(0.2, 0.5, 0.4)

    assert frontier.winners(rows[:2]) == {}
    assert frontier.winners(rows) == {"icd10-hard/lora-tuned": 1}
    assert frontier.known(rows).rivals == {"icd10-hard": "lora-tuned"}


def test_gain_is_the_share_of_the_best_that_anything_reached() -> None:
    ceiling = outcome("step-000080", 0.8, seen("step-000080", 0.8, 0.5, eligible=False))
    rows = [*three_trials(0.2, 0.6, 0.4), row("naive-makers", ceiling)]

    found = {result.method: result for result in frontier.results(rows, "icd10-hard")}

    assert found["lora-tuned"].gain.value == pytest.approx(0.6 / 0.8)
    assert found["naive-makers"].gain.value == 0.0
    assert found["lora-tuned"].seconds == 3 * 600.0  # every trial is paid for
    assert found["lora-tuned"].gain.low < 0.75 < found["lora-tuned"].gain.high


def test_a_difference_is_paired_by_item() -> None:
    rows = [
        *three_trials(0.2, 0.6, 0.4),
        row("temper", outcome("step-000040", 0.6, seen("step-000040", 0.6, 0.001))),
    ]

    found = frontier.difference(rows, "icd10-hard", "temper", "lora-tuned")

    # The same items are right in both, so resampling them leaves no difference at all.
    assert found is not None
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_area_is_the_mean_gain_over_allowed_drops() -> None:
    points = [seen("step-1", 0.5, -0.01), seen("step-2", 1.0, 0.025), seen("step-3", 1.0, 0.3)]

    # Half of the gain from 0 to 2.5 %, all of it from there to 5 %.
    assert frontier.area(points, base=0.0, top=1.0) == pytest.approx(0.75)
    assert frontier.area([], base=0.0, top=1.0) == 0.0


def test_reaching_a_score_costs_the_trials_before_it() -> None:
    rows = three_trials(0.2, 0.6, 0.4)

    assert frontier.reached(rows, LORA, score=0.5) == 600.0 + 100.0
    assert frontier.reached(rows, LORA, score=0.7) is None


def test_more_seeds_repeat_the_winning_trial_and_hard_cells_come_first() -> None:
    known = Known(winners={"icd10-hard/lora-tuned": 1}, rivals={"icd10-hard": "lora-tuned"})

    plan = list(cells.jobs(CELLS, METHODS, 2, known, "short"))

    strengths = [job.cell.strength for job in plan]
    assert strengths == sorted(strengths, reverse=strengths[0] == "light")
    repeats = {(job.cell.name, job.method.name, job.trial) for job in plan if job.seed == 1}
    assert ("icd10-hard", "lora-tuned", 1) in repeats
    assert {method for _, method, _ in repeats} == {"temper", "lora-tuned"}


@pytest.mark.parametrize("method", [m for m in METHODS if m.technique == "sft"], ids=lambda m: m.name)
def test_every_recipe_of_the_study_is_one_that_temper_accepts(method: Method, tmp_path: Path) -> None:
    for name in ("train", "exam"):
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
    for trial in range(len(method.trials)):
        job = Job(cell=CELLS[0], method=method, trial=trial, seed=1)
        path = tmp_path / "study.yaml"
        path.write_text(cells.text(job, tmp_path), encoding="utf-8")

        stage = load(path).stages[0]

        written = stage.model_dump(mode="json", exclude_unset=True)
        assert {"guard", "choose", "epochs", "steps", "lr"}.isdisjoint(written) == (method.name == "temper")


def test_all_methods_take_the_same_steps_over_the_domain(tmp_path: Path) -> None:
    job = Job(cell=CELLS[0], method=BY_NAME["replay-tuned"], trial=2, seed=0)

    stage = cells.recipe(job, tmp_path)["stages"]

    # 8 rows of 4 learnt tokens are half of the rows of each step: the other half are 8 general ones of 15.
    assert isinstance(stage, list)
    assert stage[0]["batch_tokens"] == 32 + 120
    assert stage[0]["replay"]["share"] == pytest.approx(120 / 152, abs=1e-4)


def test_what_a_run_says_survives_its_line() -> None:
    run = outcome("base", 0.3, seen("step-000040", 0.3, 0.004))

    assert from_json(to_json(run)) == run


def test_the_page_says_what_was_run_and_what_was_not() -> None:
    rows = [
        *three_trials(0.2, 0.6, 0.4),
        row("temper", outcome("step-000040", 0.6, seen("step-000040", 0.6, 0.001))),
    ]

    text = page.page(rows)

    assert "| icd10-hard | 4 | temper, lora-tuned | 0: 4 |" in text
    assert "| facts-light | 0 | not run |" in text
    assert "1 of 1 cells run" in text
    assert page.plot(rows, CELLS[0]).startswith('<svg xmlns="http://www.w3.org/2000/svg" ')
    assert "Nothing yet" in page.page([])


def test_a_run_that_failed_is_run_again_and_a_newer_line_counts(tmp_path: Path) -> None:
    first, again = (row("temper", outcome("base", score)) for score in (0.1, 0.4))
    failed = {**row("lora-tuned", outcome("base", 0.0)).fields(), "failed": "exit code 1", "outcome": None}
    lines = [{**found.fields(), "outcome": to_json(outcome("base", s))} for found, s in ((first, 0.1), (again, 0.4))]
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, failed]), encoding="utf-8")

    found = frontier.read_rows(path)

    assert [r.job for r in found] == ["icd10-hard/temper-0/seed-0"]
    assert found[0].outcome is not None
    assert found[0].outcome.domain == 0.4
    assert frontier.read_rows(tmp_path / "nothing.jsonl") == []


def test_runs_of_the_cell_foretell_how_long_the_next_one_takes() -> None:
    job = Job(cell=CELLS[0], method=LORA, trial=1, seed=0)
    done = [row("lora-tuned", outcome("base", 0.0, seconds=1000.0))]

    # 50,000 tokens took 500 s of training and 500 s of probes; the cell is 38,300 tokens, three times.
    assert study.expected_seconds(job, done) == pytest.approx(3 * 38_300 / 100 + 500)
    # Unknown: 400 tokens a second, and 200 s of probes.
    assert study.expected_seconds(job, []) == pytest.approx(3 * 38_300 / 400 + 200)


def test_an_unknown_cell_is_refused_with_the_ones_there_are() -> None:
    with pytest.raises(SystemExit, match="icd10-hard"):
        study.selected(["icd11-hard"])


@pytest.mark.slow
def test_a_run_finds_its_folder_empty_and_says_why_it_failed(tmp_path: Path) -> None:
    """The recipe and the printed lines stood in the folder, and `temper run` takes no folder that is not empty."""
    text = cells.text(Job(cell=CELLS[0], method=LORA, trial=0, seed=0), tmp_path / "nowhere")
    for _ in range(2):
        failed = study._run(text, tmp_path / "cells" / "one")  # pyright: ignore[reportPrivateUsage]
        assert failed.startswith("exit code 2: ") and "nowhere" in failed


@pytest.mark.slow
def test_the_outcome_is_read_from_the_log_of_a_real_run(tmp_path: Path) -> None:
    world = World.make(tmp_path)
    world.run(world.recipe({"guard": "off"}), "run")

    found = read_outcome(events.read(tmp_path / "run" / "events.jsonl"))

    steps = [e for e in events.read(tmp_path / "run" / "events.jsonl") if isinstance(e, events.Step)]
    assert found.tokens == sum(step.tokens for step in steps)
    assert [s for s in found.seen if s.of("trained")]
    assert all(s.tokens <= found.tokens for s in found.seen)
    assert 0.0 <= found.base <= found.domain <= 1.0
