"""Renderer: turns conversations into tokens exactly as the model's own chat template does, with the loss mask.

Wraps the tokenizer of a model folder; knows no weights. A reply never changes the tokens of its prompt, so that what is
learnt follows the very tokens that generation starts from. transformers is imported inside functions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

from temper.data.datum import Datum
from temper.data.rows import Message, Row
from temper.errors import CheckpointError, DataError

Tokens = tuple[int, ...]
TrainOn = Literal["all", "last"]

PLAIN = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ 'Assistant: ' + m['content'] + eos_token + '\n' }}"
    "{% elif m['role'] == 'user' %}{{ 'User: ' + m['content'] + '\n' }}{% else %}{{ m['content'] + '\n\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""The template of a model that has none, called `plain`."""
MARK = "\ue000reply\ue001"
"""Stands in for a turn to see where the template puts it; private-use characters, so that no data contain it."""
TODAY = date(2024, 7, 26)
"""What a template that writes the date gets to see: the same recipe must give the same tokens on any day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A conversation as tokens."""

    tokens: Tokens
    mask: tuple[bool, ...]
    """True at the tokens to learn: the assistant's words and the token that ends its turn."""


class Renderer:
    """A tokenizer with its chat template.

    Attributes:
        tokenizer: The transformers tokenizer, e.g. to save beside an export.
        template: `model` for the model's own chat template, `plain` for the default.
        end_tokens: Ids that end a reply: the end of turn, the end of sequence and those of generation_config.json.
        notice: What the user should know about the template; empty when it is the model's own and needs no help.
    """

    def __init__(self, tokenizer: Any, *, thinking: bool = False, ends: Tokens = ()) -> None:
        self.tokenizer = tokenizer
        self.template = "model" if tokenizer.chat_template else "plain"
        self._source = _without_clock(tokenizer.get_chat_template() if tokenizer.chat_template else PLAIN)
        self._thinking = thinking
        self._has_switch = "enable_thinking" in self._source
        self._anchored = self._adds_space()
        self._adds_bos = tokenizer.encode("x")[:1] == [tokenizer.bos_token_id]
        self._folds_system = False
        self._folds_system = not self._takes_system()
        self.end_tokens: Tokens = self._find_ends(ends)
        texts = sorted({tokenizer.convert_ids_to_tokens(i) for i in self.end_tokens}, key=len, reverse=True)
        self._end = "(?:" + "|".join(map(re.escape, texts)) + ")"
        self.notice = self._describe()

    @classmethod
    def load(cls, folder: Path, *, thinking: bool = False) -> Renderer:
        """The renderer of a model folder.

        Args:
            folder: Holds tokenizer.json (or another format that transformers reads).
            thinking: Prompt a model that can think aloud to do so; matters only for templates with that switch.
        """
        return cls(_load_tokenizer(folder), thinking=thinking, ends=_generation_ends(folder))

    def prompt(self, messages: Sequence[Message]) -> Tokens:
        """Tokens that generation starts from."""
        return self._encode_start(self._render(messages, prompt=True))

    def dialogue(
        self,
        messages: Sequence[Message],
        *,
        train_on: TrainOn = "all",
        max_length: int | None = None,
        where: str = "conversation",
    ) -> Rendered:
        """Tokens of a whole conversation and which of them are the assistant's.

        Args:
            messages: At least one is the assistant's.
            train_on: Learn all of the assistant's turns, or the last one only.
            max_length: Tokens that fit; what is learnt must fit, or DataError.
            where: file:row for messages.
        """
        turns = [i for i, m in enumerate(messages) if m.role == "assistant"]
        if not turns:
            raise DataError(f"{where}: no assistant's turn; expected one to learn from; write it or delete the row")
        text = self._render(messages, where=where)
        tokens: list[int] = []
        mask: list[bool] = []
        cursor = 0
        for turn in turns if train_on == "all" else turns[-1:]:
            start, stop = self._span(messages, turn, text, where)
            for begin, end, learn in ((cursor, start, False), (start, stop, True)):
                piece = self._encode_next(tokens, text, begin, end)
                tokens += piece
                mask += [learn] * len(piece)
            cursor = stop
        learnt = len(tokens)
        tokens += self._encode_next(tokens, text, cursor, len(text))
        mask += [False] * (len(tokens) - learnt)
        if max_length is not None and learnt > max_length:
            raise _too_long(where, learnt, max_length)
        return Rendered(tokens=tuple(tokens[:max_length]), mask=tuple(mask[:max_length]))

    def text(self, text: str) -> Tokens:
        """Tokens of plain text, with the beginning-of-sequence token where the tokenizer adds one."""
        return self._once(self.tokenizer.encode(text))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones left out; some templates begin a reply with a space, which stays."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def datum(
        self,
        row: Row,
        *,
        source: str,
        term: str = "ce",
        train_on: TrainOn = "all",
        max_length: int | None = None,
    ) -> Datum:
        """A row as a training example: the assistant's turns are learnt, of plain text every token and the end."""
        if row.messages:
            rendered = self.dialogue(row.messages, train_on=train_on, max_length=max_length, where=row.origin)
            last = max(i for i, learn in enumerate(rendered.mask) if learn)
            tokens, mask = rendered.tokens[: last + 1], rendered.mask[: last + 1]  # what follows teaches nothing
        else:
            end = self.tokenizer.eos_token_id
            tokens = (*self.text(row.text), self.end_tokens[0] if end is None else end)
            mask = (True,) * len(tokens)
            if max_length is not None and len(tokens) > max_length:
                raise _too_long(row.origin, len(tokens), max_length)
        weights = tuple(float(learn) for learn in mask[1:])
        return Datum(tokens=tokens, weights={term: weights}, source=source, row=row.origin)

    def _render(
        self, messages: Sequence[Message], *, prompt: bool = False, thinking: bool | None = None, where: str = "prompt"
    ) -> str:
        from jinja2 import TemplateError

        turns = [{"role": m.role, "content": m.content} for m in (_fold(messages) if self._folds_system else messages)]
        try:
            return self.tokenizer.apply_chat_template(
                turns,
                chat_template=self._source,
                tokenize=False,
                add_generation_prompt=prompt,
                enable_thinking=self._thinking if thinking is None else thinking,
            )
        except TemplateError as error:
            roles = ", ".join(m.role for m in messages)
            raise DataError(
                f"{where}: the model's chat template refuses a conversation of {roles} ({error}); "
                f"expected turns it knows, mostly user and assistant in alternation; rewrite the row"
            ) from None

    def _span(self, messages: Sequence[Message], turn: int, text: str, where: str) -> tuple[int, int]:
        """Where in `text` the words of an assistant's turn begin, and where its end token ends."""
        is_last = turn == len(messages) - 1
        span = self._span_by_prefix(messages, turn, text, where) or self._span_by_mark(messages, turn, text, where)
        if span is None:
            raise DataError(
                f"{where}: turn {turn + 1} cannot be found again in what the chat template made of it; expected the "
                f"template to write the assistant's words as they are; simplify the turn"
            )
        start, end, stop = span
        if end == stop and is_last:
            raise DataError(
                f"{where}: the chat template writes no end token after the assistant's turn; expected one, else the "
                f"model never learns to stop; add eos_token to the template of the model folder"
            )
        return start, stop

    def _span_by_prefix(
        self, messages: Sequence[Message], turn: int, text: str, where: str
    ) -> tuple[int, int, int] | None:
        """Start, end of the words and end of the turn, when the prompt of the turn begins the text with the turn."""
        upto = text if turn == len(messages) - 1 else self._render(messages[: turn + 1], where=where)
        if not text.startswith(upto):
            return None
        # With the switch for thinking off the prompt may hold an empty thought; a reply that thinks contradicts it.
        for thinking in (self._thinking, not self._thinking)[: 2 if self._has_switch else 1]:
            prompt = self._render(messages[:turn], prompt=True, thinking=thinking, where=where)
            if upto.startswith(prompt):
                break
        else:
            return None
        start = len(prompt)
        tail = re.search(rf"(?:\s*{self._end})*\s*\Z", upto[start:])
        end = start + (tail.start() if tail else 0)
        first = re.match(rf"\s*?{self._end}", upto[end:])
        return start, end, end + (first.end() if first else 0)

    def _span_by_mark(
        self, messages: Sequence[Message], turn: int, text: str, where: str
    ) -> tuple[int, int, int] | None:
        """The same for templates that rewrite earlier turns: a mark in place of the words shows where they stand."""
        marked = [*messages[:turn], Message(role="assistant", content=MARK), *messages[turn + 1 :]]
        head, found, tail = self._render(marked, where=where).partition(MARK)
        if not found or not text.startswith(head) or not text[len(head) :].endswith(tail):
            return None
        end = len(text) - len(tail)
        first = re.match(rf"\s*?{self._end}", tail)
        return len(head), end, end + (first.end() if first else 0)

    def _encode_start(self, text: str) -> Tokens:
        tokens = self.tokenizer.encode(text, add_special_tokens=False)
        if self.template == "plain" and self._adds_bos:
            tokens = [self.tokenizer.bos_token_id, *tokens]
        return self._once(tokens)

    def _encode_next(self, before: list[int], text: str, begin: int, end: int) -> Tokens:
        """Tokens of text[begin:end] after those of text[:begin]; a token across the seam is split there."""
        native = self._encode_start(text[:end])
        if list(native[: len(before)]) == before:
            return native[len(before) :]
        return self._encode_more(text[begin:end])

    def _encode_more(self, text: str) -> Tokens:
        """Tokens of text that continues: without the space that some tokenizers put before a beginning."""
        plain = self.tokenizer.encode(text, add_special_tokens=False)
        if self._anchored and text:
            anchor = self.tokenizer.encode("\n", add_special_tokens=False)
            joined = self.tokenizer.encode("\n" + text, add_special_tokens=False)
            if joined[: len(anchor)] == anchor:
                return tuple(joined[len(anchor) :])
        return tuple(plain)

    def _once(self, tokens: Sequence[int]) -> Tokens:
        """The tokens with one beginning-of-sequence token at most: text that brings its own would double it."""
        bos = self.tokenizer.bos_token_id
        doubled = bos is not None and len(tokens) > 1 and tokens[0] == tokens[1] == bos
        return tuple(tokens[1:] if doubled else tokens)

    def _adds_space(self) -> bool:
        start, anchor, joined = (self.tokenizer.encode(t, add_special_tokens=False) for t in ("x", "\n", "\nx"))
        return joined[: len(anchor)] == anchor and joined[len(anchor) :] != start

    def _takes_system(self) -> bool:
        try:
            return MARK in self._render([Message(role="system", content=MARK), Message(role="user", content="x")])
        except DataError:
            return False

    def _find_ends(self, configured: Tokens) -> Tokens:
        ends = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        probe = [Message(role="user", content="x"), Message(role="assistant", content=MARK)]
        tail = self._render(probe).partition(MARK)[2].lstrip()
        first = self._encode_more(tail)[:1]
        if first and first[0] in self.tokenizer.all_special_ids + list(self.tokenizer.added_tokens_decoder):
            ends = [first[0], *ends]
        if not ends:
            raise CheckpointError(
                "tokenizer: no end-of-sequence token and none in the chat template; expected one, else no reply ends; "
                "set eos_token in tokenizer_config.json"
            )
        return tuple(dict.fromkeys([*ends, *configured]))

    def _describe(self) -> str:
        said: list[str] = []
        if self.template == "plain":
            said.append("the model has no chat template: the default `plain` (User: ... Assistant: ...) is used")
        if self._folds_system:
            said.append("the chat template takes no system message: it is put before the first user's message")
        if self._has_switch:
            said.append(f"the chat template has a switch for thinking: it is {'on' if self._thinking else 'off'}")
        return "; ".join(said)


