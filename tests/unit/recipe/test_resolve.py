from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from temper.calibrate import rules
from temper.errors import RecipeError
from temper.events import Setting
from temper.recipe.resolve import Facts, Resolved, resolve, step_tokens
from temper.recipe.schema import Recipe
from temper.techniques.sft import ResolvedSFT

FACTS = Facts(
    params=135_000_000,
    hidden=576,
    layers=30,
    architecture="llama",
    train_rows=1000,
    domain_supervised=20_000,
    domain_tokens=60_000,
    longest_row=90,
    available_replay={
        "instruction": 50_000,
        "reasoning": 40_000,
        "knowledge": 30_000,
        "code": 30_000,
        "safety": 20_000,
    },
    exam_rows=400,
    device="cpu",
    cores=2,
    context_length=2048,
)


def recipe(stage: dict[str, Any] | None = None, **more: Any) -> Recipe:
    first = {"technique": "sft", "data": "rows.jsonl", **(stage or {})}
    return Recipe.model_validate({"base": "m", "probes": {"domain": "exam.jsonl"}, "stages": [first], **more})


def one(stage: dict[str, Any] | None = None, facts: Facts = FACTS, **more: Any) -> ResolvedSFT:
    (settled,) = resolve(recipe(stage, **more), facts).stages
    assert isinstance(settled, ResolvedSFT)
    return settled


def setting(resolved: Resolved, path: str) -> Setting:
    (found,) = [s for s in resolved.settings if s.path == path]
    return found


def test_every_value_of_a_stage_is_a_setting_with_its_reason() -> None:
    resolved = resolve(recipe(), FACTS)
    paths = {s.path.removeprefix("stages.0.") for s in resolved.settings}
    unsaid = {"id", "replay_share", "replay_from", "warmup_steps", "keep_scale", "sampled_tokens", "four_bit", "pilots"}
    fields = set(ResolvedSFT.__dataclass_fields__) - unsaid
    assert paths >= fields | {"replay.share", "replay.from", "warmup"}
    for found in resolved.settings:
        if found.origin == "rule":
            assert found.evidence, found
        if found.value == "auto":
            assert found.rule, found
    assert len(paths) == len(resolved.settings)  # none is written twice


def test_what_the_recipe_says_is_taken_as_it_is() -> None:
    asked = {
        "adapter": "lora", "rank": 4, "alpha": 8, "lr": 3e-4, "steps": 50, "batch_tokens": 256, "schedule": "cosine",
        "warmup": "10%", "weight_decay": 0.1, "clip": 2, "betas": [0.8, 0.9], "max_length": 256, "train_on": "last",
        "guard": "warn", "choose": "last", "checkpoints": 3, "keep": "ce",
        "replay": {"share": "20%", "from": {"code": 3, "safety": 1}},
    }  # fmt: skip
    resolved = resolve(recipe(asked), FACTS)
    stage = resolved.stages[0]
    assert (stage.rank, stage.alpha, stage.lr, stage.steps, stage.batch_tokens) == (4, 8.0, 3e-4, 50, 256)
    assert (stage.schedule, stage.warmup_steps, stage.weight_decay, stage.clip) == ("cosine", 5, 0.1, 2.0)
    assert (stage.betas, stage.max_length, stage.train_on) == ((0.8, 0.9), 256, "last")
    assert (stage.guard, stage.choose, stage.checkpoints) == ("warn", "last", 3)
    assert stage.keep == "ce"
    assert (stage.replay_share, stage.replay_from) == (0.2, {"code": 0.75, "safety": 0.25})
    assert stage.epochs == pytest.approx(50 * 0.8 * 256 / 20_000)
    taken = [s for s in resolved.settings if s.path.startswith("stages.0.") and s.origin != "recipe"]
    assert [s.path for s in taken] == ["stages.0.epochs"]  # follows from the steps


def test_open_values_are_the_tables() -> None:
    sft = rules.read_table()
    stage = one()
    assert (stage.adapter, stage.rank, stage.alpha) == (sft.adapter.value, sft.rank.value, sft.alpha.value)
    # 8 rows of 20 tokens are 160, of which 120 are the domain's; a quarter would be 40, and the least is 64.
    assert (stage.batch_tokens, stage.replay_share) == (184, pytest.approx(64 / 184, abs=0.001))
    assert sum(stage.replay_from.values()) == pytest.approx(1.0)
    assert (
        stage.lr
        == rules.learning_rate(sft, adapter="lora", alpha=sft.alpha.value, steps=stage.steps, hidden=FACTS.hidden).value
    )
    assert (stage.id, stage.guard, stage.choose) == ("01-sft", "stop", "best")


