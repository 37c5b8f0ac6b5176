"""The gate: one verdict per situation, with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from temper import events
from temper.decide.gates import LIMITS, gate
from temper.decide.rollouts import Evidence, Tried, Try
from temper.events import GateReport

GOLD = Try(reward=1.0)
TRICKS = {"empty": 0.0, "constant": 0.0, "copied-prompt": 0.0, "format-only": 0.1}


def tried(name: str, passed: int, *, tries: int = 8, **fixed: Any) -> Tried:
    """A task with a sound reward: the metric of the probe says the same."""
    replies = tuple(Try(reward=r, metric=r, length=20, seconds=0.01) for r in [1.0] * passed + [0.0] * (tries - passed))
    return Tried(task=name, tries=replies, **{"gold": GOLD, "tricks": TRICKS, "repeats": (0.0,)} | fixed)


def evidence(passes: Sequence[int], *, total: int | None = None, **fixed: Any) -> Evidence:
    tasks = tuple(tried(f"t{i}", c, **fixed) for i, c in enumerate(passes))
    return Evidence(tried=tasks, group_size=8, total=total or len(tasks))


def with_tries(e: Evidence, change: Callable[[Try], Try]) -> Evidence:
    return replace(e, tried=tuple(replace(t, tries=tuple(change(x) for x in t.tries)) for t in e.tried))


MIXED = (2, 4, 6, 3) * 16


def test_mixed_tasks_and_a_sound_reward_may_start() -> None:
    report = gate(evidence(MIXED), stage="01-rft")
    assert (report.verdict, report.remedy, report.remarks, report.stage) == ("GO", "", (), "01-rft")
    # (2 + 4 + 6 + 3) / 32 passes.
    assert report.pass_1 == report.reward == pytest.approx(15 / 32)
    assert report.pass_1_95[0] < 15 / 32 < report.pass_1_95[1]
    assert report.pass_k == 1.0
    assert report.histogram == (0, 0, 16, 16, 16, 0, 16, 0, 0)
    # The eight tries are one group of eight, and it differs in every task.
    assert report.useful == 1.0
    assert report.gain == pytest.approx(17 / 32)
    # Standard deviations of 2, 4, 6 and 3 passes of 8: sqrt(8/7 p (1-p)).
    deviations = [(8 / 7 * c / 8 * (1 - c / 8)) ** 0.5 for c in (2, 4, 6, 3)]
    assert report.spread == {"reward": pytest.approx(sum(deviations) / 4)}
    assert (report.gold, report.noise, report.agreement, report.hollow) == (1.0, 0.0, 1.0, 0)
    assert report.tricks == pytest.approx(TRICKS)
    assert (report.length, report.latency, report.capped) == (20.0, 0.01, 0.0)


def test_tasks_that_are_never_passed_need_examples_first() -> None:
    report = gate(evidence([0] * 64))
    assert report.verdict == "SFT FIRST"
    assert "of 64 tasks 64 were never passed and 0 always" in report.reasons[0]
    assert "SFT stage" in report.remedy


def test_solved_tasks_are_too_easy() -> None:
    assert gate(evidence([8] * 64)).verdict == "TOO EASY"
    # 61 of 64 tasks solved, three half solved: 97.7 %, and little of it can move.
    assert gate(evidence([8] * 61 + [4] * 3)).verdict == "TOO EASY"


def test_a_high_baseline_may_start_while_the_reward_still_tells_replies_apart() -> None:
    """Graded rewards between 0.90 and 0.99: the mean is 0.955, every group differs, 4.5 points are left."""
    graded = tuple(Try(reward=0.9 + 0.09 * i / 7 + 0.01, metric=1.0, length=20) for i in range(8))
    tasks = tuple(replace(tried(f"t{i}", 0), tries=graded) for i in range(64))
    report = gate(Evidence(tried=tasks, group_size=8, total=64))
    assert report.reward == pytest.approx(0.955)
    assert (report.verdict, report.useful) == ("GO", 1.0)


def test_half_always_and_half_never_is_refused_though_the_mean_is_one_half() -> None:
    """The 0 / 5 / 95 % rule on the mean would let it pass."""
    report = gate(evidence([8] * 32 + [0] * 32))
    assert report.reward == 0.5
    assert report.verdict == "SFT FIRST"
    assert "32 were never passed and 32 always" in report.reasons[0]


def test_a_few_useful_tasks_among_dead_ones_are_filtered_out() -> None:
    report = gate(evidence([4] * 16 + [0] * 48, total=400))
    assert report.verdict == "FILTER"
    assert report.keep == tuple(f"t{i}" for i in range(16))
    assert "48 of 64 tasks teach next to nothing" in report.reasons[0]
    assert "16 tasks" in report.remedy
    assert not any("SFT stage before this one" in r for r in report.remarks)  # the groups of those kept are useful


def test_filtering_needs_enough_tasks_to_be_left() -> None:
    # 8 of 64 tasks are useful: q = 0.125. Of 64 tasks 8 would be left, of 640 there would be 80.
    few = [4] * 8 + [0] * 56
    assert gate(evidence(few)).verdict == "GO"
    assert gate(evidence(few, total=640)).verdict == "FILTER"


def test_few_useful_groups_are_gone_on_with_and_next_to_none_are_not() -> None:
    # q = 4 / 64 = 0.063: one group in 16 teaches. q = 2 / 64 = 0.031 is refused.
    report = gate(evidence([4] * 4 + [0] * 60))
    assert report.verdict == "GO"
    assert any("a useful group costs 16 groups of rollouts; an SFT stage" in r for r in report.remarks)
    refused = gate(evidence([4] * 2 + [0] * 62))
    assert refused.verdict == "SFT FIRST"
    assert "(at least 5 %)" in refused.reasons[0]


def test_a_filter_that_saves_little_is_not_proposed() -> None:
    # 6 of 64 dead: dropping them would raise q from 0.91 to 1.
    assert gate(evidence([4] * 58 + [0] * 6)).verdict == "GO"


def test_the_group_size_decides_how_hard_a_task_may_be() -> None:
    """Two passes in 16: groups of 2 differ in 23 %, groups of 16 always."""
    hard = Evidence(tried=tuple(tried(f"t{i}", 2, tries=16) for i in range(64)), group_size=2, total=64)
    # 1 - [C(2,2) + C(14,2)] / C(16,2) = 1 - 92 / 120.
    assert gate(hard).useful == pytest.approx(28 / 120)
    assert gate(replace(hard, group_size=16)).useful == 1.0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gold": Try(reward=0.5)}, "reference answers without full marks: t0, t1, t2 and 61 more"),
        ({"tricks": TRICKS | {"empty": 0.9}}, "empty replies earn 90 % (at most 20 %)"),
        ({"tricks": TRICKS | {"copied-prompt": 0.4}}, "copied-prompt replies earn 40 %"),
        ({"tricks": TRICKS | {"format-only": 0.8}}, "format-only replies earn 80 % (at most 50 %)"),
        ({"tricks": TRICKS | {"constant": 0.6}}, "constant replies earn 60 % (at most 46.9 %)"),
        ({"repeats": (0.5, -0.5)}, "the same reply is graded differently"),
    ],
)
def test_a_control_that_fails_refuses_the_reward(change: dict[str, Any], reason: str) -> None:
    report = gate(evidence(MIXED, **change))
    assert report.verdict == "FIX REWARD"
    assert any(reason in r for r in report.reasons), report.reasons


def test_a_guess_at_yes_or_no_earns_what_it_deserves() -> None:
    """The best constant reply gets 45 % of yes-no questions; the model gets more, so it is no way out."""
    assert gate(evidence(MIXED, tricks={"constant": 0.45})).verdict == "GO"


def test_one_wrong_reference_is_left_out_and_many_are_a_wrong_reward() -> None:
    sound = evidence(MIXED)
    one = replace(sound, tried=(replace(sound.tried[0], gold=Try(reward=0.0)), *sound.tried[1:]))
    report = gate(one)
    assert (report.verdict, report.keep[0], len(report.keep)) == ("FILTER", "t1", 63)
    assert "t0: the reference answer" in report.reasons[0]
    assert report.gold == pytest.approx(63 / 64)
    # 4 of 64 are 6 %.
    four = tuple(replace(t, gold=Try(reward=None, outcome="errored")) for t in sound.tried[:4])
    assert gate(replace(sound, tried=(*four, *sound.tried[4:]))).verdict == "FIX REWARD"


def test_a_reward_that_fails_too_often_is_refused() -> None:
    broken = evidence(MIXED)
    first = replace(broken.tried[0], tries=(Try(reward=None, outcome="errored"),) * 8)
    # 8 of 512 are 1.6 %.
    report = gate(replace(broken, tried=(first, *broken.tried[1:])))
    assert report.verdict == "FIX REWARD"
    assert "failed on 1.6 % of the rollouts" in report.reasons[0]
    assert report.outcomes == {"graded": 504 / 512, "unparsable": 0.0, "errored": 8 / 512, "truncated": 0.0}
    nothing = gate(with_tries(broken, lambda t: replace(t, reward=None, outcome="errored")))
    assert (nothing.verdict, nothing.reasons[0], nothing.tries) == ("FIX REWARD", "no rollout was graded", 0)


def test_a_constant_reward_is_refused_unless_the_controls_clear_it() -> None:
    half = with_tries(evidence(MIXED), lambda t: replace(t, reward=0.5, metric=None))
    assert "every rollout of every task has the same reward, 0.5" in gate(half).reasons
    # Nothing but zeros: only a reference with full marks shows that the reward can pay at all.
    assert gate(evidence([0] * 64)).verdict == "SFT FIRST"
    assert gate(evidence([0] * 64, gold=None)).verdict == "FIX REWARD"
    # Nothing but full marks: only a bad answer without them shows that it can refuse.
    assert gate(evidence([8] * 64, tricks={})).verdict == "FIX REWARD"


def test_rewards_outside_their_declared_range_are_refused() -> None:
    report = gate(with_tries(evidence(MIXED), lambda t: replace(t, reward=10 * (t.reward or 0.0))))
    assert report.verdict == "FIX REWARD"
    assert "rewards from 0 to 10" in report.reasons[0]


def test_one_high_reward_for_a_failed_reply_refuses_the_reward() -> None:
    """A parser that accepts what the benchmark does not: the reward would rise and the benchmark fall."""
    sound = evidence(MIXED)
    first, *rest = sound.tried[0].tries
    hollow = replace(sound.tried[0], tries=(replace(first, metric=0.0), *rest))
    report = gate(replace(sound, tried=(hollow, *sound.tried[1:])))
    assert (report.verdict, report.hollow) == ("FIX REWARD", 1)
    assert report.reasons == ("a high reward where the domain probe says failed: t0",)


def test_a_reward_in_parts_may_pay_much_for_a_near_miss() -> None:
    """0.93 for three fields of four where all four earn 1; without a right answer to compare, 0.93 claims success."""
    sound = evidence(MIXED)
    first, *rest = sound.tried[0].tries
    near = replace(sound.tried[0], tries=(replace(first, reward=0.93, metric=0.0), *rest))
    report = gate(replace(sound, tried=(near, *sound.tried[1:])))
    assert (report.verdict, report.hollow) == ("GO", 0)
    alone = gate(replace(sound, tried=(replace(near, gold=None), *sound.tried[1:])))
    assert (alone.verdict, alone.hollow) == ("FIX REWARD", 1)


def test_a_reward_that_prefers_what_the_probe_does_not_is_refused() -> None:
    """Rewards of 0.8 for wrong replies and 0.2 for right ones: never high enough to be called a success."""
    turned = with_tries(evidence(MIXED), lambda t: replace(t, reward=0.8 - 0.6 * (t.metric or 0.0)))
    report = gate(turned)
    assert (report.verdict, report.agreement) == ("FIX REWARD", 0.0)


def test_a_component_that_only_the_references_earn_needs_examples_first() -> None:
    """The asking rate rose from 34 to 96 % while the correctness had been 0 throughout: its component was dead."""
    gold = Try(reward=1.0, parts={"correct": 1.0, "asks": 1.0})
    dead = with_tries(
        evidence(MIXED, gold=gold),
        lambda t: replace(t, parts={"correct": 0.0, "asks": t.reward or 0.0}, metric=None),
    )
    report = gate(dead)
    assert report.verdict == "SFT FIRST"
    assert "component correct is 0 at best in all rollouts, 1 in the reference answers" in report.reasons[0]
    assert report.spread["correct"] == 0.0


def test_a_component_that_is_always_fulfilled_is_named_and_harmless() -> None:
    gold = Try(reward=1.0, parts={"correct": 1.0, "valid": 1.0})
    fulfilled = with_tries(
        evidence(MIXED, gold=gold), lambda t: replace(t, parts={"correct": t.reward or 0.0, "valid": 1.0})
    )
    report = gate(fulfilled)
    assert report.verdict == "GO"
    assert "dead components, the same in all rollouts of a task: valid" in report.remarks


def test_replies_that_never_end_are_worth_a_remark_and_named_where_few_groups_are_useful() -> None:
    """Most replies of a micro-task (add-2) ran to the limit, and reinforcement gained 45 points."""
    sound = evidence(MIXED)
    assert gate(with_tries(sound, lambda t: replace(t, capped=True))).verdict == "GO"
    (told,) = gate(with_tries(evidence([0] * 64), lambda t: replace(t, capped=True))).reasons
    assert told.endswith(
        "of 64 tasks 64 were never passed and 0 always; 100 % of the replies never end: they reach the token limit"
    )
    first = replace(sound.tried[0], tries=tuple(replace(t, capped=True) for t in sound.tried[0].tries))
    tenth = replace(sound, tried=(first,) * 6 + sound.tried[6:])
    report = gate(tenth)
    assert report.verdict == "GO"
    assert any("9.4 % of the replies never end: they reach the token limit; raise" in r for r in report.remarks)


def test_episodes_that_are_cut_are_told_beside_any_verdict() -> None:
    """An environment that never says done gives every episode the same sum: it is the reward that looks broken."""
    same = with_tries(evidence(MIXED, gold=None, tricks={}), lambda t: replace(t, reward=1.0, capped=True))
    report = gate(replace(same, played=True))
    assert report.verdict == "FIX REWARD"
    (told,) = [r for r in report.remarks if "episodes" in r]
    assert told.startswith("100 % of the episodes never end: they reach the limit of turns or of tokens; raise max_tu")


def test_a_reward_that_fails_is_told_with_the_first_failure() -> None:
    note = "reward mine on tasks.jsonl:1: KeyError: amount (rewards.py:4)"
    nothing = gate(with_tries(evidence(MIXED), lambda t: replace(t, reward=None, outcome="errored", note=note)))
    assert nothing.reasons == (f"no rollout was graded: {note}",)
    assert nothing.remarks == (), "there are no figures to remark on"


def test_tasks_are_named_by_their_rows() -> None:
    wrong = replace(evidence(MIXED, gold=Try(reward=0.0)).tried[0], origin="tasks.jsonl:7")
    report = gate(replace(evidence(MIXED), tried=(wrong, *evidence(MIXED).tried[1:])))
    assert report.verdict == "FILTER" and report.reasons[0].startswith("tasks.jsonl:7: the reference answer")
    assert "t0" not in report.keep


def test_a_metric_of_degrees_fails_no_reply() -> None:
    """A reply with a BLEU of 0.3 may well deserve full marks; that the ranks agree is still asked for."""
    soft = replace(with_tries(evidence(MIXED), lambda t: replace(t, metric=0.1 + 0.2 * (t.reward or 0.0))))
    assert gate(soft).verdict == "FIX REWARD"
    report = gate(replace(soft, degrees=True, exam="exam (BLEU)"))
    assert (report.verdict, report.hollow, report.agreement, report.exam) == ("GO", None, 1.0, "exam (BLEU)")


def test_the_agreement_has_an_interval_over_tasks() -> None:
    """Two tasks in three rank as the probe does, the third upside down."""
    report = gate(evidence(MIXED))
    assert report.agreement_95 is not None and report.agreement_95[1] == 1.0 and report.agreement_95[0] > 0.9
    upside = [replace(t, tries=tuple(replace(x, metric=1.0 - (x.metric or 0.0)) for x in t.tries))
              for t in evidence((4,) * 8).tried]  # fmt: skip
    sound = evidence((4,) * 24).tried
    mixed = gate(Evidence(tried=(*upside, *sound[8:]), group_size=8, total=24))
    # 16 of 24 tasks of 16 pairs each are right; Wilson's interval for 16 of 24 is 0.47 to 0.82, wider by Student's t.
    assert mixed.agreement == pytest.approx(2 / 3)
    assert mixed.agreement_95 == (pytest.approx(0.46, abs=0.02), pytest.approx(0.83, abs=0.02))
    assert any("not settled: the interval of the agreement" in r for r in mixed.remarks)


def test_what_is_worth_knowing_is_said_beside_the_verdict() -> None:
    few = with_tries(
        evidence((2, 4, 6, 3), gold=None),
        lambda t: replace(t, metric=None, seconds=60.0, outcome="unparsable" if t.reward == 0.0 else "graded"),
    )
    said = " / ".join(gate(few).remarks)
    for part in ("4 tasks tell little", "53.1 % of the replies do not have the form", "60.0 s per reply",
                 "no reference answer was graded", "no reply was graded by the domain probe"):  # fmt: skip
        assert part in said


def test_a_verdict_near_the_limit_says_that_it_is_not_settled() -> None:
    # q = 4 / 64 = 0.063; its interval holds 0.05. Dropping the dead tasks would leave too few.
    report = gate(evidence([4] * 4 + [0] * 60))
    assert report.verdict == "GO"
    assert any("not settled: the interval of q" in r for r in report.remarks)
    assert not any("not settled" in r for r in gate(evidence([4] * 40 + [0] * 24)).remarks)


def test_other_limits_can_be_tried() -> None:
    assert gate(evidence(MIXED), limits=replace(LIMITS, least=1.1)).verdict == "SFT FIRST"


def test_a_report_survives_the_log() -> None:
    report = replace(gate(evidence([4] * 16 + [0] * 48, total=400), stage="01-rft"), at=1.0, forced=True)
    line = events.encode(report)
    assert events.decode(line) == report
    assert json.loads(line)["kind"] == "gate"
    assert isinstance(events.decode(line), GateReport)
