"""Foretell: how long the base will write its own replay, said before it begins. Imports data.

The speed is measured, the rest is the most that the request can take.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from temper.data import selfplay
from temper.data.replay import Prompt
from temper.data.rows import Message
from temper.data.selfplay import Author, Draw, OwnReplay

TRIAL_ROWS, TRIAL_NEW = 16, 16
"""Replies of the trial, and tokens of each."""
Progress = Callable[[str, int, int], None]


def foretell(play: OwnReplay, author: Author, asked: Sequence[Prompt], progress: Progress | None) -> str:
    """What the base is about to write, in words; empty where all of it is there.

    Args:
        play: What is wanted.
        author: The base model.
        asked: Prompts for the kind `answers`.
        progress: Told that the speed is measured, and then what was found.

    Example: `the base writes its own replay: at most 400 samples, 28,800 tokens, 0.5 MB and 4 min`.
    """
    done: list[selfplay.Kind] = [
        kind for kind in play.kinds if selfplay.path_for(kind, play, base=author.base, asked=asked).is_file()
    ]
    if len(done) == len(play.kinds):
        return ""
    tell = progress or _nobody
    tell("measuring how fast the base writes", 0, 1)
    found = selfplay.predict(play, _rate(play, author), done=done)
    minutes = found.seconds / 60
    span = f"{minutes:.0f} min" if minutes >= 2 else f"{found.seconds:.0f} s"
    told = (
        f"the base writes its own replay: at most {found.samples:,} samples, {found.tokens:,} tokens, "
        f"{found.bytes / 1e6:.1f} MB and {span}"
    )
    tell(told, 0, 1)
    return told


def _rate(play: OwnReplay, author: Author) -> float:
    """New tokens a second, many at once."""
    start = author.renderer.prompt((Message(role="user", content="Tell me something."),))
    draw = Draw(max_new_tokens=TRIAL_NEW, temperature=play.temperature, seed=play.seed, stop=())
    author.sample([start], draw)  # opens the model
    started = time.monotonic()
    replies = author.sample([start] * TRIAL_ROWS, draw)
    written = sum(max(1, len(reply.tokens)) for reply in replies)
    return written / max(time.monotonic() - started, 1e-9)


def _nobody(_what: str, _done: int, _of: int) -> None:
    """Nobody waits."""
