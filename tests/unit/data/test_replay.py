"""Self-generated replay, with a sampler of a few lines that answers by rule."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from temper.data import replay
from temper.data.rows import Message, read_rows
from temper.errors import DataError

ORIGIN = replay.Origin(base="ab" * 32, max_new_tokens=20, seed=3)


class Letters:
    """A renderer whose tokens are code points."""

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return tuple(map(ord, messages[-1].content))

    def decode(self, tokens: tuple[int, ...]) -> str:
        return "".join(map(chr, tokens))


@dataclass(frozen=True)
class Said:
    tokens: tuple[int, ...]
    finished: bool = True


def echo(prompts: Sequence[tuple[int, ...]], seed: int) -> list[Said]:
    """Repeats the question and tells the seed and its place in the batch."""
    return [
        Said(tuple(map(ord, f"You asked {Letters().decode(p)} with {seed}/{place}.")))
        for place, p in enumerate(prompts)
    ]


def questions(n: int) -> list[replay.Prompt]:
    return [replay.Prompt(category="knowledge", text=f"Question {number}?") for number in range(n)]


def test_generate_writes_rows_that_every_reader_of_training_data_reads(tmp_path: Path) -> None:
    path = replay.generate(echo, Letters(), questions(2), origin=ORIGIN, to=tmp_path / "replay.jsonl")
    # seed of the first batch: 3 * 1_000_003 + 0
    assert [answer.reply for answer in replay.read(path)] == [
        "You asked Question 0? with 3000009/0.",
        "You asked Question 1? with 3000009/1.",
    ]
    assert [row.messages for row in read_rows(path)] == [answer.messages for answer in replay.read(path)]
    assert list(tmp_path.iterdir()) == [path]


def test_generate_interrupted_anywhere_ends_with_the_same_file(tmp_path: Path) -> None:
    """Seventy prompts are three batches; the second is cut off, once between writes and once inside a line."""
    whole = replay.generate(echo, Letters(), questions(70), origin=ORIGIN, to=tmp_path / "whole.jsonl")
    calls: list[int] = []

    def killed(prompts: Sequence[tuple[int, ...]], seed: int) -> list[Said]:
        calls.append(seed)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return echo(prompts, seed)

    to = tmp_path / "again.jsonl"
    with pytest.raises(KeyboardInterrupt):
        replay.generate(killed, Letters(), questions(70), origin=ORIGIN, to=to)
    assert not to.exists()
    part = tmp_path / "again.jsonl.part"
    assert len(part.read_text().splitlines()) == 32
    with part.open("a", encoding="utf-8") as file:
        file.write('{"prompt": "Question 32?", "rep')
    calls.clear()
    calls.append(0)
    calls.append(0)
    replay.generate(killed, Letters(), questions(70), origin=ORIGIN, to=to)
    assert calls == [0, 0, 3000010, 3000011]  # the first batch was not generated again
    assert to.read_bytes() == whole.read_bytes()
    assert not part.exists()


def test_generate_leaves_a_finished_file_alone(tmp_path: Path) -> None:
    def never(prompts: Sequence[tuple[int, ...]], seed: int) -> list[Said]:
        raise AssertionError("asked again")

    path = replay.generate(echo, Letters(), questions(3), origin=ORIGIN, to=tmp_path / "replay.jsonl.gz")
    before = path.read_bytes()
    assert replay.generate(never, Letters(), questions(3), origin=ORIGIN, to=path).read_bytes() == before
    assert len(gzip.decompress(before).splitlines()) == 3


def test_generate_drops_unusable_answers_and_repeated_prompts_and_tells_how_far_it_is(tmp_path: Path) -> None:
    def mute(prompts: Sequence[tuple[int, ...]], seed: int) -> list[Said]:
        return [Said((ord(" "),)) if place == 1 else said for place, said in enumerate(echo(prompts, seed))]

    seen: list[tuple[int, int]] = []
    path = replay.generate(
        mute,
        Letters(),
        [*questions(40), *questions(5)],
        origin=ORIGIN,
        to=tmp_path / "replay.jsonl",
        progress=lambda done, of: seen.append((done, of)),
    )
    # 45 prompts, 40 distinct, in batches of 32 and 8; the second of each batch is mute
    assert [answer.prompt for answer in replay.read(path)] == [f"Question {n}?" for n in range(40) if n not in (1, 33)]
    assert seen == [(32, 40), (40, 40)]


def test_an_answer_with_a_line_separator_stays_one_line(tmp_path: Path) -> None:
    def odd(prompts: Sequence[tuple[int, ...]], seed: int) -> list[Said]:
        return [Said(tuple(map(ord, "One\u2028two.")))]

    path = replay.generate(odd, Letters(), questions(1), origin=ORIGIN, to=tmp_path / "replay.jsonl")
    assert [answer.reply for answer in replay.read(path)] == ["One\u2028two."]


@pytest.mark.parametrize(
    ("text", "finished", "kept"),
    [
        ("  A whole answer.\n", True, "A whole answer."),
        ("Paris", True, "Paris"),
        ("", True, ""),
        ("broken \ufffd character", True, ""),
        ("leaked <|im_start|>user", True, ""),
        # the four words "and so we go" stand five times, one more than allowed
        ("and so we go " * 5, True, ""),
        ("1 2 3 4 " * 4, True, ("1 2 3 4 " * 4).strip()),
        ("The sea is wide. It is also de", False, "The sea is wide."),
        ("The sea is 3.5 miles wide and", False, ""),  # no sentence ended
        ("Too short. It goes on and on", False, ""),  # two words are not worth keeping
        ("1. First wash the rice well.\n2. Then bo", False, "1. First wash the rice well."),
        ('He said "we are all here." Then he le', False, 'He said "we are all here."'),
        ("Here is how you do it.\n```python\nx = 1\ny =", False, "Here is how you do it."),
        (
            "Here is how you do it.\n```python\nx = 1\n```\nIt sets x to",
            False,
            "Here is how you do it.\n```python\nx = 1\n```",
        ),
        ("An open block: ```python\nx = 1", True, ""),
    ],
)
def test_clean_keeps_whole_answers_only(text: str, finished: bool, kept: str) -> None:
    assert replay.clean(text, finished=finished) == kept


def test_path_depends_on_everything_that_decides_about_the_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path))
    origins = [
        ORIGIN,
        replay.Origin(base="cd" * 32, max_new_tokens=20, seed=3),
        replay.Origin(base="ab" * 32, max_new_tokens=21, seed=3),
        replay.Origin(base="ab" * 32, max_new_tokens=20, seed=4),
        replay.Origin(base="ab" * 32, max_new_tokens=20, seed=3, temperature=0.7),
    ]
    paths = {replay.path_for(origin, questions(2)) for origin in origins} | {replay.path_for(ORIGIN, questions(3))}
    assert len(paths) == 6
    assert {path.parent for path in paths} == {tmp_path / "replay"}
    assert replay.path_for(ORIGIN, questions(2)) in paths


def test_no_replay_is_shipped_for_an_unknown_model() -> None:
    assert replay.shipped("00" * 32) is None


def test_shipped_files_are_found_by_the_model_that_wrote_them() -> None:
    for path in sorted((Path(replay.__file__).parent / "replay").glob("*")):
        answers = replay.read(path)
        assert len({answer.base for answer in answers}) == 1
        assert replay.shipped(answers[0].base) == path
        # none of safety: what a model says to harmful prompts is not rehearsed, the catalogue has refusals
        assert {answer.category for answer in answers} == set(replay.CATEGORIES) - {"safety"}


def test_read_names_the_line_that_is_not_an_answer(tmp_path: Path) -> None:
    path = replay.generate(echo, Letters(), questions(2), origin=ORIGIN, to=tmp_path / "replay.jsonl")
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"prompt": "and no reply"}) + "\n")
    with pytest.raises(DataError, match=r"replay\.jsonl:3: not an answer"):
        replay.read(path)
    with pytest.raises(DataError, match="no such file"):
        replay.read(tmp_path / "missing.jsonl")


def test_an_unknown_category_is_refused() -> None:
    with pytest.raises(DataError, match="no category 'maths'; there are instruction"):
        replay.prompts("maths", 3)


def test_own_prompts_are_distinct_short_and_filled() -> None:
    texts = [text for category in replay.CATEGORIES for text in replay.own_texts(category)]
    assert len(set(texts)) == len(texts) >= 500
    assert all(len(text.split()) < 40 and "{" not in text for text in texts)


@pytest.mark.network
def test_prompts_are_many_distinct_and_the_same_for_the_same_seed() -> None:
    wanted = {category: replay.prompts(category, 200) for category in replay.CATEGORIES}
    texts = [prompt.text for found in wanted.values() for prompt in found]
    assert len(set(texts)) == len(texts) == 1000
    assert replay.prompts("code", 200) == wanted["code"]
    assert replay.prompts("code", 50) == wanted["code"][:50]
    assert replay.prompts("code", 200, seed=1) != wanted["code"]
    assert {prompt.category for prompt in wanted["safety"]} == {"safety"}
