from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

from temper.data import selfplay
from temper.data.selfplay import OwnReplay
from temper.techniques.foretell import foretell
from tests.unit.data.test_selfplay import Writer, author, keep


@pytest.fixture(name="slowly")
def _slowly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which whatever is timed takes two seconds."""
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path))
    seconds = itertools.count(0.0, 2.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))


@pytest.mark.usefixtures("slowly")
def test_size_and_time_are_told_before_anything_is_written() -> None:
    told: list[str] = []
    play = OwnReplay(kinds=("chat",), count=100, max_new_tokens=50)
    writer = Writer()
    foretell(play, author(writer), (), lambda what, *_: told.append(what))
    # Sixteen replies of a sentence each took two seconds.
    rate = sum(len(writer.say(place, play.seed)) for place in range(16)) / 2
    # 100 questions and answers of 50 tokens each; each stands twice in the file: 10,000 x 2 x 5 bytes + 100 x 400.
    assert told == [
        "measuring how fast the base writes",
        f"the base writes its own replay: at most 100 samples, 10,000 tokens, 0.1 MB and {10_000 / rate:.0f} s",
    ]
    assert len(writer.prompts) == 17  # one to open the model, sixteen to time


@pytest.mark.usefixtures("slowly")
def test_what_is_there_is_not_told_and_the_model_stays_closed() -> None:
    play = OwnReplay(kinds=("free",), count=8)
    selfplay.generate(author(Writer()), play, untouched=keep)
    writer = Writer()
    assert foretell(play, author(writer), (), None) == ""
    assert writer.prompts == []


@pytest.mark.usefixtures("slowly")
def test_only_what_is_missing_is_counted() -> None:
    selfplay.generate(author(Writer()), OwnReplay(kinds=("free",), count=8), untouched=keep)
    told = foretell(OwnReplay(kinds=("free", "chat"), count=16), author(Writer()), (), None)
    assert "at most 8 samples, 1,152 tokens" in told  # 8 x 72 x 2
