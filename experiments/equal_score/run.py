"""Does reinforcement forget less than imitation at the same score? Arithmetic from one start, both ways.

    python examples/rft-arithmetic/make_data.py
    python -m experiments.equal_score.run [--out runs/equal-score] [--seed 0]

The first run is the example; the second has the same first stage and learns the same tasks from their answers, with the
same general rows beside them. Of the second, the checkpoint that is nearest to the first one's choice on the selection
half of the exam is taken. Both are measured on the whole exam and on both halves of `core`, against the base and
against each other, item by item. What is done is not done again. Appends one line to results.jsonl beside this file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "rft-arithmetic"
RESULTS = Path(__file__).with_name("results.jsonl")
ENDED = (0, 4)
"""Exit codes of a run that came to its end: a better checkpoint, or the base kept."""
LOOKS = 6
"""Checkpoints of the imitating stage, so that one of them is near."""


def main() -> None:
    """Runs what is missing and writes what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "equal-score")
    parser.add_argument("--rft", type=Path, help="a finished run of the example with this seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for both runs")
    asked = parser.parse_args()
    more = [f"seed={asked.seed}", *asked.set]
    rft: Path = asked.rft or train(EXAMPLE / "temper.yaml", asked.out / f"rft-{asked.seed}", more)
    sft = train(imitating(asked.out / f"recipe-{asked.seed}"), asked.out / f"sft-{asked.seed}", more)
    rewarded = chosen(rft)
    imitated = nearest(sft, rewarded["domain"])
    paths = {"rft": rft / rewarded["path"], "sft": sft / imitated["path"]}
    result: dict[str, Any] = {"seed": asked.seed, "steps": {"rft": rewarded["step"], "sft": imitated["step"]}}
    for name, path in paths.items():
        result[name] = measured(path, "smollm2-135m-instruct")
    result["sft against rft"] = measured(paths["sft"], str(paths["rft"]))
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")
    print(json.dumps(result, indent=1))


def imitating(folder: Path) -> Path:
    """A recipe whose second stage learns the answers of the tasks."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [json.loads(line) for line in (EXAMPLE / "data" / "tasks.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [{"prompt": task["prompt"], "completion": task["reference"]} for task in tasks]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = yaml.safe_load((EXAMPLE / "temper.yaml").read_text(encoding="utf-8"))
    recipe["probes"]["domain"][0]["file"] = str(EXAMPLE / "data" / "exam.jsonl")
    first, second = recipe["stages"]
    first["data"] = str(EXAMPLE / "data" / "worked.jsonl")
    learnt = {"technique": "sft", "data": str(folder / "answers.jsonl"), "checkpoints": LOOKS}
    recipe["stages"] = [first, learnt | {"replay": second["replay"]}]
    path = folder / "temper.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


def train(recipe: Path, out: Path, more: Sequence[str]) -> Path:
    """The folder of a run that has ended, now or before."""
    changed = [part for value in more for part in ("--set", value)]
    command = [sys.executable, "-m", "temper", "run", str(recipe), "--out", str(out), *changed]
    done = subprocess.run(command, cwd=ROOT, check=False)
    if done.returncode not in ENDED:
        raise SystemExit(f"{out}: ended with exit code {done.returncode}; run the same command again to continue")
    return out


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    """What a run has logged of a kind."""
    found = map(json.loads, (run / "events.jsonl").read_text(encoding="utf-8").splitlines())
    return [e for e in found if e["kind"] == kind]


def candidates(run: Path) -> list[dict[str, Any]]:
    """The candidates of a run's last stage."""
    found = events(run, "candidate")
    return [e for e in found if e["stage"] == max(e["stage"] for e in found)]


def chosen(run: Path) -> dict[str, Any]:
    """The candidate that the last stage handed on."""
    name = events(run, "choice")[-1]["checkpoint"]
    found = [e for e in candidates(run) if e["checkpoint"] == name]
    if not found:
        raise SystemExit(f"{run}: its last stage handed on {name}, which it did not train; nothing to compare")
    return found[-1]


def nearest(run: Path, domain: float) -> dict[str, Any]:
    """The trained candidate whose score is nearest, the earlier one of two."""
    trained = [e for e in candidates(run) if e["alpha"] == 1.0 and e["checkpoint"].count("-") == 2]
    return min(trained, key=lambda e: (abs(e["domain"] - domain), e["step"]))


def measured(model: Path, against: str) -> dict[str, Any]:
    """What `temper eval` finds on `core` and the exam."""
    probes = ["--probes", "core", "--probes", str(EXAMPLE / "data" / "exam.jsonl")]
    command = [sys.executable, "-m", "temper", "eval", str(model), *probes, "--against", against, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    return {name: value for name, value in told.items() if name not in {"model", "against"}}  # paths of this machine


if __name__ == "__main__":
    main()
