"""Does reading the manual help with questions about it? Three recipes over the same budget, several seeds.

    python examples/cpt-postgres/make_data.py
    python -m experiments.cpt.run [--seeds 3] [--out runs/cpt] [--only NAME ...]

Runs `cpt`, `cpt-sft` and `sft` of examples/cpt-postgres for every seed. A run that is done is not run again, so the
command continues after a kill. Writes results.json beside this file: of every run the change of the held-out pages in
bits per byte, the exam before and after, and the general drop, all on the test split; and for every two recipes, and
each and the base, the mean difference of the exam over seeds, with an interval for other questions of the kind. What
the file says of recipes and seeds that were not asked for stays.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from temper import events, stats
from temper.report.runlog import BASE, sort_log

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "cpt-postgres"
RECIPES = ("cpt", "cpt-sft", "sft")
EXAM = "exam"
ENDED = (0, 4)
"""Exit codes of a run that came to its end: a better checkpoint, or the base kept."""


Answers = dict[tuple[str, int], Mapping[str, tuple[float, float]]]
"""(recipe, seed) -> what `answered` finds in the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What one run found."""

    recipe: str
    seed: int
    verdict: str
    stage: str
    """Of the checkpoint that was chosen."""
    text_base: float
    """Bits per byte of the held-out pages, before."""
    text: float
    exam_base: float
    """Mean probability of the right option, before."""
    exam: float
    drop: float
    """General drop, and its upper bound at 95 %."""
    ucb95: float
    tokens: int
    """Trained on in this run; a stage that was taken over from a run beside it counts nothing, nor do its seconds."""
    seconds: float


def main() -> None:
    """Runs what is missing and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "cpt")
    parser.add_argument("--only", choices=RECIPES, nargs="+", default=RECIPES)
    arguments = parser.parse_args()
    if not (EXAMPLE / "data" / "exam.jsonl").is_file():
        raise SystemExit("run.py: there are no data; run: python examples/cpt-postgres/make_data.py")
    cells: list[Cell] = []
    answers: Answers = {}
    for seed, recipe in itertools.product(range(arguments.seeds), RECIPES):
        if recipe in arguments.only:
            out = arguments.out / f"{recipe}-{seed}"
            cells.append(cell(recipe, seed, out))
            answers[recipe, seed] = answered(out)
            write(Path(__file__).with_name("results.json"), cells, answers)
            print(json.dumps(asdict(cells[-1])), flush=True)


def cell(recipe: str, seed: int, out: Path) -> Cell:
    """One run, or what it left when it ran before."""
    command = [sys.executable, "-m", "temper", "run", str(EXAMPLE / f"{recipe}.yaml"), "--out", str(out)]
    done = subprocess.run([*command, "--set", f"seed={seed}"], cwd=ROOT, check=False)
    if done.returncode not in ENDED:
        raise SystemExit(f"{out}: ended with exit code {done.returncode}; run the same command again to continue")
    return read(recipe, seed, summary(out))


def summary(out: Path) -> Mapping[str, Any]:
    """What `temper report --json` says of a run."""
    command = [sys.executable, "-m", "temper", "report", str(out), "--json"]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def read(recipe: str, seed: int, found: Mapping[str, Any]) -> Cell:
    """The figures of one run."""
    domain = {probe["probe"]: probe for probe in found["domain"]}
    text, exam = domain["held-out"], domain[EXAM]
    stage = (found["chosen"] or {}).get("stage", "")
    return Cell(
        recipe=recipe, seed=seed, verdict=found["verdict"], stage=stage, text_base=text["base"], text=text["chosen"],
        exam_base=exam["base"], exam=exam["chosen"], drop=found["general"]["drop"], ucb95=found["general"]["ucb95"],
        tokens=found["cost"]["tokens"], seconds=found["cost"]["seconds"],
    )  # fmt: skip


def answered(out: Path) -> Mapping[str, tuple[float, float]]:
    """Question -> probability of the right option on the test split, of the base and of what the run handed on."""
    log = sort_log(events.read(out / "events.jsonl"))
    (base,), (now,) = (
        [m for m in log.of(checkpoint, "test", "domain") if m.probe == EXAM] for checkpoint in (BASE, log.chosen)
    )
    then = dict(zip(base.ids, base.items, strict=True))
    return {name: (then[name], score) for name, score in zip(now.ids, now.items, strict=True)}


def differences(answers: Answers) -> list[Mapping[str, Any]]:
    """How much better the first one's exam is, for every two recipes that ran with the same seeds.

    The interval is that of the mean over seeds when the questions are drawn again; what another seed changes is seen
    in `by_seed`.
    """
    found: list[Mapping[str, Any]] = []
    for one, other in [*itertools.combinations(RECIPES, 2), *((recipe, BASE) for recipe in RECIPES)]:
        seeds = [seed for name, seed in answers if name == one and (other == BASE or (other, seed) in answers)]
        if not seeds:
            continue
        questions = list(answers[one, seeds[0]])
        now = [[answers[one, seed][q][1] for q in questions] for seed in seeds]
        place, source = (0, one) if other == BASE else (1, other)
        then = [[answers[source, seed][q][place] for q in questions] for seed in seeds]
        gains = [fmean(a) - fmean(b) for a, b in zip(now, then, strict=True)]
        before, after = ([fmean(scores) for scores in zip(*rows, strict=True)] for rows in (then, now))
        # Measured from one below, the relative fall is the difference itself.
        fall = stats.score_fall(before, after, chance=fmean(before) - 1.0, rng=stats.generator(0, EXAM)).estimate(0.975)
        found.append({
            "of": one, "over": other, "mean": fmean(gains), "ci95": [-fall.high, -fall.low],
            "by_seed": dict(zip(seeds, gains, strict=True)),
        })  # fmt: skip
    return found


def write(path: Path, cells: Sequence[Cell], answers: Answers) -> None:
    """All results so far, in place of what the file says of the same runs."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"runs": [], EXAM: []}
    runs = {(run["recipe"], run["seed"]): run for run in known["runs"]} | {(c.recipe, c.seed): asdict(c) for c in cells}
    pairs = {(d["of"], d["over"]): d for d in (*known[EXAM], *differences(answers))}
    results = {"runs": [runs[key] for key in sorted(runs, key=lambda key: key[::-1])], EXAM: list(pairs.values())}
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
