"""Writes the tables of `docs/benchmarks.md` from the results, the newest of each name: `python -m benchmarks.page`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
TARGETS: Mapping[str, float] = {
    "sft-lora-r16 speed": 2.5, "sft-lora-r16 peak memory": 1.67, "sft-full speed": 2.0,
    "sft-lora-r16-system speed": 5.0, "grpo-lora-r16 speed": 3.0, "generation speed": 2.0, "choice-piqa speed": 2.0,
    "reached-lora-r16": 0.55, "reached-full": 0.60,
}  # fmt: skip
"""Ratios to be reached on two cores."""
GPU = "gpu-"
NOTHING = "Nothing has been run on a GPU yet."
Row = Mapping[str, Any]


def newest(folder: Path) -> list[tuple[str, Row]]:
    """Date and row of every name, from the file of the latest day that has it."""
    found: dict[str, tuple[str, Row]] = {}
    for path in sorted(folder.glob("*.json")):
        for row in json.loads(path.read_text(encoding="utf-8")):
            found[row["name"]] = (path.stem, row)
    order = [*TARGETS, *sorted(found.keys() - TARGETS.keys())]
    return [found[name] for name in order if name in found]


def table(rows: Sequence[tuple[str, Row]]) -> str:
    """One line per row, with what was to be reached where that was said."""
    lines = [
        "| work | unit | temper | peer | ratio | lowest to highest | to reach | peer's name | measured |",
        "|---|---|--:|--:|--:|---|--:|---|---|",
    ]
    for date, row in rows:
        low, high = row["spread"]
        target = TARGETS.get(row["name"])
        lines.append(
            f"| {row['name']} | {row['unit']} | {_short(row['ours'])} | {_short(row['peer'])} | {row['ratio']:.2f} |"
            f" {low:.2f} to {high:.2f} | {'' if target is None else f'{target:.2f}'} | {row['peer_name']} |"
            f" {date}, {row['machine']} |"
        )
    return "\n".join(lines)


def missing(rows: Sequence[tuple[str, Row]]) -> str:
    """What has a target and no result."""
    names = [name for name in TARGETS if name not in {row["name"] for _, row in rows}]
    return f"Not measured yet: {', '.join(names)}." if names else ""


def runs(folder: Path) -> str:
    """Every run on a GPU of the latest day, failed ones too."""
    files = sorted(folder.glob("*.json"))
    if not files:
        return NOTHING
    lines = [
        f"Every run of {files[-1].stem}:", "", "| run | tokens/s | MFU | peak GiB | tokens a pass | |",
        "|---|--:|--:|--:|--:|---|",
    ]  # fmt: skip
    for run in json.loads(files[-1].read_text(encoding="utf-8")):
        asked = " ".join(run["arguments"])
        if "error" in run:
            lines.append(f"| {asked} | | | | | {run['error'].replace('|', '/')} |")
            continue
        share = f"{run['mfu']:.2f}" if run["mfu"] else ""
        lines.append(
            f"| {asked} | {_short(run['tokens_per_second'])} | {share} | {run['peak_gib']:.1f} |"
            f" {run.get('pass_tokens', '')} | {run['tool']}, {run['device']} |"
        )
    return "\n".join(lines)


def filled(page: str, sections: Mapping[str, str]) -> str:
    """The page with what stands between `<!-- name -->` and `<!-- /name -->` replaced."""
    for name, text in sections.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        page, count = re.subn(pattern, lambda m, text=text: f"{m[1]}{text}\n{m[2]}", page, flags=re.DOTALL)
        assert count == 1, f"{PAGE.name} has no section called {name}"
    return page


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def main() -> None:
    """Rewrites the page."""
    rows = newest(RESULTS)
    cpu, gpu = ([r for r in rows if r[1]["name"].startswith(GPU) == on_gpu] for on_gpu in (False, True))
    told = "\n\n".join(filter(None, (table(cpu) if cpu else "", missing(cpu))))
    ran = "\n\n".join(filter(None, (table(gpu) if gpu else "", runs(RESULTS / "gpu"))))
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), {"cpu": told, "gpu": ran}), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