def _without_clock(template: str) -> str:
    """The template with the date written out where it asks for it; transformers lets no caller replace its clock."""
    clock = r"""strftime_now\(\s*(['"])(.*?)\1\s*\)"""
    return re.sub(clock, lambda found: repr(TODAY.strftime(found[2])), template)


def _fold(messages: Sequence[Message]) -> list[Message]:
    """The system's words at the head of the first user's message, for templates that know no system."""
    system = "\n\n".join(m.content for m in messages if m.role in ("system", "developer"))
    rest = [m for m in messages if m.role not in ("system", "developer")]
    if not system:
        return rest
    first = next((i for i, m in enumerate(rest) if m.role == "user"), None)
    if first is None:
        return [Message(role="user", content=system), *rest]
    rest[first] = Message(role="user", content=f"{system}\n\n{rest[first].content}")
    return rest


def _too_long(where: str, tokens: int, max_length: int) -> DataError:
    return DataError(
        f"{where}: {tokens} tokens up to the last one to learn; expected at most {max_length} (max_length), else the "
        f"answer is cut; raise max_length, or shorten or delete the row"
    )


def _load_tokenizer(folder: Path) -> Any:
    wanted = "expected a model folder with tokenizer.json"
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; {wanted}; correct the path")
    path = folder / "tokenizer.json"
    if path.is_file():
        content = path.read_bytes().strip()
        if not (content.startswith(b"{") and content.endswith(b"}")):
            raise CheckpointError(f"{path}: cut off, or a pointer to a large file; {wanted}; download it again")
        kind = "PreTrainedTokenizerFast"
    elif any(folder.glob("tokenizer*")) or any(folder.glob("vocab*")):
        kind = "AutoTokenizer"  # imports torch, which takes seconds; needed for formats older than tokenizer.json
    else:
        raise CheckpointError(f"{folder}: no tokenizer in it; {wanted}; copy the base model's tokenizer into it")
    import transformers

    try:
        return getattr(transformers, kind).from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        first = str(error).strip().split("\n", 1)[0]
        raise CheckpointError(f"{folder}: the tokenizer does not load ({first}); {wanted}; check the folder") from None


def _generation_ends(folder: Path) -> Tokens:
    path = folder / "generation_config.json"
    if not path.is_file():
        return ()
    found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    return tuple(found) if isinstance(found, list) else (found,) if isinstance(found, int) else ()
