"""Ranges and lists in a recipe: what is searched, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from temper.errors import RecipeError
from temper.search.space import Knob, Space, read_space

HEAD = "base: somewhere/model\nprobes: {domain: [exam.jsonl]}\nstages:\n  - technique: sft\n    data: [rows.jsonl]\n"


@pytest.fixture(name="write")
def _write(tmp_path: Path):
    for name in ("exam", "rows", "more"):
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")

    def write(*lines: str, settings: tuple[str, ...] = ()) -> Space:
        path = tmp_path / "temper.yaml"
        path.write_text(HEAD + "".join(f"    {line}\n" for line in lines), encoding="utf-8")
        return read_space(path, settings)

    return write


def only(space: Space) -> Knob:
    (knob,) = space.knobs
    return knob


def test_a_range_of_learning_rates_is_walked_in_factors_and_begins_with_what_temper_would_choose(write) -> None:
    knob = only(write("lr: [1e-5..1e-3]", "replay: null"))
    assert (knob.path, knob.low, knob.high, knob.log, knob.whole) == ("stages.0.lr", 1e-5, 1e-3, True, False)
    assert knob.first == "auto"
    assert knob.words == "1e-05 to 0.001, log"


@pytest.mark.parametrize("written", ["0..0.5", "[0..0.5]", "0%..50%", "'0 .. 50%'"])
def test_a_range_may_stand_alone_in_a_list_and_in_percent(write, written: str) -> None:
    knob = only(write(f"replay: {{share: {written}}}", "lr: 1e-4"))
    assert (knob.path, knob.low, knob.high, knob.log) == ("stages.0.replay.share", 0.0, 0.5, False)


def test_a_list_is_a_choice_where_the_recipe_takes_none(write) -> None:
    """`data`, `betas` and `filters` are lists by nature and stay as they are."""
    space = write("rank: [8, 16, 32]", "betas: [0.9, 0.99]", "filters: [quality]", "lr: 1e-4")
    knob = only(space)
    assert (knob.path, knob.choices, knob.first) == ("stages.0.rank", ("8", "16", "32"), "8")
    assert space.settings({"stages.0.rank": "16"}) == ("stages.0.rank=16",)


def test_words_and_whole_mappings_can_be_chosen_among(write) -> None:
    space = write("keep: [ce, kl]", "replay: [null, {share: 0.25}]", "steps: 10..40", "lr: 1e-4")
    assert [k.path for k in space.knobs] == ["stages.0.keep", "stages.0.replay", "stages.0.steps"]
    assert space.knobs[1].choices == ("null", '{"share": 0.25}')
    assert space.knobs[2].whole and not space.knobs[2].log
    assert space.knobs[2].written(23.4) == "23"


def test_a_setting_of_the_command_line_may_be_a_range(write) -> None:
    knob = only(write("lr: 1e-4", settings=("stages.0.lr=1e-5..1e-4",)))
    assert (knob.low, knob.high) == (1e-5, 1e-4)


def test_without_ranges_the_open_values_that_matter_most_are_searched(write) -> None:
    space = write("adapter: full")
    assert space.by_default
    assert [(k.path, k.low, k.high) for k in space.knobs] == [
        ("stages.0.lr", 1e-6, 2e-4), ("stages.0.replay.share", 0.0, 0.5),
    ]  # fmt: skip
    assert [k.path for k in write("lr: 1e-4").knobs] == ["stages.0.replay.share"]


def test_printed_settings_are_read_back(write) -> None:
    rate, share = write().knobs
    assert rate.read("0.0004") == pytest.approx(4e-4)
    assert share.read("25%") == 0.25
    assert rate.read("0.5") is None  # outside
    assert rate.read("none") is None


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("lr: [1e-3..1e-5]",), "temper.yaml:6: stages.0.lr: found a range from 1e-3 to 1e-5; expected one that ends"),
        (("lr: [1e-4..1e-4]",), "found a range from 1e-4 to itself"),
        # Three dots were read as two before an end of .1e-3: this was a range to itself, the next one to 0.5e-3.
        (("lr: 1e-4...1e-3",), "temper.yaml:6: stages.0.lr: found 1e-4...1e-3; expected two dots between the ends"),
        (("lr: [1e-5...5e-3]",), "begin with a digit; write [1e-5..5e-3]"),
        (("lr: []",), "temper.yaml:6: stages.0.lr: found 0 values to choose from; expected two or more"),
        (("rank: [8]",), "found 1 value to choose from"),
        (("lr: [1e-4..1e-1]",), "temper.yaml:6: stages.0.lr: 1e-1, an end of the range cannot be tried"),
        (("replay: {share: 0..1.5}",), "1.5, an end of the range cannot be tried"),
        (("keep: [ce, kll]",), "kll in the list cannot be tried"),
        (("lr: 1e-4", "replay: null"), "found no value to search"),
        (("lr: 1e-5..1e-3", "lrr: 3"), "a key that nothing reads"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(write, lines: tuple[str, ...], said: str) -> None:
    with pytest.raises(RecipeError) as refused:
        write(*lines)
    assert said in str(refused.value)


def test_a_recipe_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="found no such file"):
        read_space(tmp_path / "temper.yaml")