def test_short_answers_get_enough_general_tokens_beside_them() -> None:
    """A quarter of a step of 64 was 16 general tokens, less than one row: most steps had none, and nothing held."""
    short = replace(FACTS, train_rows=720, domain_supervised=2_880, domain_tokens=38_300)
    resolved = resolve(recipe(), short)
    (stage,) = resolved.stages
    # 8 rows of 4 tokens are 32, of which 24 are the domain's; 128 general ones beside them are 128 / 152 of a step.
    assert (stage.batch_tokens, stage.replay_share) == (152, pytest.approx(128 / 152, abs=0.001))
    assert stage.steps == 360  # 3 x 2880 / 24, as many as without them
    said = "128 general tokens beside 24 of the domain's, in answers of 4"
    assert setting(resolved, "stages.0.replay.share").rule == said
    assert setting(resolved, "stages.0.batch_tokens").value == "152"
    # What the recipe says stays; so does the usual share where it is enough: a quarter of 256.
    asked = one({"replay": {"share": 0.25}}, short)
    assert (asked.batch_tokens, asked.replay_share) == (32, 0.25)
    assert (one({"batch_tokens": 256}).replay_share, one({"replay": None}, short).batch_tokens) == (0.25, 32)
    assert one({"batch_tokens": 64}, short).replay_share == pytest.approx(128 / 176, abs=0.001)
    # 8 rows of 22 are 176, the domain's 132. Between 10 and 20 tokens the 128 go over to 64.
    assert one(None, replace(short, domain_supervised=720 * 22)).replay_share == pytest.approx(64 / 196, abs=0.001)
    between = rules.replay_share(rules.read_table(), batch=240, answer=14).value
    assert 64 < 180 * between / (1 - between) < 128


def test_steps_follow_from_the_data() -> None:
    # 2 x 20000 / (0.75 x 500) = 106.7: 107 steps; 10 % warm-up of them is 10.7: 11.
    stage = one({"epochs": 2, "batch_tokens": 500, "replay": {"share": 0.25}, "warmup": 0.1})
    assert (stage.steps, stage.epochs, stage.warmup_steps) == (107, pytest.approx(107 * 375 / 20_000), 11)


def test_the_learning_rate_belongs_to_the_run_that_is_made_not_to_the_one_before_the_cut() -> None:
    budget = {"tokens": 3000}
    stage = one({"steps": 5000, "batch_tokens": 300, "replay": None}, budget=budget)
    # A step takes 300 x 60000 / 20000 = 900 tokens: 3 steps.
    sft = rules.read_table()
    assert stage.steps == 3
    assert (
        stage.lr == rules.learning_rate(sft, adapter="lora", alpha=sft.alpha.value, steps=3, hidden=FACTS.hidden).value
    )


def test_full_fine_tuning_has_no_adapter_settings() -> None:
    resolved = resolve(recipe({"adapter": "full"}), FACTS)
    assert (resolved.stages[0].rank, resolved.stages[0].alpha) == (None, None)
    assert not [s for s in resolved.settings if s.path in ("stages.0.rank", "stages.0.alpha")]
    assert resolved.stages[0].lr < one().lr


def test_no_replay_leaves_the_whole_batch_to_the_domain() -> None:
    resolved = resolve(recipe({"replay": None, "epochs": 1, "batch_tokens": 500}), FACTS)
    assert (resolved.stages[0].replay_share, resolved.stages[0].replay_from) == (0.0, {})
    assert resolved.stages[0].steps == 40  # 20000 / 500
    assert setting(resolved, "stages.0.replay").value == "none"


def test_replay_only_is_possible_with_a_number_of_steps() -> None:
    stage = one({"replay": {"share": 1}, "steps": 20})
    assert (stage.replay_share, stage.steps, stage.epochs) == (1.0, 20, 0.0)


def test_replay_without_general_data_is_zero_by_itself_and_refused_when_asked() -> None:
    nothing = replace(FACTS, available_replay={"code": 0})
    resolved = resolve(recipe(), nothing)
    assert resolved.stages[0].replay_share == 0
    assert any(n.startswith("stages.0.replay.share: there are no general data") for n in resolved.notices)
    with pytest.raises(RecipeError, match=r"stages\.0\.replay\.share: found 25%; expected 0%"):
        resolve(recipe({"replay": {"share": 0.25}}), nothing)


def test_an_unknown_category_is_refused_with_the_nearest() -> None:
    found = r"stages\.0\.replay\.from\.instructions: found \[M001\] no .*did you mean 'instruction'"
    with pytest.raises(RecipeError, match=found):
        resolve(recipe({"replay": {"from": {"instructions": 1}}}), FACTS)


def test_rows_that_would_come_too_often_are_pointed_out() -> None:
    # 100 steps x 1000 x 50 % x 1/2 = 25000 tokens of code, of which there are 1000: 25 passes.
    scarce = replace(FACTS, available_replay={"code": 1000, "safety": 1_000_000})
    asked = {"steps": 100, "batch_tokens": 1000, "replay": {"share": 0.5, "from": {"code": 1, "safety": 1}}}
    found = [n for n in resolve(recipe(asked), scarce).notices if "come" in n]
    assert len(found) == 1
    assert found[0].startswith("stages.0.replay.from.code: its rows come 25.0 times")


