"""Self-generated replay: what the base model itself says to general prompts, written once and reused by every stage.

A replay file is JSONL, one conversation a line, so every reader of training rows can read it as well. It is the
model's own distribution, sampled at temperature 1; it is no quality data and never presented as such. Knows no model:
generating takes a function. Imports the catalogue and rows.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import itertools
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from temper.data import catalog, fetch, readers
from temper.data.rows import Message
from temper.errors import DataError

CATEGORIES = ("instruction", "reasoning", "knowledge", "code", "safety")
SOURCES: tuple[str, ...] = ("chat_replay", "reasoning", "knowledge", "code", "safety")
"""Where the catalogue has prompts of each category; the answers that stand there are not used."""
BATCH = 32
"""Prompts answered between two writes to the disk; part of what decides the random streams."""
LOOP = 4
"""Times the same four words may stand in one answer."""
LEAST_WORDS = 4
"""Shortest piece that is kept of an answer that was cut off."""

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A general question."""

    category: str
    text: str

    @property
    def messages(self) -> tuple[Message, ...]:
        """The question as a conversation."""
        return (Message(role="user", content=self.text),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What answers depend on, besides the prompts."""

    base: str
    """sha256 of the model that answers."""
    max_new_tokens: int
    temperature: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One line of a replay file."""

    prompt: str
    reply: str
    category: str
    base: str
    """sha256 of the model that answered."""
    temperature: float
    seed: int

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation to learn from."""
        return (Message(role="user", content=self.prompt), Message(role="assistant", content=self.reply))


class Reply(Protocol):
    """What a sampler gives back; `temper.model.protocol.Completion` is one."""

    @property
    def tokens(self) -> Tokens:
        """Without the token that ends the reply."""
        ...

    @property
    def finished(self) -> bool:
        """False when it ran into the length limit."""
        ...


class Renderer(Protocol):
    """The part of `temper.data.render.Renderer` that is needed here."""

    def prompt(self, messages: Sequence[Message]) -> Tokens:
        """Tokens that ask for an answer."""
        ...

    def decode(self, tokens: Tokens) -> str:
        """Text without special tokens."""
        ...


Complete = Callable[[Sequence[Tokens], int], Sequence[Reply]]
"""(prompts, seed) -> one reply each, in order."""


def prompts(category: str, n: int, seed: int = 0) -> list[Prompt]:
    """Up to n distinct prompts of a category: our own and the catalogue's in turn, the order decided by the seed.

    Prompts that a probe holds are left out.
    """
    if category not in CATEGORIES:
        raise DataError(f"replay: no category {category!r}; there are {', '.join(CATEGORIES)}; write one of these")
    known = catalog.load(SOURCES[CATEGORIES.index(category)])
    own = [Prompt(category=category, text=text) for text in own_texts(category)]
    kept = catalog.untouched([_item(prompt) for prompt in own])
    columns = [
        sorted(texts, key=lambda text: readers.digest(str(seed), text))
        for texts in ([_asked(item) for item in kept], [_asked(item) for item in known])
    ]
    turns = (text for pair in itertools.zip_longest(*columns) for text in pair if text)
    return [Prompt(category=category, text=text) for text in itertools.islice(dict.fromkeys(turns), n)]


def own_texts(category: str) -> list[str]:
    """Every prompt of our own in one category."""
    table = tomllib.loads(Path(__file__).with_name("prompts.toml").read_text(encoding="utf-8"))
    words = table["words"]
    filled = [form.format(word) for name, form in table[category]["forms"] for word in words[name]]
    return list(dict.fromkeys([*table[category]["plain"], *filled]))


def path_for(origin: Origin, asked: Sequence[Prompt]) -> Path:
    """Where the cache keeps the answers of one model to these prompts, sampled this way."""
    facts = [dataclasses.astuple(origin), BATCH, [(prompt.category, prompt.text) for prompt in asked]]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return fetch.cache_dir() / "replay" / f"{origin.base[:12]}-{key[:12]}.jsonl"


def shipped(base: str) -> Path | None:
    """The replay file that comes with temper for the model of this sha256, if there is one."""
    for path in sorted((Path(__file__).parent / "replay").glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            if json.loads(file.readline())["base"] == base:
                return path
    return None


def read(path: Path) -> list[Answer]:
    """All answers of a replay file, plain or gzipped."""
    try:
        data = path.read_bytes()
        lines = (gzip.decompress(data) if path.suffix == ".gz" else data).decode().split("\n")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected a replay file, made by generating it") from None
    except (gzip.BadGzipFile, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a replay file ({error}); delete it, it will be made again") from None
    answers: list[Answer] = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            answers.append(_decode(line))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}:{number}: not an answer ({error!r}); delete the file, it will be made again"
            ) from None
    return answers


def generate(
    complete: Complete,
    renderer: Renderer,
    asked: Sequence[Prompt],
    *,
    origin: Origin,
    to: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Has every prompt answered and writes the usable answers to `to`; a file that is there is complete and kept.

    Answers go to the disk batch by batch, so an interrupted call goes on where it stopped, with the same result.
    """
    if to.is_file():
        return to
    part = to.with_name(to.name + ".part")
    fetch.free_space(to, 2_000 * len(asked))
    done = _resume(part)
    todo = list({prompt.text: prompt for prompt in asked}.values())
    for start in range(0, len(todo), BATCH):
        batch = todo[start : start + BATCH]
        if any(prompt.text not in done for prompt in batch):
            seed = origin.seed * 1_000_003 + start // BATCH
            replies = complete([renderer.prompt(prompt.messages) for prompt in batch], seed)
            answers = [
                _answer(prompt, clean(renderer.decode(reply.tokens), finished=reply.finished), origin)
                for prompt, reply in zip(batch, replies, strict=True)
            ]
            _append(part, answers)
            done.update({answer.prompt: answer for answer in answers})
        if progress:
            progress(min(start + BATCH, len(todo)), len(todo))
    _finish(to, [done[prompt.text] for prompt in todo if done[prompt.text].reply])
    part.unlink(missing_ok=True)
    return to


def clean(text: str, *, finished: bool) -> str:
    """The usable part of an answer, empty if there is none: no loops, no broken characters, no half sentences."""
    text = text.strip()
    if "\ufffd" in text or "<|" in text or _loops(text):
        return ""
    if not finished:
        text = _cut(text)
    return text if text.count("```") % 2 == 0 else ""


def _cut(text: str) -> str:
    """Back to the last whole sentence or line outside of code; nothing if little is left."""
    if text.count("```") % 2:
        text = text[: text.rindex("```")]
    ends = [found.end() for found in re.finditer(r"(?<![0-9])[.!?][\"')\]]*(?=\s)|```(?=\s|$)", text)]
    whole = text[: ends[-1]].rstrip() if ends else ""
    return whole if len(whole.split()) >= LEAST_WORDS else ""


def _loops(text: str) -> bool:
    words = text.lower().split()
    grams = [tuple(words[at : at + 4]) for at in range(len(words) - 3)]
    return any(grams.count(gram) > LOOP for gram in set(grams))


def _item(prompt: Prompt) -> catalog.PromptItem:
    return {"id": prompt.text, "prompt": prompt.text, "category": prompt.category}


def _asked(item: catalog.Item) -> str:
    if "messages" in item:
        return item["messages"][0]["content"]
    return cast("catalog.PromptItem", item)["prompt"]


def _answer(prompt: Prompt, reply: str, origin: Origin) -> Answer:
    return Answer(
        prompt=prompt.text,
        reply=reply,
        category=prompt.category,
        base=origin.base,
        temperature=origin.temperature,
        seed=origin.seed,
    )


def encode(answer: Answer) -> str:
    """The line of a replay file."""
    fields: dict[str, Any] = dataclasses.asdict(answer)
    fields["messages"] = [dataclasses.asdict(message) for message in answer.messages]
    return json.dumps(fields, ensure_ascii=False) + "\n"


def _decode(line: str) -> Answer:
    fields = json.loads(line)
    return Answer(**{field.name: fields[field.name] for field in dataclasses.fields(Answer)})


def _append(part: Path, answers: Iterable[Answer]) -> None:
    with part.open("a", encoding="utf-8") as file:
        file.writelines(encode(answer) for answer in answers)


def _resume(part: Path) -> dict[str, Answer]:
    """The answers of an interrupted call; a line cut off by a kill is taken out of the file."""
    part.parent.mkdir(parents=True, exist_ok=True)
    if not part.is_file():
        return {}
    data = part.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        part.write_bytes(whole)
    answers = [_decode(line) for line in whole.decode().split("\n") if line]
    return {answer.prompt: answer for answer in answers}


def _finish(to: Path, answers: Sequence[Answer]) -> None:
    data = "".join(map(encode, answers)).encode()
    with fetch.replacing(to) as file:
        file.write(gzip.compress(data, mtime=0) if to.suffix == ".gz" else data)
