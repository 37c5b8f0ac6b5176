"""The report of a search: every trial on both axes, what each value was worth, what was not spent. Pure: events in.

`search_section` is the part of a page, `render_search` a page of its own with the style of the run's report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources

from markupsafe import Markup, escape

from temper.events import Event
from temper.events.search import SearchFinished, SearchStarted, TrialSeen
from temper.report import svg, words
from temper.report.charts import Mark, frontier
from temper.report.svg import element

PAGE = Markup("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body><main><h1>{title}</h1>{section}</main></body>
</html>
""")
NO_TRAIL = Markup("<style>#search .trail {display: none}</style>")
"""On the frontier of a run a line joins its steps; trials are no steps of one another."""
STATUS: Mapping[str, str] = {
    "finished": "finished", "paused": "paused at a rung", "stopped": "given up", "failed": "failed",
    "running": "at work",
}  # fmt: skip


def render_search(events: Sequence[Event], *, name: str) -> str:
    """A whole page, offline, without a script."""
    style = resources.files("temper.report").joinpath("page.css").read_text(encoding="utf-8")
    return str(PAGE.format(title=f"{name}: search", style=Markup(style), section=search_section(events)))


def search_section(events: Sequence[Event]) -> Markup:
    """The section on a study: verdict, frontier of all trials, importance of every knob, table; empty without one."""
    started = next((e for e in reversed(events) if isinstance(e, SearchStarted)), None)
    if started is None:
        return Markup("")
    trials = list({e.number: e for e in events if isinstance(e, TrialSeen)}.values())
    finished = next((e for e in reversed(events) if isinstance(e, SearchFinished)), None)
    parts = [
        element("p", verdict(trials, finished), class_="lead"),
        element("h3", "Trials"),
        frontier({"trials": marks(trials, finished, started.tolerance)}, tolerance=started.tolerance),
        element("p", "Full marks are finished trials, hollow ones were paused or given up where they are drawn."),
        element("h3", "What each value was worth"),
        _importance(started, finished),
        element("h3", "All trials"),
        _table(started, trials),
    ]
    return element("section", NO_TRAIL, element("h2", "Search"), *parts, id="search")


def verdict(trials: Sequence[TrialSeen], finished: SearchFinished | None) -> str:
    """What came out, in a few sentences."""
    begun = f"Trials begun: {len(trials)}, run to their end: {sum(t.status == 'finished' for t in trials)}."
    if finished is None:
        return f"The search is not finished. {begun}"
    best = next((t for t in trials if t.number == finished.winner), None)
    if best is None:
        head = "No trial beat the base inside the tolerance."
    else:
        score, base = words.percent(best.domain), words.percent(best.base)
        drop, most = words.drop_percent(best.drop), words.drop_percent(best.ucb95)
        head = f"Trial {best.number} won: domain {score} (base {base}) at a general drop of {drop}, at most {most}."
    whole = finished.tokens + finished.saved
    saved = f" Ending trials early saved {words.percent(finished.saved / whole)} of the tokens" if whole else ""
    spent = f"{saved} ({words.count(finished.saved)} of {words.count(whole)})." if whole else ""
    return f"{head} {begun}{spent} It ended because {finished.reason}."


def marks(trials: Sequence[TrialSeen], finished: SearchFinished | None, tolerance: float) -> list[Mark]:
    """Every trial that was looked at, and the base, as marks of the frontier."""
    seen = [t for t in trials if t.done > 0 and t.status != "failed"]
    if not seen:
        return []
    winner = finished.winner if finished else -2
    base = Mark(
        label="base", stage="", step=0, alpha=0.0, drop=0.0, ucb95=0.0, domain=seen[0].base, ci95=None, confirmed=True,
        eligible=True, reason="doing nothing is always a candidate", split="selection", is_base=True,
        is_chosen=winner == -1,
    )  # fmt: skip
    return [base] + [
        Mark(
            label=f"trial {t.number}", stage=f"trial {t.number}", step=t.number, alpha=1.0, drop=t.drop, ucb95=t.ucb95,
            domain=t.domain, ci95=None, confirmed=t.status == "finished", eligible=t.ucb95 <= tolerance,
            reason="; ".join(f"{path} {value}" for path, value in shown_values(t).items()),
            split="selection" if t.status == "finished" else "quick", is_chosen=t.number == winner,
        )
        for t in seen
    ]  # fmt: skip


def shown_values(trial: TrialSeen) -> dict[str, str]:
    """The values of a trial, `auto` with what it came to."""
    return {path: trial.settled.get(path, value) if value == "auto" else value for path, value in trial.values.items()}


def _importance(started: SearchStarted, finished: SearchFinished | None) -> Markup:
    """A bar per knob: how much of what parts the better trials from the rest it explains."""
    shares = dict(finished.importance) if finished else {}
    if not any(shares.values()):
        return element("p", "Too few trials to tell the values apart.")
    height, left, wide = 26.0, 190.0, 480.0
    rows = []
    for row, (path, share) in enumerate(sorted(shares.items(), key=lambda item: -item[1])):
        y = row * height + 4
        rows += [
            svg.text(left - 8, y + 14, path, text_anchor="end", class_="tick-label"),
            element("rect", x=left, y=y, width=max(1.0, share * wide), height=height - 8, fill="var(--c)", class_="c0"),
            svg.text(left + max(1.0, share * wide) + 6, y + 14, words.percent(share), class_="tick-label"),
        ]
    label = "Importance of every searched value"
    picture = element(
        "svg", *rows, viewBox=f"0 0 740 {height * len(shares) + 8:g}", role="img", aria_label=label, class_="chart"
    )
    searched = "; ".join(f"{path}: {values}" for path, values in started.knobs.items())
    return Markup("{}{}").format(
        picture, element("p", f"Searched: {searched}. Shares by PED-ANOVA on the domain score.")
    )


def _table(started: SearchStarted, trials: Sequence[TrialSeen]) -> Markup:
    heads = ["trial", *started.knobs, "status", "of its steps", "domain", "general drop", "at most", "tokens", "note"]
    order = sorted(trials, key=lambda t: (t.status != "finished", not t.improved, -t.domain))
    rows = [_row(started, t) for t in order]
    return element(
        "div",
        element(
            "table", element("thead", element("tr", *(element("th", h) for h in heads))), element("tbody", *rows)
        ),
        class_="scroll",
    )  # fmt: skip


def _row(started: SearchStarted, t: TrialSeen) -> Markup:
    looked = bool(t.looks) or t.status == "finished"
    figures = [words.percent(t.domain), words.drop_percent(t.drop), words.drop_percent(t.ucb95)]
    cells = [
        str(t.number), *(shown_values(t).get(path, "") for path in started.knobs), STATUS[t.status],
        words.percent(t.done), *(figures if looked else [words.DASH] * 3), words.count(t.tokens), t.reason,
    ]  # fmt: skip
    return element("tr", *(element("td", escape(cell)) for cell in cells))