@pytest.mark.parametrize(("lr", "told"), [(1e-2, "may erase base abilities"), (1e-7, "may learn next to nothing")])
def test_an_unusual_rate_is_pointed_out(lr: float, told: str) -> None:
    (notice,) = resolve(recipe({"lr": lr}), FACTS).notices
    assert notice.startswith(f"stages.0.lr: {lr:g} is outside")
    assert told in notice


def test_minutes_cut_the_steps_and_say_so() -> None:
    # A step: 400 x (0.5 x 60000/20000 + 0.5 x 340000/170000) = 400 x 2.5 = 1000 tokens, 10 s at 100 tokens/s.
    # 100 steps are 1000 s; 10 minutes less 100 s of probes leave 500 s: 50 steps.
    timed = replace(FACTS, tokens_per_second=100, probe_seconds=100, replay_tokens=340_000)
    asked = {"steps": 100, "batch_tokens": 400, "replay": {"share": 0.5}}
    assert step_tokens(one(asked, timed), timed) == 1000
    resolved = resolve(recipe(asked, budget={"minutes": 10}), timed)
    assert resolved.stages[0].steps == 50
    cut = setting(resolved, "stages.0.steps")
    assert (cut.value, cut.origin, cut.rule) == ("50", "measured", "cut from 100")
    assert cut.evidence == "budget.minutes 10: training would take 16.7, the probes take 1.67"
    assert setting(resolved, "stages.0.epochs").value == "0.5"  # 50 x 200 / 20000
    assert any(n.startswith("stages.0.steps: cut from 100 to 50") for n in resolved.notices)
    assert resolve(recipe(asked, budget={"minutes": 20}), timed).stages[0].steps == 100
    # Half an hour of one GPU at the same speed is 1800 s, enough; a twentieth is 180 s, 80 s after the probes: 8 steps.
    assert resolve(recipe(asked, budget={"gpu_hours": 0.5}), timed).stages[0].steps == 100
    assert resolve(recipe(asked, budget={"gpu_hours": 0.05}), timed).stages[0].steps == 8


def test_a_budget_that_the_probes_alone_use_up_is_refused() -> None:
    timed = replace(FACTS, tokens_per_second=100, probe_seconds=150)
    with pytest.raises(RecipeError, match=r"budget\.minutes: found 2; expected more than 2\.5, which the probes"):
        resolve(recipe(budget={"minutes": 2}), timed)


def test_a_time_budget_without_a_measured_speed_cuts_nothing_and_says_so() -> None:
    resolved = resolve(recipe({"steps": 100}, budget={"minutes": 1}), FACTS)
    assert resolved.stages[0].steps == 100
    assert any(n.startswith("budget: the speed is not measured") for n in resolved.notices)


def test_all_stages_share_the_cut() -> None:
    # 900 tokens a step as above; 60 + 30 steps want 81000 tokens, 27000 are a third: 20 + 10 steps.
    stage = {"technique": "sft", "data": "rows.jsonl", "batch_tokens": 300, "replay": None}
    both = recipe(stages=[{**stage, "steps": 60}, {**stage, "steps": 30}], budget={"tokens": 27_000})
    resolved = resolve(both, FACTS, FACTS)
    assert [s.steps for s in resolved.stages] == [20, 10]
    assert [s.id for s in resolved.stages] == ["01-sft", "02-sft"]


def test_a_length_beyond_the_model_is_refused_and_a_row_beyond_it_pointed_out() -> None:
    with pytest.raises(RecipeError, match=r"stages\.0\.max_length: found 4096; expected at most 2048"):
        resolve(recipe({"max_length": 4096}), FACTS)
    resolved = resolve(recipe(), replace(FACTS, longest_row=3000))
    assert resolved.stages[0].max_length == 2048
    assert any("the longest row has 3000 tokens, more than 2048" in n for n in resolved.notices)


def test_a_small_exam_is_said_to_be_imprecise() -> None:
    # 1.96 x sqrt(0.25 / 25) = 0.196: 20 points, when 25 of the 50 rows report.
    notices = resolve(recipe(), replace(FACTS, exam_rows=50)).notices
    assert "probes.domain: 50 exam rows know the final score to about +-20 points; more help" in notices


def test_settings_show_paths_as_seen_from_the_recipe(tmp_path: Path) -> None:
    from temper.recipe.load import load

    (tmp_path / "data").mkdir()
    for name in ("rows.jsonl", "exam.jsonl"):
        (tmp_path / "data" / name).write_text("{}\n", encoding="utf-8")
    text = "base: m\nprobes: {domain: data/exam.jsonl}\nstages: [{technique: sft, data: data/rows.jsonl}]\n"
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    resolved = resolve(load(tmp_path / "r.yaml"), FACTS)
    assert setting(resolved, "probes.domain.0.file").value == "data/exam.jsonl"
    assert not [s for s in resolved.settings if str(tmp_path) in s.value]


def test_a_packed_base_is_an_adapter_above_four_bits() -> None:
    found = one({"adapter": "qlora"})
    assert (found.adapter, found.four_bit, found.rank) == ("lora", True, 16)
    assert one({"adapter": "lora"}).four_bit is False
