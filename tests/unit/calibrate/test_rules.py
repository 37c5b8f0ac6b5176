from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import ValidationError

from temper.calibrate import rules
from temper.calibrate.rates import normalised_rate


@pytest.fixture
def sft() -> rules.TechniqueTable:
    """The table as it is; its numbers are tuned, so no test names them."""
    return rules.read_table()


@pytest.fixture
def fixed(sft: rules.TechniqueTable) -> rules.TechniqueTable:
    """A table whose numbers stand still, for arithmetic by hand."""
    return sft.model_copy(
        update={
            "lr_lora": entry(),
            "batch_tokens": rules.Entry(value=512, evidence="tokens"),
            "batch_least_rows": rules.Entry(value=8, evidence="least"),
            "batch_most_rows": rules.Entry(value=40, evidence="most"),
            "batch_steps_per_epoch": rules.Entry(value=16, evidence="per epoch"),
            "length_multiple": rules.Entry(value=64, evidence="x"),
            "replay_categories": rules.Entry(value={"instruction": 45, "code": 40, "safety": 15}, evidence="x"),
        }
    )


def test_every_number_of_the_table_has_evidence(sft: rules.TechniqueTable) -> None:
    for name in set(rules.TechniqueTable.model_fields) - {"own", "usual"}:
        assert len(getattr(sft, name).evidence) > 20, name


def test_a_technique_overrides_what_it_says_and_takes_the_rest_from_supervised_fine_tuning(tmp_path: Path) -> None:
    own = Path(rules.__file__).with_name("table.toml").read_text(encoding="utf-8")
    path = tmp_path / "table.toml"
    more = '\n[mine.rank]\nvalue = 3\nevidence = "x"\n\n[mine.steepness]\nvalue = 0.5\nevidence = "y"\n'
    path.write_text(own + more, encoding="utf-8")
    mine, usual = rules.read_table("mine", path), rules.read_table(path=path)
    assert (mine.rank.value, mine.clip, usual.own) == (3, usual.clip, {})
    assert mine.own["steepness"].value == 0.5
    assert rules.read_table("unheard-of", path) == usual


def test_usual_rates_contain_what_the_table_itself_chooses(sft: rules.TechniqueTable) -> None:
    for adapter in ("lora", "full"):
        usual = rules.lr_range(sft, adapter)
        for steps in (1, 50, 200, 201, 100_000):
            for hidden in (64, 576, 2048, 4096, 16384):
                lr = rules.learning_rate(sft, adapter=adapter, alpha=32.0, steps=steps, hidden=hidden).value
                assert usual.low <= lr <= usual.high < usual.absurd
    assert rules.lr_range(sft, "lora").absurd <= 5e-2  # the rate that wrecks every run must be refused
    assert rules.lr_range(sft, "full").absurd <= 5e-2


def entry() -> rules.Entry:
    cases = (rules.Case(up_to=200, value=1e-3), rules.Case(value=4e-4))
    return rules.Entry(by="steps", cases=cases, evidence="x")


@pytest.mark.parametrize(("steps", "value"), [(1, 1e-3), (200, 1e-3), (201, 4e-4), (10**9, 4e-4)])
def test_the_first_case_that_reaches_the_fact_holds(steps: int, value: float) -> None:
    assert rules.pick(entry(), steps).value == value


def test_the_rule_names_the_limit_and_the_fact() -> None:
    assert rules.pick(entry(), 120).rule == "0.001 for steps up to 200; here 120"
    assert rules.pick(entry(), 4000).rule == "0.0004 for steps above 200; here 4,000"


def test_a_value_goes_over_between_two_cases() -> None:
    # Half way between 10 and 40 on the logarithm is 20: the geometric mean of 1e-4 and 4e-4.
    cases = (rules.Case(up_to=10, value=1e-4), rules.Case(since=40, value=4e-4))
    entry = rules.Entry(by="steps", cases=cases, evidence="x")
    assert [rules.pick(entry, steps).value for steps in (1, 10, 20, 40, 50)] == [1e-4, 1e-4, 2e-4, 4e-4, 4e-4]
    assert rules.pick(entry, 20).rule == "0.0002 between 0.0001 for steps up to 10 and 0.0004 from 40 on; here 20"
    with pytest.raises(ValueError, match="since"):
        rules.Entry(by="steps", cases=(cases[0], rules.Case(since=8, value=4e-4)), evidence="x")


def test_one_step_more_never_changes_the_rate_of_an_adapter_by_much(sft: rules.TechniqueTable) -> None:
    found = [rules.pick(sft.lr_lora, steps).value for steps in range(1, 2000)]
    assert all(0.9 < later / former < 1.1 for former, later in pairwise(found))


