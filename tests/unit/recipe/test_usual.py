"""Unusual numbers are pointed out with their effect; absurd ones are refused; every number has a range."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from temper import registry
from temper.calibrate import rules
from temper.errors import RecipeError
from temper.recipe.resolve import Resolved, resolve
from temper.recipe.schema import Recipe, Stage, stage_class
from tests.unit.recipe.test_resolve import FACTS, setting

DATA: Mapping[str, Mapping[str, Any]] = {
    "sft": {}, "cpt": {}, "dpo": {}, "rft": {"reward": "exact"}, "distill": {},
}  # fmt: skip


def settled(stage: Mapping[str, Any], *, technique: str = "sft", params: int = FACTS.params, **top: Any) -> Resolved:
    document = {
        "base": "m", "probes": {"domain": "exam.jsonl"}, **top,
        "stages": [{"technique": technique, "data": "rows.jsonl", **DATA[technique], **stage}],
    }  # fmt: skip
    return resolve(Recipe.model_validate(document), replace(FACTS, params=params))


def notices(stage: Mapping[str, Any], *, technique: str = "sft", **top: Any) -> list[str]:
    return [n.removeprefix("stages.0.") for n in settled(stage, technique=technique, **top).notices]


@pytest.mark.parametrize(
    ("technique", "stage", "told"),
    [
        ("sft", {"rank": 1000}, "rank: 1000 is above what is usual, 1 to 256; more capacity"),
        ("sft", {"alpha": 0.5}, "alpha: 0.5 is below what is usual, 1 to 512; a usual rate hardly moves"),
        ("sft", {"warmup": "90%"}, "warmup: 90% is above what is usual, 0% to 30%; the rate is below its peak"),
        ("sft", {"batch_tokens": 3}, "batch_tokens: 3 is below what is usual, 64 to 1e+06; that is an answer or two"),
        ("sft", {"epochs": 200}, "epochs: 200 is above what is usual, 0.05 to 20; the rows are learnt by heart"),
        ("sft", {"replay": {"share": 0.99}}, "replay.share: 99% is above what is usual, 0% to 75%; little of a step"),
        ("sft", {"clip": 1e9}, "clip: 1e+09 is above what is usual, 0.05 to 100; nothing is ever cut"),
        ("sft", {"clip": 1e-6}, "clip: 1e-06 is below what is usual, 0.05 to 100; nearly every gradient"),
        ("sft", {"betas": [0.9, 0.1]}, "betas.1: 0.1 is below what is usual, 0.8 to 0.9999; the size of a step"),
        ("sft", {"weight_decay": 1}, "weight_decay: 1 is above what is usual, 0 to 0.1; it pulls the weights"),
        ("sft", {"steps": 10**7}, "steps: 1e+07 is above what is usual"),
        ("sft", {"checkpoints": 100}, "checkpoints: 100 is above what is usual"),
        ("sft", {"replay": {"own": {"temperature": 2}}}, "replay.own.temperature: 2 is above what is usual"),
        ("cpt", {"epochs": 20}, "epochs: 20 is above what is usual, 0.05 to 4; beyond 4 passes"),
        ("dpo", {"beta": 1e3}, "beta: 1000 is above what is usual, 0.01 to 10; a pair counts as settled"),
        ("dpo", {"rpo": 50}, "rpo: 50 is above what is usual"),
        ("rft", {"group_size": 2}, "group_size: 2 is below what is usual, 4 to 64; so few replies"),
        ("rft", {"kl_to_start": 1e3}, "kl_to_start: 1000 is above what is usual, 0 to 0.1; the penalty outweighs"),
        ("rft", {"updates": 100}, "updates: 100 is above what is usual"),
        ("rft", {"temperature": 0.1}, "temperature: 0.1 is below what is usual"),
        ("rft", {"gate_tasks": 1}, "gate_tasks: 1 is below what is usual"),
        ("distill", {"prompts": 1}, "prompts: 1 is below what is usual, 4 to 512; so few replies"),
    ],
)
def test_an_unusual_number_is_pointed_out_with_what_it_does(
    technique: str, stage: Mapping[str, Any], told: str
) -> None:
    assert [n for n in notices(stage, technique=technique) if n.startswith(told)], notices(stage, technique=technique)


@pytest.mark.parametrize(
    ("technique", "stage"),
    [
        ("sft", {"rank": 4096}), ("sft", {"rank": 0}), ("sft", {"alpha": 0}), ("sft", {"clip": 0}),
        ("sft", {"warmup": 1.5}), ("sft", {"epochs": 5000}), ("sft", {"batch_tokens": 0}), ("sft", {"lr": 5e-2}),
        ("sft", {"betas": [0.9, 1.0]}), ("sft", {"weight_decay": 2}), ("sft", {"replay": {"share": 1}}),
        ("sft", {"max_length": 1}), ("dpo", {"beta": 0}), ("rft", {"group_size": 1}), ("rft", {"temperature": 5}),
        ("rft", {"kl_to_start": -1}), ("distill", {"prompts": 0}),
    ],
)  # fmt: skip
def test_what_can_never_work_is_refused(technique: str, stage: Mapping[str, Any]) -> None:
    with pytest.raises((ValidationError, RecipeError)):
        settled(stage, technique=technique)


@pytest.mark.parametrize("technique", list(DATA))
def test_what_temper_chooses_itself_is_never_unusual(technique: str) -> None:
    table = rules.read_table(technique)
    assert not [n for n in notices({}, technique=technique) if "usual" in n]
    for path, usual in table.usual.items():
        entry = getattr(table, path.replace(".", "_"), None) or table.own.get(path)
        if isinstance(entry, rules.Entry):
            for value in (entry.value, *(case.value for case in entry.cases)):
                assert value is None or usual.low <= value <= usual.high, (path, value)


def numbers(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Paths of all fields of a stage that take a number."""
    for name, about in model.model_fields.items():
        text = str(about.annotation)
        inner = [part for part in _models(about.annotation) if part.__name__ in ("Replay", "OwnReplay")]
        for part in inner:
            yield from numbers(part, f"{prefix}{name}.")
        if "tuple[typing.Annotated[float" in text:
            yield from (f"{prefix}{name}.{i}" for i in range(2))
        elif not inner and ("int" in text.split("|")[0] or "float" in text.split("|")[0]) and "Mapping" not in text:
            yield f"{prefix}{name}"


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _models(part)


