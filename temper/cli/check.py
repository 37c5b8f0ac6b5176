"""`temper check`: everything that is settled before a step is taken, shown; nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from temper.cli import gate
from temper.cli.advice import print_advice
from temper.cli.backend import LazyBackend
from temper.cli.console import console, print_json, say, table, waiting
from temper.errors import TemperError

if TYPE_CHECKING:
    from temper.data.datum import Datum
    from temper.decide.advise import Advice
    from temper.events import GateReport
    from temper.rollout.gate import Examined
    from temper.run.estimate import Estimate
    from temper.run.prepare import Prepared

OPEN, CLOSE = "[[", "]]"
"""Around the text that is learnt, where there are no colours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Neighbouring tokens of a row that are all learnt, or all only read."""

    text: str
    learnt: bool


def check(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.")],
    show: Annotated[
        int, typer.Option("--show", metavar="N", min=0, help="Print the first N rows as the model will see them.")
    ] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="E.g. stages.0.lr=2e-4; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Resolves every open value, checks the data and estimates time, memory and disk; trains nothing."""
    from temper.recipe.load import load
    from temper.run import stock
    from temper.run.estimate import estimate
    from temper.run.prepare import prepare

    backend = LazyBackend()
    with _documented(as_json), waiting() as progress:
        prepared = prepare(load(recipe, tuple(settings or ())), backend, progress)
        expected = estimate(prepared, backend, progress=progress)
        measured = stock.measure_base(prepared, backend, seconds=expected.exam_seconds, progress=progress)
        examined = gate.ask(prepared, backend, progress)
    report = examined and examined.report
    advice = stock.advice(prepared, measured, gate=report)
    if as_json:
        print_json(document(prepared, expected, advice, report, show=show))
        _refuse(examined)
        return
    _print_settings(prepared)
    _print_data(prepared)
    _print_remarks(prepared)
    print_advice(advice)
    if not measured:
        minutes = expected.exam_seconds / 60
        say(f"the base was not asked the exam, which would take about {minutes:.0f} min; `temper run` asks it")
    _print_estimate(prepared, expected)
    if show:
        _print_rows(prepared, show)
    if examined:
        gate.tell(examined.report)
        gate.leave_filtered(examined, recipe)
        _refuse(examined)
    say(f"ready: temper run {recipe}", style="bold green")


@contextmanager
def _documented(as_json: bool) -> Iterator[None]:
    """What is refused inside is one JSON document as well, for whoever reads nothing else."""
    try:
        yield
    except TemperError as error:
        if as_json:
            from temper.data.lint import findings_in

            found = [asdict(finding) for finding in findings_in(error)]
            print_json({"verdict": "refused", "error": str(error), "findings": found})
        raise


def _refuse(examined: Examined | None) -> None:
    """Ends with exit code 3 where the gate says that the stage would fail."""
    from temper.rollout.gate import admit

    if examined:
        admit(examined)


def document(
    prepared: Prepared, expected: Estimate, advice: Advice, report: GateReport | None = None, *, show: int = 0
) -> Any:
    """The JSON document of `temper check --json`."""
    found = {
        "base": dict(prepared.base.lineage),
        "verdict": "ready" if report is None or report.verdict in ("GO", "FILTER") else "refused",
        "gate": report and asdict(report),
        "settings": [asdict(s) for s in prepared.resolved.settings],
        "data": [row for index in range(len(prepared.inventories)) for row in _sources(prepared, index)],
        "files": [
            {"file": str(f.path), "shape": f.shape, "rows": f.rows, "dropped": f.dropped, "listed": str(f.listed or "")}
            for i in prepared.inventories
            for f in i.files
        ],
        "exams": [
            {
                "probe": p.spec.name,
                "metric": p.spec.kind,
                "items": len(p.items),
                "max_new_tokens": p.spec.max_new_tokens,
            }
            for p in prepared.domain
        ],
        "findings": [asdict(f) for f in prepared.findings()],
        "notices": list(prepared.notices()),
        "advice": asdict(advice),
        "estimate": asdict(expected),
    }
    if show:
        found["rows"] = [
            {"stage": stage.id, "row": d.row, "source": d.source, "tokens": len(d.tokens), "supervised": d.supervised,
             "text": marked(pieces(prepared, d))}
            for index, stage in enumerate(prepared.resolved.stages) for d in _first_rows(prepared, index, show)
        ]  # fmt: skip
    return found


def pieces(prepared: Prepared, datum: Datum) -> list[Piece]:
    """A row as the model sees it, special tokens included, cut where learning begins and ends."""
    streams = list(zip(*datum.weights.values(), strict=True))
    learnt = [False, *(any(weights) for weights in streams)]
    found: list[Piece] = []
    start = 0
    for end in range(1, len(learnt) + 1):
        if end == len(learnt) or learnt[end] != learnt[start]:
            text = prepared.renderer.tokenizer.decode(list(datum.tokens[start:end]), skip_special_tokens=False)
            found.append(Piece(text=text, learnt=learnt[start]))
            start = end
    return found