def test_full_fine_tuning_takes_a_lower_rate_than_an_adapter(sft: rules.TechniqueTable) -> None:
    for steps in (100, 1000):
        lora = rules.learning_rate(sft, adapter="lora", alpha=32.0, steps=steps, hidden=2000).value
        full = rules.learning_rate(sft, adapter="full", alpha=32.0, steps=steps, hidden=2000).value
        assert full < lora


def test_the_adapters_rate_falls_as_alpha_scales_the_update_up(fixed: rules.TechniqueTable) -> None:
    usual = rules.learning_rate(fixed, adapter="lora", alpha=32.0, steps=100, hidden=2000)
    double = rules.learning_rate(fixed, adapter="lora", alpha=64.0, steps=100, hidden=2000)
    assert (usual.value, double.value) == pytest.approx((1e-3, 5e-4))
    assert "x 32/64 for alpha 64" in double.rule
    tiny = rules.learning_rate(fixed, adapter="lora", alpha=1.0, steps=100, hidden=2000)
    assert tiny.value == rules.lr_range(fixed, "lora").high  # not 0.032, which no run survives


def test_a_large_alpha_gets_the_rate_that_moves_the_weights_as_far(fixed: rules.TechniqueTable) -> None:
    # 1e-3 x 32/3200 = 1e-5, below the range of plain rates, which is none for a scaled one.
    found = rules.learning_rate(fixed, adapter="lora", alpha=3200.0, steps=100, hidden=2000)
    assert found.value == 1e-5
    assert found.value < rules.lr_range(fixed, "lora").low
    assert normalised_rate(found.value, alpha=3200.0, rank=8) == pytest.approx(1e-3)


def test_the_rate_does_not_depend_on_the_rank(fixed: rules.TechniqueTable) -> None:
    rates = {
        rules.learning_rate(fixed, adapter="lora", alpha=64.0, rank=rank, steps=100, hidden=2000).value
        for rank in (1, 16, 256)
    }
    assert rates == {5e-4}


TECHNIQUES = ("sft", "cpt", "dpo", "rft", "distill")


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_what_holds_for_large_models_alone_is_marked_as_not_measured_here(technique: str) -> None:
    small, large = rules.read_table(technique), rules.read_table(technique, params=8e9)
    names = set(rules.TechniqueTable.model_fields) - {"own", "usual"}
    changed = {name for name in names if getattr(small, name) != getattr(large, name)}
    if technique == "sft":
        assert {"lr_lora", "lr_full", "lr_width", "batch_tokens", "rank", "epochs", "replay_share"} <= changed
    for name in changed:
        assert getattr(large, name).evidence.endswith("not measured here"), name
    assert rules.read_table(technique, params=135e6) == small
    assert (large.own, large.usual) == (small.own, small.usual)


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_the_rates_of_large_models_lie_in_their_range_and_below_the_cliff(technique: str, adapter: str) -> None:
    table = rules.read_table(technique, params=8e9)
    usual = rules.lr_range(table, adapter)
    for hidden in (2048, 4096, 8192):  # 1B, 8B, 70B
        for steps in (50, 500, 5000):
            lr = rules.learning_rate(table, adapter=adapter, alpha=32.0, steps=steps, hidden=hidden).value
            assert usual.low <= lr <= usual.high <= 1e-3 < 2e-3  # 2e-3 diverged on 30B


def test_what_a_technique_says_itself_comes_before_what_large_models_change() -> None:
    # One pass over text, whatever the size: the two of large fine-tuning are not those of pre-training.
    assert rules.read_table("cpt", params=8e9).epochs == rules.read_table("cpt").epochs
    assert rules.read_table("dpo", params=8e9).lr_lora == rules.read_table("dpo").lr_lora


def test_a_range_says_what_lies_outside_and_rises() -> None:
    for technique in TECHNIQUES:
        for path, usual in rules.read_table(technique).usual.items():
            assert usual.low <= usual.high and (usual.below or usual.above), path
    for wrong in ({"low": 2, "high": 1, "above": "x"}, {"low": 1, "high": 2}):
        with pytest.raises(ValidationError):
            rules.Usual.model_validate(wrong)


def test_the_rate_falls_with_the_width_of_the_model(fixed: rules.TechniqueTable) -> None:
    # with exponent 0.5: 1e-3 x (2000 / 8000)^0.5 = 5e-4; x (2000 / 500)^0.5 = 2e-3
    halves = fixed.model_copy(update={"lr_width": rules.Entry(value=0.5, evidence="x")})
    wide, narrow = (
        rules.learning_rate(halves, adapter="lora", alpha=32.0, steps=100, hidden=hidden) for hidden in (8000, 500)
    )
    assert (wide.value, narrow.value) == pytest.approx((5e-4, 2e-3))
    assert "x (2000/8000)^0.5 for the width" in wide.rule