@pytest.mark.parametrize("technique", list(DATA))
def test_every_number_that_a_recipe_may_set_has_a_range(technique: str) -> None:
    kind: type[Stage] = stage_class(technique)
    found = set(numbers(kind)) - {"lr"}  # which has a range for every adapter
    assert {"rank", "clip", "betas.1", "warmup"} <= found
    assert technique == "distill" or {"replay.share", "replay.own.temperature"} <= found
    assert found <= set(rules.read_table(technique).usual), technique
    assert set(DATA) == set(registry.names("technique"))


def test_a_rate_is_judged_by_what_alpha_makes_of_it() -> None:
    # 1e-3 with alpha 128 moves the weights as 1e-3 x 128 / 32 = 4e-3 does with alpha 32, above 2e-3.
    (notice,) = notices({"lr": 1e-3, "alpha": 128})
    assert notice.startswith("lr: 0.001 (moves the weights as 0.004 does with alpha 32) is outside 2e-05 to 0.002")
    assert "may erase" in notice
    # 1e-4 with alpha 4: 1.25e-5, below 2e-5, though 1e-4 itself is usual.
    (notice,) = notices({"lr": 1e-4, "alpha": 4})
    assert "moves the weights as 1.25e-05 does" in notice and "next to nothing" in notice
    assert notices({"lr": 1e-3}) == notices({"lr": 5e-4, "alpha": 64}) == []
    assert "alpha 32" not in notices({"lr": 1e-2})[0]


