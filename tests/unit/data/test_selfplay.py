"""What a base model writes for its own replay, with a model of a few lines that writes by rule."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from temper.data import replay, selfplay
from temper.data.replay import Prompt
from temper.data.rows import Message, read_rows
from temper.data.selfplay import Author, Draw, OwnReplay
from temper.errors import DataError

BASE = "ab" * 32
START, END, BREAK = 1, 2, 3


@dataclass(frozen=True)
class Tokenizer:
    """Only what stands between documents is asked of it."""

    vocabulary: Mapping[str, int] = field(default_factory=lambda: {"<|endoftext|>": BREAK})
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    def get_vocab(self) -> Mapping[str, int]:
        return self.vocabulary


@dataclass(frozen=True)
class Letters:
    """A renderer whose tokens are code points: a user's turn is `user:...END`, an answer follows `bot:`."""

    tokenizer: Any = field(default_factory=Tokenizer)
    opening: tuple[int, ...] = ()

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return (START, *map(ord, f"user:{messages[-1].content}"), END, *map(ord, "bot:"))

    def text(self, text: str) -> tuple[int, ...]:
        return (*self.opening, *map(ord, text))

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(map(chr, tokens))


@dataclass(frozen=True)
class Said:
    tokens: tuple[int, ...]
    finished: bool = True


class Writer:
    """Writes a different sentence at each place of each batch, and remembers what it was asked."""

    def __init__(self) -> None:
        self.draws: list[Draw] = []
        self.prompts: list[str] = []

    def __call__(self, prompts: Sequence[tuple[int, ...]], draw: Draw) -> list[Said]:
        self.draws.append(draw)
        self.prompts += ["".join(map(chr, p)) for p in prompts]
        return [Said(tuple(map(ord, self.say(place, draw.seed)))) for place in range(len(prompts))]

    def say(self, place: int, seed: int) -> str:
        return f"Sentence {place} of {seed} is quite whole."


def keep(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return list(rows)


def author(sample: selfplay.Sample) -> Author:
    return Author(sample=sample, renderer=Letters(), base=BASE, end=(END,))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path))
    return tmp_path / "replay"


def test_samples_are_divided_among_the_kinds() -> None:
    own = OwnReplay(kinds=("answers", "chat", "free"), count=11)
    assert own.parts() == {"answers": 4, "chat": 4, "free": 3}


def test_the_cost_is_known_before() -> None:
    own = OwnReplay(kinds=("chat", "free"), count=200, max_new_tokens=50)
    # 100 chats of two turns and 100 documents: (100 x 2 + 100) x 50 tokens;
    # chats stand twice in their line: 10,000 x 2 x 5 + 5,000 x 5 + 200 x 400 bytes
    expected = selfplay.Prediction(samples=200, tokens=15_000, bytes=205_000, seconds=150.0)
    assert selfplay.predict(own, 100.0) == expected
    assert selfplay.predict(own, 100.0, done=("chat",)).tokens == 5_000


def test_the_shipped_answers_took_no_more_than_predicted() -> None:
    for path in sorted((Path(replay.__file__).parent / "replay").glob("*.gz")):
        answers = replay.read(path)
        size = sum(len(replay.encode(answer).encode()) for answer in answers)
        assert 0.5 < size / selfplay.predict(OwnReplay(count=len(answers)), 1.0).bytes < 1


def test_free_samples_begin_with_the_separator_and_become_rows_of_text() -> None:
    writer = Writer()
    own = OwnReplay(kinds=("free",), count=34, max_new_tokens=20, temperature=0.8, seed=4)
    path = selfplay.generate(author(writer), own, untouched=keep)["free"]
    assert writer.prompts == [chr(BREAK)] * 34
    assert [(d.max_new_tokens, d.temperature, d.stop) for d in writer.draws] == [(20, 0.8, (END, BREAK))] * 2
    assert writer.draws[0].seed != writer.draws[1].seed
    documents = selfplay.read_documents(path)
    assert [d.text for d in documents[:2]] == [writer.say(0, writer.draws[0].seed), writer.say(1, writer.draws[0].seed)]
    assert len(documents) == 34
    assert {(d.category, d.base, d.temperature, d.seed) for d in documents} == {("web", BASE, 0.8, 4)}
    assert [row.text for row in read_rows(path)] == [d.text for d in documents]


def test_chat_samples_have_the_model_write_the_question_and_then_answer_it() -> None:
    writer = Writer()
    path = selfplay.generate(author(writer), OwnReplay(kinds=("chat",), count=2), untouched=keep)["chat"]
    ask, answer = writer.draws
    question = writer.say(0, ask.seed)
    assert writer.prompts[:2] == [f"{chr(START)}user:"] * 2
    assert writer.prompts[2] == f"{chr(START)}user:{question}{chr(END)}bot:"
    answers = replay.read(path)
    assert [(a.prompt, a.reply, a.category) for a in answers[:1]] == [
        (question, writer.say(0, answer.seed), "instruction")
    ]
    assert [row.messages for row in read_rows(path)] == [a.messages for a in answers]


def test_unfinished_questions_loops_runs_and_repetitions_are_dropped() -> None:
    class Odd(Writer):
        def __call__(self, prompts: Sequence[tuple[int, ...]], draw: Draw) -> list[Said]:
            said = [
                Said(tuple(map(ord, "A question that goes on and")), finished=False),
                Said(tuple(map(ord, "so it goes on " * 6))),
                Said(tuple(map(ord, "a line " + "=" * 40))),
                Said(tuple(map(ord, "What is good?"))),
                Said(tuple(map(ord, "What is good?"))),
            ]
            return (
                said[: len(prompts)]
                if prompts[0][-1] == ord(":") and len(prompts) == 5
                else super().__call__(prompts, draw)
            )

    path = selfplay.generate(author(Odd()), OwnReplay(kinds=("chat",), count=5), untouched=keep)["chat"]
    assert [a.prompt for a in replay.read(path)] == ["What is good?"]


