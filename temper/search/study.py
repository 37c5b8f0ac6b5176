"""Study: keeps trials at work until no further one pays, and lets the best go on to its end.

The folder of a study holds its log and a run folder for every trial; all that is known follows from these, so a study
that was killed goes on with the same command. A trial is the ordinary command `temper run` with `--set`, paused at a
rung by ending its process; what it reached by then is on disk, and the winner continues from there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path

import temper
from temper import events
from temper.errors import RecipeError
from temper.events import Event
from temper.events.search import SearchFinished, SearchStarted, TrialSeen, TrialStatus
from temper.launch.local import Ended, Job, Launcher
from temper.run.folder import RunFolder, locked
from temper.search import rungs
from temper.search.budget import SearchBudget
from temper.search.rungs import FRACTIONS, Action
from temper.search.space import Space
from temper.search.suggest import Told, importance, suggest
from temper.search.trial import see, trial_folder

FAILED_IN_A_ROW = 3
"""After so many trials that failed one after the other the fault is not in their values."""
NEAR = 0.5
"""Drops below this part of the tolerance count alike for the sampler. Told the drop itself, it spends the trials on
rates so small that nothing is lost and nothing learnt: such trials are on the frontier of both axes too."""
STATUS_OF: Mapping[str, TrialStatus] = {
    "paused": "paused", "ended": "paused", "interrupted": "running", "stopped": "stopped", "failed": "failed",
}  # fmt: skip
"""How a sitting ended -> what the trial is now; that a run is finished is said by its log."""
WRONG_INPUT = (2, 3)
"""Exit codes of a run that the user has to put right."""

Listen = Callable[[Event], None]
Command = Callable[[Path, Sequence[str]], tuple[str, ...]]
"""(run folder, settings) -> the command that runs them."""


@dataclass(slots=True, kw_only=True)
class Study:
    """A search at work."""

    root: Path
    space: Space
    budget: SearchBudget
    launcher: Launcher
    command: Command
    listen: Listen
    trials: dict[int, TrialSeen] = field(default_factory=dict)
    _flying: dict[Future[Ended], int] = field(default_factory=dict)

    def run(self) -> SearchFinished:
        """Searches to the end, or continues what is in the folder.

        Raises:
            RecipeError: the folder holds another study; the recipe cannot be run at all.
        """
        with locked(self.root):
            finished = self._open()
            if finished is not None:
                return finished
            try:
                for trial in [t for t in self.trials.values() if t.status == "running"]:
                    self._fly(trial, self._next_rung(trial))
                reason = self._work()
            finally:
                self.launcher.close()
                self._land([future for future in self._flying if future.done() and not future.cancelled()])
            return self._finish(reason)

    def _open(self) -> SearchFinished | None:
        """Takes up what earlier sittings left; the last event of a study that is over under the same budget."""
        log = RunFolder(root=self.root).events()
        key = study_key(self.space)
        started = next((e for e in reversed(log) if isinstance(e, SearchStarted)), None)
        if started is None:
            if any(p.name != ".lock" for p in self.root.iterdir()):
                raise RecipeError(
                    f"{self.root}: is not empty and holds no study; expected an empty or new folder; write --out with "
                    "a new folder"
                )
        elif started.key != key:
            raise RecipeError(
                f"{self.root}: holds a study of another recipe, other ranges or another version; expected an empty "
                f"folder or the same study to continue; write --out with a new folder, or delete {self.root}"
            )
        self.trials = {e.number: e for e in log if isinstance(e, TrialSeen)}
        again = self._failed_in_a_row()
        if started is not None and started.budget == self.budget.text and not again:
            return next((e for e in log[log.index(started) :] if isinstance(e, SearchFinished)), None)
        # What made them fail was not in their values, and may be put right by now.
        self.trials |= {t.number: dataclasses.replace(t, status="running", reason="tried again") for t in again}
        self._log(
            SearchStarted(
                recipe=self.space.text, key=key, knobs={k.path: k.words for k in self.space.knobs},
                tolerance=self._tolerance, budget=self.budget.text, version=temper.__version__,
                seed=self.space.recipe.seed,
            )
        )  # fmt: skip
        return None

    def _work(self) -> str:
        """Fills free places until there is nothing left to do; says why it ended."""
        reason = ""
        while True:
            shortage = self.budget.shortage(list(self.trials.values()))
            if shortage:
                raise RecipeError(
                    f"--budget {self.budget.text}: {shortage}; expected a budget that holds a search; write a larger"
                    " one, such as 5x: what was done is kept"
                )
            while len(self._flying) < self.launcher.workers:
                action, reason = self._next_action()
                if action is None:
                    break
                self._start(action)
            if not self._flying:
                return reason
            done, _ = wait(self._flying, return_when=FIRST_COMPLETED)
            self._land(list(done))

    def _next_action(self) -> tuple[Action | None, str]:
        """What to do with a free place, or why there is nothing."""
        trials = list(self.trials.values())
        failed = self._failed_in_a_row()
        if failed:
            return None, f"{len(failed)} trials in a row failed; the newest {failed[0].reason}"
        running = [t for t in trials if t.status == "running"]
        best = rungs.to_finish(trials, self._tolerance)
        room = self.budget.room(trials, workers=self.launcher.workers)
        room -= sum(self._next_rung(t) - t.done for t in running)
        hope = rungs.expected_gain(trials, self._tolerance)
        begin = hope.pays and self.budget.may_begin(trials)
        reserved = 1.0 - best.done if best else 0.0
        action = rungs.next_action(trials, tolerance=self._tolerance, room=room - reserved, begin=begin)
        if action is not None:
            return action, ""
        first = not any(t.status == "finished" for t in trials)
        if best is not None and not running and (first or room >= 1.0 - best.done - 1e-6):
            # Lengths are estimates; a search that ends without a finished run would be worth nothing.
            return Action(kind="continue", number=best.number, until=1.0, reason="the best so far"), ""
        if not hope.pays:
            gain = f"{100 * hope.gain:.2f} points of domain score"
            return None, f"no further trial is expected to pay: {gain} expected of the next, after {len(trials)}"
        return None, f"the budget of {self.budget.text} is spent"

    def _failed_in_a_row(self) -> list[TrialSeen]:
        """The newest trials, where so many failed that it was not for their values; else none."""
        ended = [t for t in sorted(self.trials.values(), key=lambda t: -t.number) if t.status != "running"]
        newest = ended[:FAILED_IN_A_ROW]
        return newest if len(newest) == FAILED_IN_A_ROW and all(t.status == "failed" for t in newest) else []

    def _start(self, action: Action) -> None:
        if action.kind == "continue":
            trial = dataclasses.replace(self.trials[action.number], status="running", reason=action.reason)
        else:
            trial = TrialSeen(
                number=action.number, values=self._values(action.number), status="running",
                folder=trial_folder(action.number), reason=action.reason,
            )  # fmt: skip
        self._note(trial)
        self._fly(trial, action.until)

    def _values(self, number: int) -> Mapping[str, str]:
        """The settings of a new trial: temper's own first, then what the sampler proposes."""
        settings = self.space.first
        if number > 0:
            values = suggest(self.space.knobs, self.told(), number=number, seed=self.space.recipe.seed)
            settings = self.space.settings(values)
        return dict(setting.split("=", 1) for setting in settings)

    def told(self) -> list[Told]:
        """What is known of the values tried so far."""
        trials = [t for t in self.trials.values() if t.status not in ("running", "failed") and t.done > 0]
        found = []
        for trial in trials:
            shown = {k.path: k.read(_value(trial, k.path)) for k in self.space.knobs}
            values = {path: value for path, value in shown.items() if value is not None}
            if len(values) == len(self.space.knobs):  # the first trial may lie outside of the ranges
                bound = trial.ucb95 if trial.status == "finished" else trial.lcb95
                domain = rungs.expected(trial, trials, self._tolerance)
                found.append(
                    Told(
                        values=values, domain=domain, drop=max(trial.drop, NEAR * self._tolerance),
                        cost=trial.whole_tokens, excess=bound - self._tolerance,
                    )
                )  # fmt: skip
        return found

    def _fly(self, trial: TrialSeen, until: float) -> None:
        folder = self.root / trial.folder
        settings = [f"{path}={value}" for path, value in trial.values.items()]
        looks = [f"stages.{i}.checkpoints={rungs.LOOKS}" for i in self._without_looks()]
        job = Job(
            command=self.command(folder, [*looks, *settings]), log=str(RunFolder(root=folder).log), until=until,
            tolerance=self._tolerance,
        )  # fmt: skip
        self._flying[self.launcher.submit(job)] = trial.number

    def _without_looks(self) -> list[int]:
        """Stages whose recipe does not say how many checkpoints there are."""
        return [i for i, stage in enumerate(self.space.recipe.stages) if stage.checkpoints is None]

    def _land(self, done: Sequence[Future[Ended]]) -> None:
        for future in done:
            trial = self.trials[self._flying.pop(future)]
            ended = future.result()
            status = STATUS_OF[ended.status]
            reason = ended.reason or (trial.reason if status == "running" else "")
            seen = see(
                self.root, trial.number, trial.values, status=status, seconds=trial.seconds + ended.seconds,
                reason=reason,
            )  # fmt: skip
            if seen.number == 0 and ended.code in WRONG_INPUT and len(self.trials) == 1 and not seen.done:
                self._clear()
                raise RecipeError(f"the recipe itself, before anything is searched: {ended.reason}; correct it first")
            if seen.status in ("stopped", "failed"):
                forget_weights(self.root / seen.folder)
            self._note(seen)

    def _clear(self) -> None:
        """Takes back a study of which no trial could start, so that the corrected recipe may use the folder."""
        shutil.rmtree(self.root / "trials", ignore_errors=True)
        (self.root / "events.jsonl").unlink(missing_ok=True)

    def _finish(self, reason: str) -> SearchFinished:
        trials = list(self.trials.values())
        best = rungs.winner(trials)
        finished = SearchFinished(
            winner=best.number if best else -1, reason=reason, trials=len(trials), tokens=sum(t.tokens for t in trials),
            saved=rungs.saved_tokens(trials), importance=importance(self.space.knobs, self.told()),
        )  # fmt: skip
        logged = self._log(finished)
        assert isinstance(logged, SearchFinished)
        return logged

    def _next_rung(self, trial: TrialSeen) -> float:
        return next((part for part in FRACTIONS if part > trial.done + 1e-9), 1.0)

    @property
    def _tolerance(self) -> float:
        return self.space.recipe.tolerance

    def _note(self, trial: TrialSeen) -> None:
        self.trials[trial.number] = trial
        self._log(trial)

    def _log(self, event: Event) -> Event:
        stamped = dataclasses.replace(event, at=time.time())
        events.append(self.root / "events.jsonl", stamped)
        self.listen(stamped)
        return stamped


def study_key(space: Space) -> str:
    """What makes two studies the same: recipe with settings, ranges and code; not the budget, which may be raised."""
    parts = [space.text, [[k.path, k.words, k.first] for k in space.knobs], temper.__version__]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def forget_weights(run: Path) -> None:
    """Deletes the weights of a trial that will not go on; its log stays."""
    for folder in [*run.glob("stages/*/checkpoints"), *run.glob("stages/*/resume")]:
        shutil.rmtree(folder, ignore_errors=True)


def _value(trial: TrialSeen, path: str) -> str:
    """What a trial was run with; of `auto` what it came to."""
    written = trial.values[path]
    return trial.settled.get(path, written) if written == "auto" else written