def marked(row: Sequence[Piece]) -> str:
    """Plain text with marks around what is learnt."""
    return "".join(f"{OPEN}{p.text}{CLOSE}" if p.learnt else p.text for p in row)


def _first_rows(prepared: Prepared, stage: int, count: int) -> Iterator[Datum]:
    return islice(prepared.plan(stage).rows(), count)


def _sources(prepared: Prepared, index: int) -> Iterator[dict[str, Any]]:
    from temper.data.datum import count_supervised, count_tokens
    from temper.techniques.inventory import shares

    stage, inventory = prepared.resolved.stages[index], prepared.inventories[index]
    part = shares(inventory, stage.replay_share, stage.replay_from)
    for rows in (*inventory.domain, *inventory.general):
        yield {
            "stage": stage.id, "source": rows.name, "role": rows.role, "category": rows.category, "origin": rows.origin,
            "licence": rows.licence, "rows": len(rows.datums), "tokens": count_tokens(rows.datums),
            "supervised": count_supervised(rows.datums), "share": part.get(rows.name, 0.0),
            "fingerprint": rows.fingerprint,
        }  # fmt: skip


def _print_settings(prepared: Prepared) -> None:
    line = prepared.base.lineage
    revision = f" {line['revision']}" if line.get("revision") else ""
    say(f"model {prepared.base.name}: {line.get('origin', '')}{revision}, sha256 {prepared.base.sha256[:16]}, "
        f"{prepared.facts[0].params / 1e6:.0f} M parameters")  # fmt: skip
    say()
    rows = [[s.path, s.value, s.rule or f"({s.origin})", s.evidence] for s in prepared.resolved.settings]
    console().print(table("Settings", ("setting", "value", "rule", "evidence"), rows))
    say()


def _print_data(prepared: Prepared) -> None:
    for index, stage in enumerate(prepared.resolved.stages):
        rows = [
            [f["source"], f["category"], f["licence"], f["origin"], f"{f['rows']:,}", f"{f['tokens']:,}",
             f"{f['supervised']:,}", f"{100 * f['share']:.1f}%"]
            for f in _sources(prepared, index)
        ]  # fmt: skip
        figures = ("rows", "tokens", "supervised", "share")
        names = ("source", "category", "licence", "origin", *figures)
        console().print(table(f"Data of {stage.id}", names, rows, right=figures))
        say()
    for read in (f for i in prepared.inventories for f in i.files):
        say(f"{read.path.name}: {read.rows:,} rows, recognised as {read.shape}")
        if read.dropped and read.listed:
            say(f"  the rows left out are listed in {read.listed}")
    for probe in prepared.domain:
        longest = f", answers up to {probe.spec.max_new_tokens} tokens" if probe.spec.max_new_tokens else ""
        say(f"exam {probe.spec.name}: {len(probe.items)} items, marked by {probe.spec.kind}{longest}")
    say()


def _print_remarks(prepared: Prepared) -> None:
    from temper.data.lint import as_text

    for finding in prepared.findings():
        say(as_text(finding), style="yellow")
    for notice in prepared.notices():
        say(f"note {notice}", style="yellow")


def _print_estimate(prepared: Prepared, expected: Estimate) -> None:
    from temper.report.words import duration

    facts = prepared.facts[0]
    say()
    say("Estimate", style="bold")
    say(f"  tokens   {expected.tokens:,} to train on, {expected.tokens_per_second:,.0f} per second measured here "
        f"({facts.device}, {facts.cores} cores)")  # fmt: skip
    say(f"  time     {duration(expected.training_seconds)} of training and at most about "
        f"{duration(expected.probing_seconds)} of probes (less when the base was measured before)")  # fmt: skip
    say(f"  memory   {_size(expected.memory_bytes)} by formula: weights, gradients, AdamW, activations; "
        f"the trial pass took {_size(expected.peak_rss_bytes)}")  # fmt: skip
    say(f"  disk     {_size(expected.disk_bytes)} at most")
    say()


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _print_rows(prepared: Prepared, count: int) -> None:
    out = console()
    for index, stage in enumerate(prepared.resolved.stages):
        for datum in _first_rows(prepared, index, count):
            say(
                f"{stage.id} {datum.source} {datum.row}: {len(datum.tokens)} tokens, {datum.supervised} learnt",
                style="bold",
            )
            row = pieces(prepared, datum)
            if out.is_terminal and not out.no_color:
                out.print(Text.assemble(*((p.text, "black on green" if p.learnt else "dim") for p in row)))
            else:
                say(marked(row))
            say()
