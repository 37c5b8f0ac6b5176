"""`temper report`: the report drawn again from the event log, other runs on the same frontier."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from temper.cli.console import console, print_json, say, table
from temper.errors import DataError, RecipeError, writing
from temper.events import Event, Rollout, RunStarted, StageStarted, read


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    others: Annotated[
        list[Path] | None, typer.Option("--with", metavar="OTHER", help="Another run on the same frontier; repeatable.")
    ] = None,
    step: Annotated[
        str, typer.Option("--step", metavar="N", help="Print the rows that step N learnt from; 02-sft:N of a chain.")
    ] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as one JSON document; draw nothing.")
    ] = False,
) -> None:
    """Renders the report again from the run's event log and says how the run went."""
    from temper.report import summarise
    from temper.report.chain import line
    from temper.report.runlog import sort_log

    events = read_run(run)
    if step:
        print_step(run, events, step, as_json=as_json)
        return
    if as_json and not any(isinstance(e, RunStarted) for e in events):
        raise DataError(f"{run}: found a search; expected a run for --json; name one of its trials/")
    if as_json:
        print_json(summarise(events))
        return
    path = write_report(run, events, tuple(others or ()))
    if any(isinstance(e, RunStarted) for e in events):
        tell_result(events)
        say(f"chain: {line(sort_log(events))}")
    say(f"report: {path}")


def print_step(run: Path, events: Sequence[Event], step: str, *, as_json: bool) -> None:
    """The rows of one step: where they stand, how long they are, how well they were known."""
    from dataclasses import asdict

    from temper.run import trace
    from temper.run.folder import RunFolder

    stages = [e.stage for e in events if isinstance(e, StageStarted)]
    named, _, number = step.rpartition(":")
    stage = named or (stages[-1] if stages else "")
    if stage not in stages or not number.isdecimal() or int(number) < 1:
        known = ", ".join(stages) or "none has begun"
        raise RecipeError(f"--step {step}: expected a step such as 12, or 01-sft:12; stages of this run: {known}")
    rows = trace.read(RunFolder(root=run).trace(stage), int(number))
    if as_json:
        print_json({"stage": stage, "step": int(number), "rows": [asdict(row) for row in rows]})
        return
    figures = ("tokens", "learnt", "nats per token")
    lines = [[r.row, r.source, str(r.tokens), str(r.supervised), f"{r.loss:.3f}"] for r in rows]
    title = f"Step {number} of {stage}: the rows as they were known before the update"
    console().print(table(title, ("row", "source", *figures), lines, right=figures))


def read_run(run: Path) -> list[Event]:
    """The events of a run folder that still hold."""
    log = run / "events.jsonl"
    if not log.is_file():
        found = "no such folder" if not run.exists() else "no events.jsonl in it"
        raise DataError(f"{run}: found {found}; expected the folder of a run; `temper run RECIPE --out DIR` makes one")
    events = read(log)
    if not events:
        raise DataError(f"{log}: found no event; expected those of a run; continue it with `temper run`")
    return events


def read_rollouts(run: Path) -> list[Rollout]:
    """The graded replies of a run's stages of reinforcement."""
    logs = sorted(run.glob("stages/*/rollouts.jsonl"))
    return [event for log in logs for event in read(log) if isinstance(event, Rollout)]


def write_report(run: Path, events: Sequence[Event], others: Sequence[Path] = ()) -> Path:
    """Draws report.html; whoever has it open sees the old one or the new one, never a part."""
    from temper.events.search import SearchStarted
    from temper.report import render_report
    from temper.report.search import render_search

    further: dict[str, list[Event]] = {}
    for other in others:
        name = other.resolve().name
        further[str(other) if name in further else name] = read_run(other)
    if any(isinstance(e, SearchStarted) for e in events):
        page = render_search(events, name=run.resolve().name)
    else:
        page = render_report(events, others=further, name=run.resolve().name, rollouts=read_rollouts(run))
    path = run / "report.html"
    part = run / f".report.{os.getpid()}.part"
    with writing(path, then=f"run `temper report {run}`"):
        try:
            part.write_text(page, encoding="utf-8")
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
    return path


def tell_result(events: Sequence[Event]) -> None:
    """The verdict in one sentence, and the warning where there is one."""
    from temper.report.runlog import sort_log
    from temper.report.summary import caution, sentence, summary_of

    log = sort_log(events)
    summary = summary_of(log)
    say(sentence(summary, log), style="bold")
    warning = caution(summary)
    if warning:
        say(warning, style="yellow")