def test_batch_is_the_tables_for_ordinary_data(fixed: rules.TechniqueTable) -> None:
    # 20000 tokens in 1000 rows: 8 rows are 160 tokens, a 16th of the data 1250, so the table's 512 holds.
    found = rules.batch_tokens(fixed, rows=1000, supervised=20_000)
    assert (found.value, found.evidence) == (512, "tokens")


def test_batch_shrinks_for_tiny_data_so_that_an_epoch_has_steps(fixed: rules.TechniqueTable) -> None:
    # 6000 / 16 = 375, rounded up to 384; 8 rows of 6000/255 tokens are 188, less than that.
    found = rules.batch_tokens(fixed, rows=255, supervised=6000)
    assert (found.value, found.evidence) == (384, "per epoch")


def test_batch_holds_a_handful_of_rows_when_answers_are_long(fixed: rules.TechniqueTable) -> None:
    # 100 rows of 300 tokens: 8 rows are 2400 tokens, a multiple of 16, though the table says 512.
    found = rules.batch_tokens(fixed, rows=100, supervised=30_000)
    assert (found.value, found.evidence) == (2400, "least")


def test_batch_is_no_crowd_of_rows_when_answers_are_short(fixed: rules.TechniqueTable) -> None:
    # 10,000 rows of 5 tokens: 40 rows are 200 tokens, rounded up to 208, though the table says 512.
    found = rules.batch_tokens(fixed, rows=10_000, supervised=50_000)
    assert (found.value, found.evidence) == (208, "most")


def test_steps_follow_from_epochs_and_the_domains_part_of_the_batch() -> None:
    # 3 x 22000 / (0.75 x 512) = 171.9: 172 steps, which are 172 x 384 / 22000 = 3.002 epochs.
    assert rules.count_steps(epochs=3, supervised=22_000, share=0.25, batch=512) == 172
    assert rules.count_epochs(steps=172, supervised=22_000, share=0.25, batch=512) == pytest.approx(3.00218, abs=1e-5)


def test_an_exact_number_of_steps_is_not_rounded_up() -> None:
    # 0.3 x 10000 / (0.9 x ...) style products leave 1e-13 behind; 1.1 x 1000 / (0.5 x 220) = 10 exactly.
    assert rules.count_steps(epochs=1.1, supervised=1000, share=0.5, batch=220) == 10
    assert rules.count_steps(epochs=0.001, supervised=10, share=0, batch=512) == 1


def test_max_length_rounds_up_and_stops_at_the_context(fixed: rules.TechniqueTable) -> None:
    assert rules.max_length(fixed, longest=90, context=None).value == 128
    assert rules.max_length(fixed, longest=128, context=2048).value == 128
    assert rules.max_length(fixed, longest=3000, context=2048).value == 2048


def test_categories_without_data_leave_their_weight_to_the_others(fixed: rules.TechniqueTable) -> None:
    # 45 and 15 are left of 100: three quarters and one quarter.
    ruled = rules.replay_categories(fixed, {"instruction": 10, "safety": 5, "code": 0})
    assert ruled.value == pytest.approx({"instruction": 0.75, "safety": 0.25})
    assert "code" in ruled.rule
    assert rules.replay_categories(fixed, {}).value == {}


def test_default_categories_rehearse_safety(sft: rules.TechniqueTable) -> None:
    everything = dict.fromkeys(("instruction", "reasoning", "knowledge", "code", "safety"), 1000)
    weights = rules.replay_categories(sft, everything).value
    assert weights["safety"] > 0
    assert math.isclose(sum(weights.values()), 1.0)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r"\[sft\.rank\]", "[sft.rnak]"),
        (r"up_to = ", "upto = "),
        (r", \{ value = [^}]+ \}\]", "]"),
        (r"(\[sft\.clip\]\n)value = .*\n", r"\1"),
    ],
)
def test_a_typing_error_in_the_table_is_found(tmp_path: Path, old: str, new: str) -> None:
    own = Path(rules.__file__).with_name("table.toml").read_text(encoding="utf-8")
    broken, count = re.subn(old, new, own, count=1)
    assert count == 1
    path = tmp_path / "table.toml"
    path.write_text(broken, encoding="utf-8")
    with pytest.raises(ValidationError):
        rules.read_table(path=path)
