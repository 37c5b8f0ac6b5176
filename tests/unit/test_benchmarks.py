"""What the benchmarks compute around their measurements."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import gpu, harness, page
from benchmarks.rows import SYSTEM, chats, passages


def test_a_ratio_above_one_means_better_whichever_way_the_figure_goes() -> None:
    # rounds 30 / 10 and 20 / 10: ratios 3 and 2, median 2.5; for memory 10 / 30 and 10 / 20
    more = harness.figure("speed", "tokens/s", [30, 20], [10, 10], better="more", peer_name="peer")
    less = harness.figure("memory", "MiB", [10, 10], [30, 20], better="less", peer_name="peer")
    assert (more.ratio, more.spread, more.ours, more.peer) == (2.5, (2.0, 3.0), 25, 10)
    assert (less.ratio, less.spread) == (2.5, (2.0, 3.0))


def test_the_newest_of_each_name_is_shown_and_what_is_missing_is_said(tmp_path: Path) -> None:
    def row(name: str, ratio: float) -> dict[str, object]:
        return {"name": name, "unit": "tokens/s", "ours": 1234.0, "peer": 2.0, "peer_name": "TRL", "ratio": ratio,
                "spread": [ratio, ratio], "machine": "m"}  # fmt: skip

    (tmp_path / "2026-01-01.json").write_text(json.dumps([row("other", 1.5), row("sft-full speed", 1.1)]))
    (tmp_path / "2026-02-01.json").write_text(json.dumps([row("sft-full speed", 2.2)]))
    rows = page.newest(tmp_path)
    assert [(date, r["name"], r["ratio"]) for date, r in rows] == [
        ("2026-02-01", "sft-full speed", 2.2), ("2026-01-01", "other", 1.5),
    ]  # fmt: skip
    assert "| sft-full speed | tokens/s | 1,234 | 2 | 2.20 | 2.20 to 2.20 | 2.00 | TRL | 2026-02-01, m |" in page.table(
        rows
    )
    assert "generation speed" in page.missing(rows)
    assert "sft-full speed" not in page.missing(rows)
    assert page.runs(tmp_path / "gpu") == page.NOTHING


def test_a_failed_run_on_a_gpu_is_shown_as_such(tmp_path: Path) -> None:
    done = {"arguments": ["ours"], "tokens_per_second": 250000.0, "mfu": 0.5, "peak_gib": 8.0, "tool": "temper",
            "device": "H200", "pass_tokens": 65536}  # fmt: skip
    failed = {"arguments": ["peer", "--micro", "4"], "error": "OutOfMemoryError: a | b"}
    (tmp_path / "2026-01-01.json").write_text(json.dumps([done, failed]))
    told = page.runs(tmp_path)
    assert "| ours | 250,000 | 0.50 | 8.0 | 65536 | temper, H200 |" in told
    assert "| peer --micro 4 | | | | | OutOfMemoryError: a / b |" in told


def test_only_the_named_section_of_the_page_is_replaced() -> None:
    before = "a\n<!-- cpu -->\nold\n<!-- /cpu -->\nb"
    assert page.filled(before, {"cpu": r"new \1"}) == "a\n<!-- cpu -->\nnew \\1\n<!-- /cpu -->\nb"
    with pytest.raises(AssertionError, match="no section called gpu"):
        page.filled(before, {"gpu": ""})


def test_the_arithmetic_of_a_step_by_hand() -> None:
    # tiny: a layer has 64 x 64 (query) + 64 x 64 (output) + 2 x 64 x 32 (key, value) + 3 x 64 x 128 = 36864 weights;
    # two of them and the head of 64 x 512 = 32768 make 106496. One row of 10 tokens: 6 x 106496 x 10, and attention
    # 6 x 2 layers x 64 x 10^2 = 76800. With an adapter 4 instead of 6.
    assert gpu.operations("tiny", "full", [[0] * 10]) == 6 * 106496 * 10 + 76800
    assert gpu.operations("tiny", "lora", [[0] * 10]) == 4 * 106496 * 10 + 76800


def test_the_8b_shape_has_eight_billion_weights() -> None:
    # 32 layers of 2 x 4096^2 + 2 x 4096 x 1024 + 3 x 4096 x 14336, and the head: 7.5e9; the embedding is looked up
    assert gpu.operations("8b", "full", [[0]]) / 6 == pytest.approx(7.505e9, rel=1e-3)


def test_lengths_are_realistic_and_the_same_every_time() -> None:
    found = sorted(gpu.lengths(400_000, 3))
    assert gpu.lengths(400_000, 3) == gpu.lengths(400_000, 3)
    assert found[len(found) // 2] == pytest.approx(180, rel=0.1)
    assert found[int(0.95 * len(found))] == pytest.approx(900, rel=0.15)


def test_rows_are_functions_of_their_number() -> None:
    assert chats(8) == chats(64)[:8]
    assert all(row.system == SYSTEM for row in chats(3, system=SYSTEM))
    assert passages(4) == passages(9)[:4]
    assert len(set(passages(16))) == 16
