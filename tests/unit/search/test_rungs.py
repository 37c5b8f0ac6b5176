"""Which trial goes on, when another is begun, and when searching stops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from temper.errors import RecipeError
from temper.search.budget import SearchBudget
from temper.search.rungs import (
    Action,
    chance,
    expected,
    expected_gain,
    next_action,
    rung_of,
    saved_tokens,
    score,
    score_at,
    to_finish,
    winner,
)
from tests.unit.search.studies import trial

TOLERANCE = 0.01


def action(*trials, room: float = 10.0, begin: bool = True) -> Action | None:
    return next_action(trials, tolerance=TOLERANCE, room=room, begin=begin)


def test_a_rung_is_reached_when_its_part_of_the_steps_is_taken() -> None:
    assert [rung_of(d) for d in (0.0, 0.12, 0.125, 0.3, 0.375, 1.0)] == [-1, -1, 0, 0, 1, 2]


def test_a_trial_that_surely_breaks_the_tolerance_ranks_below_doing_nothing() -> None:
    assert score(trial(domain=0.5, drop=0.03, lcb95=0.009, ucb95=0.051), TOLERANCE) > 0  # may still keep it
    assert score(trial(domain=0.5, drop=0.03, lcb95=0.011), TOLERANCE) == pytest.approx(-0.03)
    assert score(trial(status="finished", domain=0.9, drop=0.2, improved=False, base=0.1), TOLERANCE) < 0.1
    assert score(trial(status="failed", domain=0.9), TOLERANCE) == -math.inf


def test_a_gain_counts_as_far_as_it_is_likely_to_be_kept() -> None:
    """Looks of a real study with a tolerance of 6 %, which spent all it had on the first and kept the base.

    Standard errors (0.1082 - 0.0672) / 1.645 = 0.0249 and 0.0146; a full look has a third of them, so the bounds
    expected are 0.0809 and 0.0330, and the chances to be below 0.06 are 20 % and 97 %.
    """
    bold = trial(0, domain=0.14, drop=0.0672, lcb95=0.0212, ucb95=0.1082, loss=0.3, done=0.5)
    careful = trial(1, domain=0.11, drop=0.025, lcb95=0.001, ucb95=0.049, loss=0.35, done=0.5)
    assert chance(bold, 0.06) == pytest.approx(0.201, abs=0.002)
    assert chance(careful, 0.06) == pytest.approx(0.968, abs=0.002)
    assert score(bold, 0.06) == pytest.approx(0.0282, abs=3e-4)
    assert to_finish([bold, careful], 0.06) is careful
    # Before anybody answers the exam the lower loss goes on only where it rather keeps the tolerance.
    first = [replace(t, domain=0.0) for t in (bold, careful)]
    assert to_finish(first, 0.06) is first[1]


def test_one_in_three_goes_on_and_the_best_first() -> None:
    found = action(trial(0, domain=0.2), trial(1, domain=0.6), trial(2, domain=0.4))
    assert found is not None
    assert (found.kind, found.number, found.until) == ("continue", 1, 0.375)


def test_of_two_nobody_goes_on_and_a_new_one_is_begun() -> None:
    found = action(trial(0), trial(1))
    assert found is not None
    assert (found.kind, found.number, found.until) == ("begin", 2, 0.125)


def test_who_has_gone_on_still_counts_where_it_was() -> None:
    """Trial 1 is at the second rung; of the three that reached the first it was the best, so no other goes on."""
    ahead = trial(1, domain=0.8, done=0.375, looks={"0.1250": 0.6, "0.3750": 0.8})
    assert score_at(ahead, 0, TOLERANCE) == 0.6
    found = action(trial(0, domain=0.2), ahead, trial(2, domain=0.5))
    assert found is not None and found.kind == "begin"
    # A newcomer at 0.7 beats what trial 1 had then, and is the best third of four.
    found = action(trial(0, domain=0.2), ahead, trial(2, domain=0.5), trial(3, domain=0.7))
    assert found is not None and (found.kind, found.number) == ("continue", 3)


def test_nobody_goes_on_who_is_worse_than_the_base() -> None:
    found = action(*[trial(n, domain=0.05, base=0.1) for n in range(3)])
    assert found is not None and found.kind == "begin"


def test_where_nobody_answers_the_exam_yet_the_lowest_loss_goes_on() -> None:
    losses = (2.0, 1.2, 1.6)
    trials = [trial(n, domain=0.0, loss=loss) for n, loss in enumerate(losses)]
    found = action(*trials)
    assert found is not None and (found.kind, found.number) == ("continue", 1)
    assert to_finish(trials, TOLERANCE) is trials[1]


def test_nothing_is_done_without_room() -> None:
    """A trial at the first rung needs 0.25 to the second; a new one 0.125."""
    three = [trial(n, domain=0.1 * n) for n in range(3)]
    assert action(*three, room=0.2) == Action(kind="begin", number=3, until=0.125, reason="new values")
    assert action(*three, room=0.1) is None
    assert action(*three, room=0.2, begin=False) is None


def test_the_best_that_is_not_finished_is_finished_last() -> None:
    best = trial(1, domain=0.7, done=0.375)
    assert to_finish([trial(0), best, trial(2, status="stopped", domain=0.9)], TOLERANCE) is best
    done = trial(3, status="finished", improved=True, domain=0.8, done=1.0)
    assert to_finish([trial(0), best, done], TOLERANCE) is None
    assert to_finish([trial(0, domain=0.0, base=0.1)], TOLERANCE) is None


def test_what_its_siblings_gained_is_expected_of_a_trial() -> None:
    """Two finished ones had 0.3 and 0.5 at the first rung and ended at 0.5 and 0.8: 0.2 and 0.3, median 0.25."""
    siblings = [
        trial(0, status="finished", improved=True, done=1.0, domain=0.5, looks={"0.1250": 0.3}),
        trial(1, status="finished", improved=True, done=1.0, domain=0.8, looks={"0.1250": 0.5}),
    ]
    waiting = trial(2, domain=0.4)
    assert expected(waiting, [*siblings, waiting], TOLERANCE) == pytest.approx(0.65)
    assert expected(waiting, [waiting], TOLERANCE) == 0.4


def test_the_winner_is_finished_and_inside_the_tolerance() -> None:
    trials = [
        trial(0, status="finished", improved=True, domain=0.6, drop=0.004),
        trial(1, status="finished", improved=True, domain=0.6, drop=0.001),
        trial(2, status="finished", improved=False, domain=0.9, drop=0.3),
        trial(3, domain=0.95),
    ]
    assert winner(trials) is trials[1]
    assert winner(trials[2:]) is None


def test_searching_pays_until_the_best_is_hardly_ahead() -> None:
    """Scores 0.2 .. 0.7: the better half 0.5, 0.6, 0.7 has the mean 0.6: 0.1 ahead, / 7."""
    trials = [trial(n, domain=0.2 + 0.1 * n) for n in range(6)]
    hope = expected_gain(trials, TOLERANCE)
    assert hope.gain == pytest.approx(0.1 / 7)
    assert hope.least == pytest.approx(0.1 * 0.04)
    assert hope.pays
    assert not expected_gain([trial(n, domain=0.5) for n in range(6)], TOLERANCE).pays
    assert expected_gain(trials[:5], TOLERANCE).pays  # too few to say


def test_what_was_saved_is_what_the_others_would_have_trained() -> None:
    trials = [
        trial(0), trial(1, status="stopped", tokens=300), trial(2, status="finished", tokens=800),
        trial(3, status="failed", tokens=10),
    ]  # fmt: skip
    assert saved_tokens(trials) == (800 - 100) + (800 - 300)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("5x", "runs", 5.0), ("2.5 runs", "runs", 2.5), ("20 trials", "trials", 20), ("500k tokens", "tokens", 5e5),
        ("2M tokens", "tokens", 2e6), ("1h30m", "seconds", 5400.0), ("90", "seconds", 5400.0),
    ],
)  # fmt: skip
def test_a_budget_is_read(text: str, name: str, value: float) -> None:
    assert getattr(SearchBudget.parse(text), name) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1x", "found less than 1.125x, one run and the first rung (12.5%) of another"),
        ("1 trial", "found 1 trial; expected at least 2"),
        ("much", "found neither runs, trials, tokens nor a time"),
        ("0m", "found neither runs"),
        ("0 tokens", "found no tokens at all"),
    ],
)
def test_a_budget_that_is_none_or_too_small_is_refused(text: str, said: str) -> None:
    with pytest.raises(RecipeError) as refused:
        SearchBudget.parse(text)
    assert said in str(refused.value)


def test_room_is_counted_in_lengths_of_a_run() -> None:
    seen = [trial(0, done=0.5, tokens=400, whole_tokens=800.0, seconds=60.0)]
    assert SearchBudget.parse("3x").room(seen, workers=1) == 2.5
    assert SearchBudget.parse("2000 tokens").room(seen, workers=1) == pytest.approx(2.0)  # 1600 of 800 a run
    # A run takes 120 s, half of that with two at once: (300 - 30) / 60
    assert SearchBudget.parse("5m").room(seen, workers=2) == pytest.approx(4.5)
    assert SearchBudget.parse("5m").room([], workers=1) == math.inf
    assert SearchBudget.parse("2 trials").may_begin(seen)
    assert not SearchBudget.parse("2 trials").may_begin([*seen, *seen])


def test_a_budget_that_holds_no_search_is_known_from_the_first_look() -> None:
    first = [trial(0, done=0.125, tokens=100, whole_tokens=800.0, seconds=60.0)]
    assert SearchBudget.parse("899 tokens").shortage(first).startswith("a run takes 800 tokens, a search 1.125 times")
    assert SearchBudget.parse("900 tokens").shortage(first) == ""  # 1.125 x 800
    assert SearchBudget.parse("59s").shortage(first) == "the first 12.5% of a run took 60 s"
    assert SearchBudget.parse("60s").shortage(first) == ""
    assert SearchBudget.parse("1s").shortage([]) == SearchBudget.parse("2x").shortage(first) == ""
    # With a finished run there is something to show for it: the search ends as spent.
    assert SearchBudget.parse("1s").shortage([*first, trial(1, status="finished", done=1.0)]) == ""
