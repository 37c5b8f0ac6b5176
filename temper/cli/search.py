"""`temper search`: the best values of a recipe on both axes, for a budget."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from temper.cli.console import console, say, table
from temper.cli.run import NOTHING_BETTER, default_out

if TYPE_CHECKING:
    from temper.events import Event
    from temper.events.search import SearchFinished, TrialSeen
    from temper.launch.local import Launcher
    from temper.search.space import Space
    from temper.search.study import Command

DEFAULT_BUDGET = "5x"


def search(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe; ranges such as lr: [1e-5..1e-3].")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder; runs/NAME-search when left out.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="E.g. stages.0.lr=1e-5..1e-3; repeatable.")
    ] = None,
    budget: Annotated[
        str, typer.Option("--budget", metavar="LIMIT", help="5x (as much as five runs), 20 trials, 2h, 500k tokens.")
    ] = DEFAULT_BUDGET,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Trials at once: 1 here, on Ray one per node.")
    ] = None,
    ray: Annotated[
        str | None, typer.Option("--ray", metavar="ADDRESS", help="Trials on a Ray cluster: auto, local or HOST:PORT.")
    ] = None,
) -> None:
    """Searches learning rate, share and whatever the recipe gives as a range, under the tolerance."""
    from temper.run.folder import RunFolder
    from temper.search.budget import SearchBudget
    from temper.search.space import read_space
    from temper.search.study import Study

    limit = SearchBudget.parse(budget)
    space = read_space(recipe, tuple(settings or ()))
    _needs_optuna()
    run = default_out(recipe)
    folder = (out or run.with_name(f"{run.name}-search")).resolve()
    said = [*(settings or ()), *([] if ray else _shared_cores(space, workers or 1))]
    study = Study(
        root=folder, space=space, budget=limit, launcher=_launcher(workers, ray),
        command=_command(recipe.resolve(), said), listen=_Teller(),
    )  # fmt: skip
    for knob in space.knobs:
        say(f"searching {knob.path}: {knob.words}" + ("  (the recipe names no range)" if space.by_default else ""))
    finished = study.run()
    write_page(folder, RunFolder(root=folder).events())
    knobs = tuple(k.path for k in space.knobs)
    _tell(folder, finished, list(study.trials.values()), knobs)
    tell_winner(
        folder, finished, list(study.trials.values()), ["temper", "run", str(recipe), *kept_settings(settings, knobs)]
    )
    if finished.winner < 0:
        raise typer.Exit(NOTHING_BETTER)


def write_page(folder: Path, events: Sequence[Event]) -> Path:
    """Draws the report of a study from its log."""
    from temper.report.search import render_search

    path = folder / "report.html"
    path.write_text(render_search(events, name=folder.name), encoding="utf-8")
    return path


def _needs_optuna() -> None:
    """Refused now rather than after the first trials."""
    import importlib.util

    from temper.errors import MissingExtra

    if importlib.util.find_spec("optuna") is None:
        raise MissingExtra("optuna", "search")


def _launcher(workers: int | None, ray: str | None) -> Launcher:
    if ray is not None:
        from temper.launch.ray import RayLauncher

        return RayLauncher(ray, workers or 0)
    from temper.launch.local import LocalLauncher

    return LocalLauncher(workers or 1)


def _shared_cores(space: Space, workers: int) -> list[str]:
    """Trials at once share the cores of this machine, unless the recipe says how many threads a run gets."""
    if workers == 1 or space.recipe.machine.threads is not None:
        return []
    return [f"machine.threads={max(1, (os.cpu_count() or 1) // workers)}"]


def _command(recipe: Path, settings: Sequence[str]) -> Command:
    """The command of a trial: an ordinary run of the recipe with its values set."""

    def command(folder: Path, values: Sequence[str]) -> tuple[str, ...]:
        said = [part for setting in (*settings, *values) for part in ("--set", setting)]
        return (sys.executable, "-m", "temper", "run", str(recipe), "--out", str(folder), *said)

    return command


class _Teller:
    """A line on stderr for everything that happens to a trial."""

    def __init__(self) -> None:
        self._to = console(sys.stderr)

    def __call__(self, event: Event) -> None:
        from rich.text import Text

        from temper.events.search import TrialSeen

        if isinstance(event, TrialSeen):
            self._to.print(Text(_line(event)), soft_wrap=True)


def _line(trial: TrialSeen) -> str:
    from temper.report.search import shown_values

    values = ", ".join(f"{path}={value}" for path, value in shown_values(trial).items())
    head = f"trial {trial.number} ({values}): {trial.status}"
    if trial.status == "running":
        return f"{head} from {trial.done:.0%}" if trial.done else head
    if trial.status == "failed":
        return f"{head}: {trial.reason}"
    return f"{head} at {trial.done:.0%}: domain {trial.domain:.1%}, drop {trial.drop:.2%}, at most {trial.ucb95:.2%}"


def _tell(folder: Path, finished: SearchFinished, trials: Sequence[TrialSeen], knobs: Sequence[str]) -> None:
    """The trials, the winner and where to go from there."""
    from temper.report.search import shown_values, verdict

    rows = [
        [str(t.number), *(shown_values(t).get(k, "") for k in knobs), t.status, f"{t.done:.0%}", f"{t.domain:.1%}",
         f"{t.drop:.2%}", f"{t.ucb95:.2%}"]
        for t in sorted(trials, key=lambda t: (t.number != finished.winner, t.status != "finished", -t.domain))
    ]  # fmt: skip
    columns = ["trial", *knobs, "status", "steps", "domain", "drop", "at most"]
    console().print(table("Trials", columns, rows, right=("steps", "domain", "drop", "at most")))
    say()
    say(verdict(trials, finished))
    say(f"report:     {folder / 'report.html'}")


def kept_settings(settings: Sequence[str] | None, knobs: Sequence[str]) -> list[str]:
    """The settings of the command line that are no ranges, as they are typed."""
    plain = [setting for setting in settings or () if setting.partition("=")[0] not in knobs]
    return [part for setting in plain for part in ("--set", setting)]


def tell_winner(folder: Path, finished: SearchFinished, trials: Sequence[TrialSeen], command: Sequence[str]) -> None:
    """Where the winner lies, and the commands that use it, ready for a shell."""
    from temper.report.search import shown_values

    best = next((t for t in trials if t.number == finished.winner), None)
    if best is None:
        return
    run = folder / best.folder
    say(f"winner:     {run}, its own report inside")
    say(f"next:       {shlex.join(['temper', 'chat', str(run), '--compare'])}")
    values = [part for path, value in shown_values(best).items() for part in ("--set", f"{path}={value}")]
    say(f"to repeat:  {shlex.join([*command, *values])}")
