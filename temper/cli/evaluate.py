"""`temper eval`: a model and its base on the same probes, with intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from temper.cli.backend import LazyBackend
from temper.cli.console import console, print_json, say, table, waiting

if TYPE_CHECKING:
    from temper.decide.drop import AxisDrop, ProbeDrop
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
    if subject.is_base and subject.run is not None and other is None:
        say(f"{model} kept its base, so there is nothing to compare; these are the base's values", style="yellow")
    _print(found)


def document(found: Evaluation) -> Any:
    """The JSON document of `temper eval --json`."""
    drop = found.drop
    whole = {name: getattr(drop, name) for name in ("drop", "lcb95", "ucb95", "resolution")} if drop else None
    axes = (
        {name: {k: getattr(a, k) for k in ("drop", "lcb95", "ucb95", "resolution")} for name, a in drop.axes.items()}
        if drop
        else {}
    )
    return {
        "model": found.model.name,
        "against": found.against.name if found.against else None,
        "general": {**whole, "items_to_see_1_percent": found.required, "axes": axes} if whole else None,
        "collapse": [asdict(sign) for sign in found.collapse],
        "probes": [_probe(found, m) for m in found.now],
    }


def _probe(found: Evaluation, now: Measurement) -> dict[str, Any]:
    from temper import stats

    before = _before(found, now)
    compared = found.drop.probes.get(now.probe) if found.drop else None
    bounds = {k: getattr(compared, k) if compared else None for k in ("drop", "lcb95", "ucb95")}
    paired = before is not None and bool(now.hard) and len(before.hard) == len(now.hard)
    moved = stats.transitions(before.hard, now.hard, chance=now.chance) if before and paired else None
    return {
        "probe": now.probe, "axis": now.axis, "role": now.role, "metric": now.metric, "items": len(now.ids),
        "base": before.value if before else None, "value": now.value, "chance": now.chance, **bounds,
        "hard_base": _mean(before.hard) if before else None, "hard": _mean(now.hard),
        "lost": moved.lost if moved else 0, "won": moved.won if moved else 0,
        "churn": moved.churn if moved else 0.0, "forgotten": moved.forgotten if moved else 0.0,
        "learnt": moved.learnt if moved else 0.0,
        "p_value": stats.mcnemar(moved.lost, moved.won) if moved else None,
        "ci95": _interval(now), "parts": dict(now.parts),
        "counted": compared.counted if compared else False, "why": compared.why if compared else "",
    }  # fmt: skip


def _before(found: Evaluation, now: Measurement) -> Measurement | None:
    return next((m for m in found.before if m.probe == now.probe), None)


def _mean(values: tuple[float, ...]) -> float | None:
    return sum(values) / len(values) if values else None


def _interval(m: Measurement) -> list[float] | None:
    """Wilson's interval of a share of right answers."""
    from temper.stats import wilson

    if not m.items or not all(v in (0.0, 1.0) for v in m.items) or m.method == "loss":
        return None
    return list(asdict(wilson(sum(m.items), len(m.items))).values())


def _print(found: Evaluation) -> None:
    title = found.model.name + (f" against {found.against.name}" if found.against else "")
    compared = found.against is not None
    names = ["probe", "items", *(["before", "now", "drop"] if compared else ["value"]), "right"]
    names += ["lost / won"] if compared else []
    columns = ("items", "before", "now", "value", "drop", "right", "lost / won")
    console().print(table(title, names, list(_rows(found)), right=columns))
    for line in _remarks(found):
        say(line)
    for line in _overall(found):
        say(line, style="bold")
    for sign in found.collapse:
        say(str(sign), style="bold red")


