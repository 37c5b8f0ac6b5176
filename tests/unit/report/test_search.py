"""The page of a search says what was tried, what won and what was not spent."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from temper.events import Event
from temper.events.search import SearchFinished, SearchStarted, TrialSeen
from temper.report.search import marks, render_search, search_section, verdict

STARTED = SearchStarted(
    recipe="base: b", key="k", knobs={"stages.0.lr": "1e-05 to 0.001, log"}, tolerance=0.01, budget="5x", version="1",
    seed=0,
)  # fmt: skip


def seen(number: int, **fields: object) -> TrialSeen:
    known: dict[str, object] = {
        "values": {"stages.0.lr": "0.0001"}, "status": "paused", "folder": f"trials/{number:03d}", "done": 0.125,
        "tokens": 100, "whole_tokens": 800.0, "base": 0.1, "domain": 0.4, "looks": {"0.1250": 0.4},
    }  # fmt: skip
    return TrialSeen(number=number, **{**known, **fields})  # pyright: ignore[reportArgumentType]


def log() -> list[Event]:
    return [
        STARTED,
        seen(0, values={"stages.0.lr": "auto"}, settled={"stages.0.lr": "0.0004"}),
        seen(1, status="running"),
        seen(1, status="finished", improved=True, done=1.0, tokens=800, domain=0.7, drop=0.002, ucb95=0.008),
        seen(2, status="failed", done=0.0, looks={}, tokens=0, reason="ended with code 1: <b>no memory</b>"),
        SearchFinished(
            winner=1, reason="the budget of 5x is spent", trials=3, tokens=900, saved=700,
            importance={"stages.0.lr": 1.0},
        ),
    ]  # fmt: skip


def test_the_verdict_names_the_winner_with_its_price_and_the_savings() -> None:
    told = verdict([e for e in log() if isinstance(e, TrialSeen)][:1], None)
    assert told.startswith("The search is not finished. Trials begun: 1, run to their end: 0.")
    page = render_search(log(), name="tickets-search").replace("\N{NO-BREAK SPACE}", " ")
    assert "Trial 1 won: domain 70 % (base 10 %) at a general drop of 0.20 %, at most 0.80 %." in page
    assert "saved 43.8 % of the tokens" in page  # 700 of 1600
    assert "It ended because the budget of 5x is spent." in page


def test_every_trial_has_a_row_with_the_values_it_had() -> None:
    page = str(search_section(log()))
    rows = re.findall(r"<tr><td>(\d+)</td><td>([^<]*)</td><td>([^<]*)</td>", page)
    assert rows == [("1", "0.0001", "finished"), ("0", "0.0004", "paused at a rung"), ("2", "0.0001", "failed")]


def test_words_of_a_failure_are_text_and_no_markup() -> None:
    page = render_search(log(), name="<i>x</i>")
    assert "<b>" not in page and "&lt;b&gt;no memory" in page
    assert "<i>" not in page


def test_the_page_is_whole_and_asks_for_nothing() -> None:
    page = render_search(log(), name="x")
    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href)=\"?http", page)
    opened: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "rect", "circle", "line", "path", "polyline", "polygon", "br"):
                opened.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag not in ("meta", "rect", "circle", "line", "path", "polyline", "polygon", "br"):
                assert opened.pop() == tag

    Checker().feed(page)
    assert opened == []


def test_the_frontier_shows_every_trial_that_was_looked_at_and_the_base() -> None:
    trials = [e for e in log() if isinstance(e, TrialSeen)]
    shown = marks([trials[0], trials[2], trials[3]], None, 0.01)
    assert [m.label for m in shown] == ["base", "trial 0", "trial 1"]
    assert [m.confirmed for m in shown] == [True, False, True]


@pytest.mark.parametrize("events", [[], [STARTED]])
def test_a_log_without_trials_has_a_page_all_the_same(events: list[Event]) -> None:
    assert bool(search_section(events)) == bool(events)
    assert "</html>" in render_search(events, name="x")