def test_rows_that_a_probe_holds_are_left_out() -> None:
    own = OwnReplay(kinds=("free",), count=3)
    path = selfplay.generate(author(Writer()), own, untouched=lambda rows: list(rows)[1:])["free"]
    assert [d.text.split()[1] for d in selfplay.read_documents(path)] == ["1", "2"]


@pytest.mark.parametrize("kind", ["chat", "free"])
def test_a_killed_call_goes_on_and_ends_with_the_same_file(kind: selfplay.Kind, cache: Path) -> None:
    """Seventy samples are three batches; the second dies, and the last line on the disk is cut off."""
    own = OwnReplay(kinds=(kind,), count=70)
    path = selfplay.generate(author(Writer()), own, untouched=keep)[kind]
    whole = path.read_bytes()
    path.unlink()

    class Mortal(Writer):
        def __call__(self, prompts: Sequence[tuple[int, ...]], draw: Draw) -> list[Said]:
            if len(self.prompts) >= (64 if kind == "chat" else 32):
                raise KeyboardInterrupt
            return super().__call__(prompts, draw)

    with pytest.raises(KeyboardInterrupt):
        selfplay.generate(author(Mortal()), own, untouched=keep)
    part = cache / (path.name + ".part")
    assert len(part.read_text().splitlines()) == 1
    with part.open("a") as file:
        file.write('[["What')
    second = Writer()
    seen: list[tuple[str, int, int]] = []
    selfplay.generate(author(second), own, untouched=keep, progress=lambda *told: seen.append(told))
    assert len(second.draws) == (4 if kind == "chat" else 2)
    assert seen == [(kind, 32, 70), (kind, 64, 70), (kind, 70, 70)]
    assert path.read_bytes() == whole
    third = Writer()
    selfplay.generate(author(third), own, untouched=keep)
    assert third.draws == []
    assert list(cache.iterdir()) == [path]


def test_answers_are_written_for_prompts_spread_over_the_list() -> None:
    asked = [Prompt(category="code" if n > 4 else "knowledge", text=f"Question {n}?") for n in range(10)]
    own = OwnReplay(kinds=("answers",), count=5)
    path = selfplay.generate(author(Writer()), own, asked=asked)["answers"]
    # every second of ten
    assert [(a.prompt, a.category) for a in replay.read(path)] == [
        ("Question 0?", "knowledge"), ("Question 2?", "knowledge"), ("Question 4?", "knowledge"),
        ("Question 6?", "code"), ("Question 8?", "code"),
    ]  # fmt: skip


def test_the_shipped_answers_serve_at_temperature_one_only() -> None:
    shipped = sorted((Path(replay.__file__).parent / "replay").glob("*.gz"))
    for path in shipped:
        base = replay.read(path)[0].base
        assert selfplay.path_for("answers", OwnReplay(), base=base) == path
        assert selfplay.path_for("answers", OwnReplay(temperature=0.7), base=base) != path


def test_the_file_of_a_kind_depends_on_everything_that_decides_about_it(cache: Path) -> None:
    wanted = [
        (OwnReplay(kinds=("free",)), BASE),
        (OwnReplay(kinds=("free",), count=401), BASE),
        (OwnReplay(kinds=("free",), temperature=0.9), BASE),
        (OwnReplay(kinds=("free",), max_new_tokens=73), BASE),
        (OwnReplay(kinds=("free",), seed=1), BASE),
        (OwnReplay(kinds=("free",)), "cd" * 32),
    ]
    paths = {selfplay.path_for("free", own, base=base) for own, base in wanted}
    assert len(paths) == 6
    assert {path.parent for path in paths} == {cache}
    chat = OwnReplay(kinds=("chat", "free"), count=800)  # 400 of each
    assert selfplay.path_for("free", chat, base=BASE) in paths
    assert selfplay.path_for("chat", chat, base=BASE) not in paths


@pytest.mark.parametrize(
    ("renderer", "start"),
    [
        (Letters(opening=(7,)), (7,)),  # the tokenizer begins texts by itself
        (Letters(), (BREAK,)),
        (Letters(tokenizer=Tokenizer(vocabulary={"</s>": 9, "<s>": 8})), (8,)),
        (Letters(tokenizer=Tokenizer(vocabulary={}, bos_token_id=5, eos_token_id=6)), (5,)),
        (Letters(tokenizer=Tokenizer(vocabulary={}, eos_token_id=6)), (6,)),
    ],
)
def test_documents_begin_with_what_the_model_knows(renderer: Letters, start: tuple[int, ...]) -> None:
    assert selfplay.document_start(renderer) == start


def test_a_tokenizer_without_any_separator_is_refused_with_the_remedy() -> None:
    with pytest.raises(DataError, match=r"replay\.own\.kinds: the tokenizer has no token.*leave out free"):
        selfplay.document_start(Letters(tokenizer=Tokenizer(vocabulary={})))


def test_a_line_that_is_no_document_is_named(tmp_path: Path) -> None:
    path = selfplay.generate(author(Writer()), OwnReplay(kinds=("free",), count=2), untouched=keep)["free"]
    with path.open("a") as file:
        file.write(json.dumps({"text": "alone"}) + "\n")
    with pytest.raises(DataError, match=r"jsonl:3: not a document"):
        selfplay.read_documents(path)