def _rows(found: Evaluation) -> Iterator[list[str]]:
    """One row per probe under one per axis, in the order in which the axes first appear."""
    for axis in dict.fromkeys(m.axis for m in found.now):
        of_axis = [m for m in found.now if m.axis == axis]
        whole = found.drop.axes.get(axis) if found.drop else None
        blanks = ["", "", _span(whole)] if found.against else [""]
        yield [axis, "", *blanks, "", *([""] if found.against else [])]
        for m in of_axis:
            yield [f"  {m.probe}", str(len(m.ids)), *_figures(found, m), *_hard(found, m)]


def _figures(found: Evaluation, now: Measurement) -> list[str]:
    """The value, or the values of both models and the drop between them."""
    from temper.report.words import score

    if found.against is None:
        return [score(now.value, now.method)]
    before = _before(found, now)
    compared = found.drop.probes.get(now.probe) if found.drop else None
    drop = "not counted" if compared and compared.drop is None else _span(compared)
    return [score(before.value, before.method) if before else "", score(now.value, now.method), drop]


def _remarks(found: Evaluation) -> Iterator[str]:
    """What the columns mean, the interval of each exam's score, and why a probe is not counted."""
    from temper.report.words import interval

    metrics: dict[str, list[str]] = {}
    for m in found.now:
        metrics.setdefault(m.metric, []).append(m.probe)
    yield "; ".join(f"{metric}: {', '.join(probes)}" for metric, probes in metrics.items())
    if found.against:
        yield (
            "drop: share of the level above chance that is gone, with one-sided 95 % bounds; lost / won: items right"
            " only before / only now (in brackets: how many guessing alone changes either way, at most)"
        )
    for m in found.now:
        bounds = _interval(m) if m.role == "domain" else None
        if bounds:
            yield f"{m.probe}: 95 % interval {interval(bounds[0], bounds[1], m.method)}"
        compared = found.drop.probes.get(m.probe) if found.drop else None
        if compared and compared.why:
            yield f"{m.probe}: {compared.why}"


def _hard(found: Evaluation, now: Measurement) -> list[str]:
    """Right answers, and how many were lost and won; what guessing alone would change stands in brackets."""
    from temper.report.words import percent

    told = _probe(found, now)
    if told["hard"] is None:
        return ["", ""] if found.against else [""]
    if told["hard_base"] is None:
        return [percent(told["hard"]), ""] if found.against else [percent(told["hard"])]
    churn = f" ({told['churn']:.0f})" if told["churn"] >= 0.5 else ""
    return [f"{percent(told['hard_base'])} > {percent(told['hard'])}", f"{told['lost']} / {told['won']}{churn}"]


def _span(compared: AxisDrop | ProbeDrop | None) -> str:
    """A drop with its two one-sided 95 % bounds."""
    from temper.report.words import drop_percent

    if compared is None or compared.drop is None or compared.lcb95 is None or compared.ucb95 is None:
        return ""
    low, high = (drop_percent(x).split("\N{NO-BREAK SPACE}")[0] for x in (compared.lcb95, compared.ucb95))
    return f"{drop_percent(compared.drop)} ({low} to {high})"


def _overall(found: Evaluation) -> Iterator[str]:
    from temper.report.words import drop_percent

    drop = found.drop
    if drop is None:
        return
    yield (
        f"general drop {drop_percent(drop.drop)}, at least {drop_percent(drop.lcb95)} and at most "
        f"{drop_percent(drop.ucb95)} (each with 95 % confidence)"
    )
    if not drop.resolution:
        yield "every item got the same value from both models"
        return
    worst = max(drop.axes, key=lambda name: drop.axes[name].resolution)
    seen = f"these items see a drop of {drop_percent(drop.resolution)} or more"
    blurred = f"; of {worst} alone, {drop_percent(drop.axes[worst].resolution)} or more" if len(drop.axes) > 1 else ""
    yield seen + blurred
    if found.required > 1.0:
        yield (
            f"to see 1 % in four of five comparisons with this model it would take {_times(found.required)} the items;"
            " see --probes full"
        )


def _times(factor: float) -> str:
    return f"{factor:.1f} times" if factor < 10 else f"{factor:.0f} times"
