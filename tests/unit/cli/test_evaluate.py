"""`temper eval` as it is printed: two tiny models, one a little off, at two widths of the terminal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny import tiny_model
from tests.unit.cli.world import temper, write_rows


@pytest.fixture(name="world", scope="module")
def _world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("house")
    tiny_model(folder / "base")
    shutil.copytree(folder / "base", folder / "other")
    weights, noise = load_file(folder / "base" / "model.safetensors"), torch.Generator().manual_seed(0)
    moved = {k: v + 0.02 * torch.randn(v.shape, generator=noise) for k, v in weights.items()}
    save_file(moved, folder / "other" / "model.safetensors", metadata={"format": "pt"})
    write_rows(folder / "text.jsonl", [{"text": f"The capital of France is Paris {i}."} for i in range(40)])
    # Options of equal length that a random model finds about equally likely, so that a little noise decides.
    choices = [{"context": f"The {i} over", "options": [f" {i}{d}" for d in "123"], "gold": i % 3} for i in range(60)]
    write_rows(folder / "pairs.jsonl", choices)
    write_rows(folder / "exam.jsonl", [{"prompt": f"light {i}", "completion": "on"} for i in range(40)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEMPER_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        yield folder


ASKED = ("eval", "other", "--against", "base", "--probes", "text.jsonl", "--probes", "pairs.jsonl")


@pytest.mark.parametrize("width", [100, 160])
def test_the_table_fits_and_shows_each_axis_above_its_probes(world: Path, monkeypatch: pytest.MonkeyPatch, width: int):
    monkeypatch.setenv("COLUMNS", str(width))
    told = temper(*ASKED, "--probes", "exam.jsonl")
    assert told.code == 0, told.err
    lines = told.out.split("\n")
    title = lines.index(next(line for line in lines if line.startswith("other against base")))
    table = lines[title + 1 : title + 8]
    assert [line.split("  ")[0] or line.split()[0] for line in table] == [
        "probe", "domain", "exam", "language", "text", "knowledge", "pairs",
    ]  # fmt: skip
    assert max(map(len, table)) <= 100
    for part in ("bits per byte: text", "drop: share of the level", "one-sided 95 % bounds", "see a drop of"):
        assert part in told.out, part


def test_the_document_pairs_right_answers_and_tells_luck_from_loss(world: Path):
    found = json.loads(temper(*ASKED, "--json").out)
    pairs = next(p for p in found["probes"] if p["probe"] == "pairs")
    assert pairs["items"] == 60
    assert pairs["hard"] - pairs["hard_base"] == pytest.approx((pairs["won"] - pairs["lost"]) / 60)
    assert pairs["lost"] + pairs["won"] > 0, "two models that answer alike compare nothing"
    # Of the items missed twice, guessing among three options moves half as many each way: c / (1 - c) = 1 / 2.
    missed = round(60 * (1 - pairs["hard_base"])) - pairs["won"]
    assert pairs["churn"] == pytest.approx(missed / 2)
    assert pairs["forgotten"] == pytest.approx(max(0.0, pairs["lost"] - missed / 2) * 1.5)
    assert 0 < pairs["p_value"] <= 1
    general = found["general"]
    assert general["items_to_see_1_percent"] > 0
    assert set(general["axes"]["language"]) == {"drop", "lcb95", "ucb95", "resolution"}
    assert found["collapse"] == []


def test_without_a_second_model_there_are_values_and_no_drops(world: Path):
    told = temper("eval", "base", "--probes", "text.jsonl", "--probes", "exam.jsonl")
    assert told.code == 0, told.err
    header = told.out.split("\n")[1].split()
    assert header == ["probe", "items", "value", "right"]
    assert "drop" not in told.out