def test_a_rate_that_alpha_makes_absurd_is_refused() -> None:
    # 5e-3 x 256 / 32 = 4e-2, above 2e-2.
    with pytest.raises(RecipeError, match=r"stages\.0\.lr: found 0\.005 with alpha 256, which moves .* as 0\.04 does"):
        settled({"lr": 5e-3, "alpha": 256})


def test_the_rate_follows_alpha_and_not_the_rank() -> None:
    usual = settled({}).stages[0]
    doubled, wide = settled({"alpha": 64}).stages[0], settled({"rank": 256}).stages[0]
    assert doubled.lr == pytest.approx(usual.lr / 2)
    assert (wide.lr, wide.rank) == (usual.lr, 256)
    # The habit of alpha = 2 x rank: 512 / 32 = 16 times less.
    assert settled({"rank": 256, "alpha": 512}).stages[0].lr == pytest.approx(usual.lr / 16, rel=0.05)


def test_a_rate_asked_for_beside_another_alpha_says_what_it_comes_to_and_why() -> None:
    found = setting(settled({"lr": 2e-4, "alpha": 64}), "stages.0.lr")
    assert (found.value, found.origin) == ("0.0002", "recipe")
    assert found.rule == "moves the weights as 0.0004 does with alpha 32"
    assert "not measured here" in found.evidence
    assert setting(settled({"lr": 2e-4}), "stages.0.lr").rule == ""


def test_a_model_of_eight_billion_parameters_is_told_that_nothing_of_its_size_was_measured() -> None:
    large = replace(FACTS, params=8_000_000_000, hidden=4096, layers=32)
    document = {
        "base": "m", "probes": {"domain": "exam.jsonl"}, "stages": [{"technique": "sft", "data": "rows.jsonl"}],
    }  # fmt: skip
    found = resolve(Recipe.model_validate(document), large)
    (notice,) = found.notices
    assert notice.startswith(
        "base: 8.0 billion parameters: rates, lengths and replay for this size come from published"
    )
    assert "not measured here (models of up to 150 million were)" in notice
    for key in ("lr", "rank", "epochs", "batch_tokens", "replay.share"):
        assert "not measured here" in setting(found, f"stages.0.{key}").evidence, key
    # 3.8e-4 x (2000/4096)^0.25 = 3.8e-4 x 0.836 = 3.2e-4; and 2 epochs where a small model makes 3.
    stage = found.stages[0]
    assert (stage.lr, stage.rank) == (pytest.approx(3.2e-4), 16)
    assert stage.epochs == pytest.approx(2.0, abs=0.1)
    assert isinstance(stage.rank, int)
    full = {"technique": "sft", "data": "rows.jsonl", "adapter": "full"}
    whole = resolve(Recipe.model_validate({**document, "stages": [full]}), large)
    assert whole.stages[0].steps > 200 and whole.stages[0].lr == pytest.approx(4.2e-6)  # 5e-6 x 0.836


def test_the_built_in_model_has_been_measured() -> None:
    assert not [n for n in settled({}).notices if n.startswith("base:")]
    assert [n for n in settled({}, params=360_000_000).notices if n.startswith("base: 360 million parameters")]


def test_a_tolerance_that_protects_nothing_and_too_many_threads_are_pointed_out() -> None:
    found = settled({}, tolerance="30%", machine={"threads": 64}).notices
    assert any(n.startswith("tolerance: 30% is above 10%") for n in found)
    assert any(n.startswith("machine.threads: 64 threads on 2 cores") for n in found)


@pytest.mark.parametrize(("tolerance", "told"), [("1%", True), ("14%", True), ("20%", False)])
def test_a_suite_that_cannot_show_the_tolerance_is_pointed_out(tolerance: str, told: bool) -> None:
    probes = {"domain": "exam.jsonl", "general": ["quick"]}
    found = settled({}, tolerance=tolerance, probes=probes).notices
    assert any(n.startswith("probes.general: the items of quick") for n in found) == told
    assert not any(n.startswith("probes.general") for n in settled({}, tolerance=tolerance).notices)
