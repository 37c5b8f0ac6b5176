from __future__ import annotations

from pathlib import Path

import pytest

from temper.data.render import Renderer
from temper.run.chat import TextStream
from tests.tiny import tiny_tokenizer


@pytest.fixture(name="renderer", scope="module")
def _renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    folder: Path = tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return Renderer.load(folder)


def test_a_character_of_several_tokens_comes_whole(renderer: Renderer) -> None:
    words = "na\u00efve \u2192 \N{GRINNING FACE}!"
    tokens = renderer.text(words)
    pieces: list[str] = []
    stream = TextStream(renderer, pieces.append)
    for token in tokens:
        stream.add(token)
    assert stream.finish(tokens) == words
    assert "".join(pieces) == words
    assert len(pieces) > 5  # it did stream
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_reply_cut_inside_a_character_shows_the_mark_at_its_end(renderer: Renderer) -> None:
    tokens = renderer.text("ok \N{GRINNING FACE}")[:-1]  # byte-level: the last byte is missing
    pieces: list[str] = []
    stream = TextStream(renderer, pieces.append)
    for token in tokens:
        stream.add(token)
    assert "".join(pieces) == "ok "
    stream.finish(tokens)
    assert "".join(pieces).startswith("ok \ufffd")
