"""`temper eval`: a model and its base on the same probes, with intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from temper.cli.backend import LazyBackend
from temper.cli.console import console, print_json, say, table, waiting

if TYPE_CHECKING:
    from temper.events import Measurement
    from temper.run.evaluate import Evaluation


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Name, hub id, model folder, adapter folder, or folder of a run.")
    ],
    probes: Annotated[
        list[str] | None,
        typer.Option(
            "--probes", metavar="SUITE", help="Suite, .toml, .jsonl of items, or exam rows; repeatable; core."
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="MODEL", help="What to compare with; the base of a run or an adapter."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Measures a model, paired with its base (or another model) item by item, with 95 % bounds."""
    from temper.run import evaluate as measuring
    from temper.run.subject import as_base, find

    asked = measuring.questions(probes or ["core"])
    backend = LazyBackend()
    with waiting() as progress:
        subject = find(model, backend)
        other = find(against, backend) if against else None if subject.is_base else as_base(subject)
        found = measuring.evaluate(subject, other, asked, backend, progress=progress)
    if as_json:
        print_json(document(found))
        return
    _print(found)


def document(found: Evaluation) -> Any:
    """The JSON document of `temper eval --json`."""
    drop = found.drop
    whole = {name: getattr(drop, name) for name in ("drop", "lcb95", "ucb95", "resolution")} if drop else None
    axes = (
        {name: {k: getattr(a, k) for k in ("drop", "lcb95", "ucb95")} for name, a in drop.axes.items()} if drop else {}
    )
    return {
        "model": found.model.name,
        "against": found.against.name if found.against else None,
        "general": {**whole, "axes": axes} if whole else None,
        "probes": [_probe(found, m) for m in found.now],
    }


def _probe(found: Evaluation, now: Measurement) -> dict[str, Any]:
    before = next((m for m in found.before if m.probe == now.probe), None)
    compared = found.drop.probes.get(now.probe) if found.drop else None
    bounds = {k: getattr(compared, k) if compared else None for k in ("drop", "lcb95", "ucb95")}
    pairs = list(zip(before.hard, now.hard, strict=False)) if before else []
    return {
        "probe": now.probe, "axis": now.axis, "role": now.role, "metric": now.metric, "items": len(now.ids),
        "base": before.value if before else None, "value": now.value, **bounds,
        "hard_base": _mean(before.hard) if before else None, "hard": _mean(now.hard),
        "lost": sum(a > b for a, b in pairs), "won": sum(a < b for a, b in pairs),
        "ci95": _interval(now), "parts": dict(now.parts),
        "counted": compared.counted if compared else False, "why": compared.why if compared else "",
    }  # fmt: skip


def _mean(values: tuple[float, ...]) -> float | None:
    return sum(values) / len(values) if values else None


def _interval(m: Measurement) -> list[float] | None:
    """Wilson's interval of a share of right answers."""
    from temper.stats import wilson

    if not m.items or not all(v in (0.0, 1.0) for v in m.items) or m.method == "loss":
        return None
    return list(asdict(wilson(sum(m.items), len(m.items))).values())


def _print(found: Evaluation) -> None:
    rows = [
        [m.probe, m.axis, m.metric, str(len(m.ids)), *_before_and_now(found, m), _bounded(found, m), *_hard(found, m)]
        for m in found.now
    ]
    names = ("probe", "axis", "metric", "items", "before", "now", "drop, 95 % bounds", "right answers", "lost / won")
    title = found.model.name + (f" against {found.against.name}" if found.against else "")
    console().print(table(title, names, rows, right=("items", "before", "now")))
    for line in _remarks(found):
        say(line)
    for line in _overall(found):
        say(line, style="bold")


def _remarks(found: Evaluation) -> Iterator[str]:
    """The interval of each exam's score, and why a probe is not counted."""
    from temper.report.words import interval

    for m in found.now:
        bounds = _interval(m) if m.role == "domain" else None
        if bounds:
            yield f"{m.probe}: 95 % interval {interval(bounds[0], bounds[1], m.method)}"
        compared = found.drop.probes.get(m.probe) if found.drop else None
        if compared and compared.why:
            yield f"{m.probe}: {compared.why}"


def _before_and_now(found: Evaluation, now: Measurement) -> list[str]:
    from temper.report.words import score

    before = next((m for m in found.before if m.probe == now.probe), None)
    return [score(before.value, before.method) if before else "", score(now.value, now.method)]


def _hard(found: Evaluation, now: Measurement) -> list[str]:
    from temper.report.words import percent

    told = _probe(found, now)
    if told["hard"] is None:
        return ["", ""]
    if told["hard_base"] is None:
        return [percent(told["hard"]), ""]
    return [f"{percent(told['hard_base'])} to {percent(told['hard'])}", f"{told['lost']} / {told['won']}"]


def _bounded(found: Evaluation, now: Measurement) -> str:
    from temper.report.words import drop_percent

    compared = found.drop.probes.get(now.probe) if found.drop else None
    if compared is None or compared.drop is None or compared.lcb95 is None or compared.ucb95 is None:
        return "not counted" if compared else ""
    return f"{drop_percent(compared.drop)} ({drop_percent(compared.lcb95)} to {drop_percent(compared.ucb95)})"


def _overall(found: Evaluation) -> Iterator[str]:
    from temper.report.words import drop_percent

    drop = found.drop
    if drop is None:
        return
    yield (
        f"general drop {drop_percent(drop.drop)}, at least {drop_percent(drop.lcb95)} and at most "
        f"{drop_percent(drop.ucb95)} (each with 95 % confidence)"
    )
    if drop.resolution:
        yield f"these items can tell a drop of {drop_percent(drop.resolution)} from none"
    else:
        yield "every item got the same value from both models"
