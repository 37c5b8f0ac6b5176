"""Self-play: everything a base model writes for its own replay, in three kinds, each a file of the cache.

`answers` are replies to the catalogue's prompts (see `replay`); in `chat` the model writes the user's turn too, from
where the template begins it; `free` are documents that begin with nothing. What is sampled at temperature 1 is the
model's own distribution, which is what replay is to hold (arXiv 2505.13811; the chat kind after arXiv 2506.09428).
Knows no model: sampling is a function. Imports catalogue, replay and rows.

Example:
    own = OwnReplay(kinds=("answers", "chat", "free"), count=900)
    author = Author(sample=sample, renderer=renderer, base=base.sha256, end=renderer.end_tokens)
    paths = generate(author, own, asked=prompts)
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from temper.data import catalog, fetch, readers, replay
from temper.data.replay import Prompt, Reply, Tokens
from temper.data.rows import Message
from temper.errors import DataError

Kind = Literal["answers", "chat", "free"]
Progress = Callable[[Kind, int, int], None]
"""Told the kind, samples done and samples in all."""
CATEGORY: Mapping[Kind, str] = {"chat": "instruction", "free": "web"}
"""Of the rows of a kind in a mix; answers have the category of their prompt."""
SEPARATORS = ("<|endoftext|>", "<|end_of_text|>", "<|begin_of_text|>", "<bos>", "<s>", "</s>", "<eos>")
"""What models were taught to put between documents, where their tokenizer does not add it by itself."""
BYTES_PER_TOKEN = 5
"""Of English text, rounded up; 4.3 in the shipped answers."""
BYTES_PER_LINE = 400
"""Of a line's other fields, a prompt of usual length twice among them; 377 in the shipped answers."""
COPIES: Mapping[Kind, int] = {"answers": 2, "chat": 2, "free": 1}
"""Times a sample stands in its line: a conversation's as a field of its own and as a message."""
RUN = 30
"""Times the same character may stand in a row."""
VERSION = 1
Row = dict[str, Any]
"""As the catalogue has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnReplay:
    """What the recipe asks for under `replay.own`."""

    kinds: tuple[Kind, ...] = ("answers",)
    count: int = 400
    """Samples over all kinds, in equal parts; what filters drop is not replaced."""
    temperature: float = 1.0
    """Above 0; only 1 is the model's own distribution."""
    max_new_tokens: int = 72
    """Of one reply, one user's turn or one document."""
    seed: int = 0

    def parts(self) -> dict[Kind, int]:
        """Samples per kind; the first kinds take what does not divide."""
        each, rest = divmod(self.count, len(self.kinds))
        return {kind: each + (place < rest) for place, kind in enumerate(self.kinds)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """How to sample; field by field what `temper.model.protocol.Sampling` takes."""

    max_new_tokens: int
    temperature: float
    seed: int
    stop: Tokens


class Sample(Protocol):
    """The part that knows the model."""

    def __call__(self, prompts: Sequence[Tokens], draw: Draw) -> Sequence[Reply]:
        """One reply per prompt, in order."""
        ...


class Template(Protocol):
    """The part of `temper.data.render.Renderer` that is needed here."""

    tokenizer: Any

    def prompt(self, messages: Sequence[Message]) -> Tokens:
        """Tokens that ask for an answer."""
        ...

    def text(self, text: str) -> Tokens:
        """Tokens of plain text."""
        ...

    def decode(self, tokens: Tokens) -> str:
        """Text without special tokens."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """The model that writes."""

    sample: Sample
    renderer: Template
    base: str
    """sha256 of its weights."""
    end: Tokens
    """Tokens that end a turn or a document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One line of a file of the kind `free`."""

    text: str
    category: str
    base: str
    """sha256 of the model that wrote it."""
    temperature: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a request costs at most, before anything is sampled."""

    samples: int
    tokens: int
    bytes: int
    seconds: float


def predict(own: OwnReplay, rate: float, *, done: Sequence[Kind] = ()) -> Prediction:
    """The most that a request can take; `rate` is in new tokens a second, kinds in `done` are there already."""
    parts: dict[Kind, int] = {kind: count for kind, count in own.parts().items() if kind not in done}
    tokens: dict[Kind, int] = {
        kind: count * own.max_new_tokens * (2 if kind == "chat" else 1) for kind, count in parts.items()
    }
    size = sum(tokens[kind] * COPIES[kind] * BYTES_PER_TOKEN + parts[kind] * BYTES_PER_LINE for kind in parts)
    total = sum(tokens.values())
    return Prediction(samples=sum(parts.values()), tokens=total, bytes=size, seconds=total / rate)


def path_for(kind: Kind, own: OwnReplay, *, base: str, asked: Sequence[Prompt] = ()) -> Path:
    """Where the file of one kind is: the shipped answers where they fit, else a file of the cache."""
    if kind == "answers":
        there = replay.shipped(base) if own.temperature == 1.0 else None
        return there or replay.path_for(_origin(own, base), _first(asked, own))
    facts = [VERSION, replay.BATCH, kind, base, own.parts()[kind], own.max_new_tokens, own.temperature, own.seed]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return fetch.cache_dir() / "replay" / f"{base[:12]}-{kind}-{key[:12]}.jsonl"


def generate(
    author: Author,
    own: OwnReplay,
    *,
    asked: Sequence[Prompt] = (),
    untouched: Callable[[Sequence[Row]], list[Row]] = catalog.untouched,
    progress: Progress | None = None,
) -> dict[Kind, Path]:
    """Has the model write every kind that is asked for; files that are there are complete and kept.

    Args:
        author: The base model.
        own: What is wanted.
        asked: Prompts for the kind `answers`, more than enough; they are taken evenly from the whole list.
        untouched: Leaves out the rows that a probe holds.
        progress: Called after each batch.
    """
    paths: dict[Kind, Path] = {}
    for kind in own.kinds:
        paths[kind] = to = path_for(kind, own, base=author.base, asked=asked)
        if to.is_file():
            continue
        told = _telling(progress, kind)
        if kind == "answers":
            _answers(author, own, asked, to=to, told=told)
        else:
            found = _collect(kind, author, own, to=to, told=told)
            rows = untouched([_row(sampled) for sampled in found.values()])
            with fetch.replacing(to) as file:
                file.write("".join(_line(found[row["id"]], kind, own, author.base) for row in rows).encode())
            _part(to).unlink(missing_ok=True)
    return paths


def read_documents(path: Path) -> list[Document]:
    """All documents of a file of the kind `free`."""
    documents: list[Document] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        try:
            documents += [Document(**json.loads(line))] if line else []
        except (json.JSONDecodeError, TypeError) as error:
            raise DataError(
                f"{path}:{number}: not a document ({error}); delete the file, it will be made again"
            ) from None
    return documents


def user_start(renderer: replay.Renderer) -> Tokens:
    """The template up to where the user's words begin: what two conversations with different first words share."""
    return _shared(*(renderer.prompt((Message(role="user", content=words),)) for words in ("Why so?", "42 is it.")))


def document_start(renderer: Template) -> Tokens:
    """What stands before a document: what the tokenizer adds, else the separator that models of its kind know."""
    added = _shared(renderer.text("Why so?"), renderer.text("42 is it."))
    if added:
        return added
    known = renderer.tokenizer.get_vocab()
    named = [known[separator] for separator in SEPARATORS if separator in known]
    marks = [*named, renderer.tokenizer.bos_token_id, renderer.tokenizer.eos_token_id]
    first = next((mark for mark in marks if mark is not None), None)
    if first is None:
        raise DataError(
            "replay.own.kinds: the tokenizer has no token to begin a document with; expected one of"
            f" {', '.join(SEPARATORS)} or a bos_token; leave out free"
        )
    return (first,)


def usable(text: str, *, finished: bool) -> str:
    """The usable part of a sample, empty if there is none: `replay.clean`, and no long run of one character."""
    return "" if re.search(rf"(.)\1{{{RUN}}}", text) else replay.clean(text, finished=finished)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sampled:
    """A sample before the filters of the whole file: a question and its reply, or a text."""

    text: str
    question: str = ""


def _collect(
    kind: Kind, author: Author, own: OwnReplay, *, to: Path, told: Callable[[int, int], None]
) -> dict[str, _Sampled]:
    """Samples batch by batch and appends each to a file, so that a batch on the disk is never sampled again."""
    part, count = _part(to), own.parts()[kind]
    fetch.free_space(to, predict(dataclasses.replace(own, kinds=(kind,), count=count), 1.0).bytes)
    start = user_start(author.renderer) if kind == "chat" else document_start(author.renderer)
    batches = _whole_batches(part)
    for number, first in enumerate(range(0, count, replay.BATCH)):
        size = min(replay.BATCH, count - first)
        if number >= len(batches):
            batches.append(_dialogues(author, own, start, number, size) if kind == "chat" else
                           _texts(author, own, start, number, size))  # fmt: skip
            with part.open("a", encoding="utf-8") as file:
                file.write(json.dumps([[s.question, s.text] for s in batches[-1]], ensure_ascii=False) + "\n")
        told(first + size, count)
    return {(s.question or s.text): s for batch in batches for s in batch}


def _texts(author: Author, own: OwnReplay, start: Tokens, number: int, size: int) -> list[_Sampled]:
    stop = tuple(dict.fromkeys((*author.end, *start[-1:])))
    replies = author.sample([start] * size, _draw(own, stop, "free", number))
    return [_Sampled(text=text) for text in map(_said(author), replies) if text]


def _dialogues(author: Author, own: OwnReplay, start: Tokens, number: int, size: int) -> list[_Sampled]:
    """A question from the beginning of the user's turn, and the answer to it."""
    said = _said(author)
    replies = author.sample([start] * size, _draw(own, author.end, "chat", number))
    # A question that ran into the limit would be answered as if it ended there.
    asked = [text for text in (said(reply) for reply in replies if reply.finished) if text]
    prompts = [author.renderer.prompt((Message(role="user", content=text),)) for text in asked]
    answers = author.sample(prompts, _draw(own, author.end, "reply", number)) if prompts else ()
    return [_Sampled(question=q, text=a) for q, a in zip(asked, map(said, answers), strict=True) if a]


def _said(author: Author) -> Callable[[Reply], str]:
    return lambda reply: usable(author.renderer.decode(reply.tokens), finished=reply.finished)


def _answers(
    author: Author, own: OwnReplay, asked: Sequence[Prompt], *, to: Path, told: Callable[[int, int], None]
) -> None:
    def complete(prompts: Sequence[Tokens], seed: int) -> Sequence[Reply]:
        draw = Draw(max_new_tokens=own.max_new_tokens, temperature=own.temperature, seed=seed, stop=author.end)
        return author.sample(prompts, draw)

    origin = _origin(own, author.base)
    replay.generate(complete, author.renderer, _first(asked, own), origin=origin, to=to, progress=told)


def _part(to: Path) -> Path:
    return to.with_name(to.name + ".part")


def _whole_batches(part: Path) -> list[list[_Sampled]]:
    """The batches of an interrupted call; a line cut off by a kill is taken out of the file."""
    part.parent.mkdir(parents=True, exist_ok=True)
    if not part.is_file():
        return []
    data = part.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(part, len(whole))
    batches = [json.loads(line) for line in whole.decode().split("\n") if line]
    return [[_Sampled(question=question, text=text) for question, text in batch] for batch in batches]


def _row(sampled: _Sampled) -> Row:
    if not sampled.question:
        return {"id": sampled.text, "text": sampled.text}
    turns = (("user", sampled.question), ("assistant", sampled.text))
    return {"id": sampled.question, "messages": [{"role": role, "content": said} for role, said in turns]}


def _line(sampled: _Sampled, kind: Kind, own: OwnReplay, base: str) -> str:
    facts = {"category": CATEGORY[kind], "base": base, "temperature": own.temperature, "seed": own.seed}
    if kind == "chat":
        return replay.encode(replay.Answer(prompt=sampled.question, reply=sampled.text, **facts))
    return json.dumps(dataclasses.asdict(Document(text=sampled.text, **facts)), ensure_ascii=False) + "\n"


def _first(asked: Sequence[Prompt], own: OwnReplay) -> list[Prompt]:
    """As many prompts as are wanted, spread evenly over the list, which stands in order of categories."""
    wanted = own.parts().get("answers", 0)
    return [asked[place * len(asked) // wanted] for place in range(wanted)] if wanted < len(asked) else list(asked)


def _origin(own: OwnReplay, base: str) -> replay.Origin:
    return replay.Origin(base=base, max_new_tokens=own.max_new_tokens, temperature=own.temperature, seed=own.seed)


def _draw(own: OwnReplay, stop: Tokens, what: str, number: int) -> Draw:
    seed = int(readers.digest(what, str(own.seed), str(number))[:8], 16)
    return Draw(max_new_tokens=own.max_new_tokens, temperature=own.temperature, seed=seed, stop=stop)


def _shared(first: Tokens, second: Tokens) -> Tokens:
    same = next((n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), 0)
    return tuple(first[:same])


def _telling(progress: Progress | None, kind: Kind) -> Callable[[int, int], None]:
    def told(done: int, of: int) -> None:
        if progress:
            progress(kind, done, of)

    return told
