"""Renderer: turns conversations into tokens exactly as the model's own chat template does, with the loss mask.

Wraps the tokenizer of a model folder; knows no weights. A reply never changes the tokens of its prompt, so that what is
learnt follows the very tokens that generation starts from. Words that spell a special token are encoded as words: no
row can end a turn, begin one or speak for somebody else. transformers is imported inside functions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from temper.data.datum import Datum
from temper.data.encode import Cut, Encoder
from temper.data.passages import CONTINUES
from temper.data.rows import Message, Row
from temper.data.spans import Layout, Spans, check_written
from temper.data.templates import ChatTemplate, Conversation
from temper.errors import CheckpointError, DataError

Tokens = tuple[int, ...]
TrainOn = Literal["all", "last"]

RULES = 3
"""Counts the changes of this module and of what it is built on that change tokens or masks; part of the fingerprint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A conversation as tokens."""

    tokens: Tokens
    mask: tuple[bool, ...]
    """True at the tokens to learn: the assistant's words and the token that ends its turn."""


DOCUMENT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
"""What stood between documents in pre-training, where a chat model's end-of-sequence token ends turns."""


class Renderer:
    """A tokenizer with its chat template; picklable.

    Attributes:
        tokenizer: The transformers tokenizer, e.g. to save beside an export.
        template: `model` for the model's own chat template, `plain` for the default.
        end_tokens: Ids that end a reply: the end of turn, the end of sequence and those of generation_config.json.
        document_end: Id that ends a document, as in the model's pre-training.
        notice: What the user should know about the template; empty when it is the model's own and needs no help.
    """

    def __init__(self, tokenizer: Any, *, thinking: bool = False, ends: Tokens = ()) -> None:
        self.tokenizer = tokenizer
        self._made_with = (thinking, ends)
        self._adds_bos = tokenizer.encode("x")[:1] == [tokenizer.bos_token_id]
        self._encoder = Encoder(tokenizer)
        self._template = ChatTemplate(tokenizer, thinking=thinking)
        self._encoder.cut_at(self._template.marks)
        self.template = self._template.name
        self.notice = self._template.notice
        self.thinks = self._template.thoughts != "none"
        """Whether a reply can be thought out aloud."""
        self.end_tokens: Tokens = self._find_ends(ends)
        texts = tokenizer.convert_ids_to_tokens(list(self.end_tokens))
        self.document_end = self._find_document_end()
        self._template.end_with(texts)
        self._spans = Spans(self._template, ends=texts)

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker process makes its own from the tokenizer: compiled templates do not travel."""
        return _remake, (self.tokenizer, *self._made_with)

    @classmethod
    def load(cls, folder: Path, *, thinking: bool = False) -> Renderer:
        """The renderer of a model folder.

        Args:
            folder: Holds tokenizer.json (or another format that transformers reads).
            thinking: Prompt a model that can think aloud to do so; matters only for templates with that switch. Rows
                are rendered with the switch as each one needs it: on where the last answer has reasoning, else off.
        """
        return cls(_load_tokenizer(folder), thinking=thinking, ends=_generation_ends(folder))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of everything that tokens and masks depend on, for the keys of caches."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        vocabulary = backend.to_str() if backend is not None else json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        names = json.dumps(self.tokenizer.special_tokens_map, sort_keys=True, default=str)
        ends = (repr(self.end_tokens), str(self.document_end))
        parts = (str(RULES), vocabulary, names, *self._template.fingerprint_parts(), *ends)
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()

    def prompt(
        self, messages: Sequence[Message], *, tools: str = "", thinking: bool | None = None, where: str = "prompt"
    ) -> Tokens:
        """Tokens that generation starts from.

        Args:
            messages: The last is not the assistant's.
            tools: A JSON list of function descriptions; "" for none.
            thinking: In place of the renderer's own switch.
            where: file:row for messages.
        """
        thinks = self._template.thinking if thinking is None else thinking
        conversation = self._template.read(messages, tools=tools, thinking=thinks, where=where)
        text = self._template.write(conversation, prompt=True)
        check_written(self._template, conversation, text)
        return tuple(self._begin(self._encoder.encode(text)))

    def dialogue(
        self,
        messages: Sequence[Message],
        *,
        tools: str = "",
        train_on: TrainOn = "all",
        max_length: int | None = None,
        where: str = "conversation",
    ) -> Rendered:
        """Tokens of a whole conversation and which of them are the assistant's.

        Args:
            messages: At least one is the assistant's.
            tools: A JSON list of function descriptions; "" for none.
            train_on: Learn all of the assistant's turns, or the last one only.
            max_length: Tokens that fit; what is learnt must fit, or DataError.
            where: file:row for messages.
        """
        conversation = self._read(messages, tools=tools, where=where)
        layout = self._spans.find(conversation, last=1 if train_on == "last" else 0)
        (rendered,) = self._encode([layout], whole=True)
        learnt = max(i for i, learn in enumerate(rendered.mask) if learn) + 1
        if max_length is not None and learnt > max_length:
            raise _too_long(where, rendered.mask, learnt, max_length)
        return Rendered(tokens=rendered.tokens[:max_length], mask=rendered.mask[:max_length])

    def text(self, text: str) -> Tokens:
        """Tokens of plain text, with the beginning-of-sequence token where the tokenizer adds one.

        Special tokens that it spells are special here, as in the separators between documents.
        """
        return tuple(self._once(self._encoder.whole_texts([text])[0]))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones left out; some templates begin a reply with a space, which stays.

        What ends a reply is left out even where the tokenizer does not call it special.
        """
        words = [token for token in tokens if token not in self.end_tokens]
        return self.tokenizer.decode(words, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def datum(
        self,
        row: Row,
        *,
        source: str,
        term: str = "ce",
        train_on: TrainOn = "all",
        max_length: int | None = None,
    ) -> Datum:
        """A row as a training example: the assistant's turns are learnt, of plain text every token and its end.

        Plain text begins with a beginning-of-sequence token where the tokenizer adds one, and ends with the token that
        stood between documents in pre-training, unless its row says that it continues.
        """
        (made,) = self.datums([row], source=source, term=term, train_on=train_on, max_length=max_length)
        if isinstance(made, DataError):
            raise made
        return made

    def datums(
        self,
        rows: Sequence[Row],
        *,
        source: str,
        term: str = "ce",
        train_on: TrainOn = "all",
        max_length: int | None = None,
    ) -> list[Datum | DataError]:
        """Many rows at once, several times as fast: for each what `datum` returns, or the error that it raises."""
        made: dict[int, Datum | DataError] = {}
        asked: dict[int, Conversation] = {}
        for place, row in enumerate(rows):
            if not row.messages:
                continue
            try:
                asked[place] = self._read(row.messages, tools=row.tools, where=row.origin)
            except DataError as error:
                made[place] = error
        found = self._spans.find_many(list(asked.values()), last=1 if train_on == "last" else 0)
        made |= {place: layout for place, layout in zip(asked, found, strict=True) if isinstance(layout, DataError)}
        layouts = {place: layout for place, layout in zip(asked, found, strict=True) if isinstance(layout, Layout)}
        for place, rendered in zip(layouts, self._encode(list(layouts.values())), strict=True):
            made[place] = _datum(rows[place], rendered, source, term, max_length)
        texts = [place for place, row in enumerate(rows) if not row.messages]
        for place, ids in zip(texts, self._encoder.whole_texts([rows[p].text for p in texts]), strict=True):
            goes_on = rows[place].fields.get(CONTINUES) is True
            tokens = (*self._once(ids), *(() if goes_on else (self.document_end,)))
            rendered = Rendered(tokens=tokens, mask=(True,) * len(tokens))
            made[place] = _datum(rows[place], rendered, source, term, max_length)
        return [made[place] for place in range(len(rows))]

    def pair(
        self, row: Row, *, source: str, group: int, term: str = "dpo", max_length: int | None = None
    ) -> tuple[Datum, Datum]:
        """A preference pair as its chosen and its rejected example, of which only the turns that differ are learnt.

        Both begin with the same tokens. `group` is the caller's number for the pair.
        """
        if not any(m.role == "assistant" for m in row.rejected) or row.prompt == row.messages:
            raise DataError(
                f"{row.origin}: no pair of answers; expected the chosen one at the end of the conversation and a "
                f"rejected one; write both or delete the row"
            )
        answers = (row.messages[-1:], row.rejected)
        thinking = any(self._template.read(answer, where=row.origin).thinking for answer in answers)
        layouts = [
            self._spans.find(
                self._read((*row.prompt, *answer), tools=row.tools, where=row.origin, thinking=thinking),
                last=sum(message.role == "assistant" for message in answer),
            )
            for answer in answers
        ]
        made = [_datum(row, rendered, source, term, max_length) for rendered in self._encode(layouts)]
        for found in made:
            if isinstance(found, DataError):
                raise found
        chosen, rejected = (replace(found, group=group) for found in made if isinstance(found, Datum))
        return chosen, rejected

    def _read(
        self, messages: Sequence[Message], *, tools: str, where: str, thinking: bool | None = None
    ) -> Conversation:
        """A conversation that something can be learnt from."""
        if not any(message.role == "assistant" for message in messages):
            raise DataError(f"{where}: no assistant's turn; expected one to learn from; write it or delete the row")
        return self._template.read(messages, tools=tools, thinking=thinking, where=where)

    def _encode(self, layouts: Sequence[Layout], *, whole: bool = False) -> list[Rendered]:
        """Tokens and masks, up to the last token that is learnt or of the whole text."""
        cuts = [
            Cut(text=found.text, at=(0, *(at for span in found.spans for at in span), *_end(found, whole=whole)))
            for found in layouts
        ]
        rendered: list[Rendered] = []
        for pieces in self._encoder.cut(cuts):
            tokens: list[int] = []
            mask: list[bool] = []
            for place, piece in enumerate(pieces):
                ids = piece if place else self._begin(piece)
                tokens += ids
                mask += [place % 2 == 1] * len(ids)
            rendered.append(Rendered(tokens=tuple(tokens), mask=tuple(mask)))
        return rendered

    def _begin(self, tokens: list[int]) -> list[int]:
        """The tokens of a conversation's beginning; the default template leaves its mark to the tokenizer."""
        is_missing = self.template == "plain" and self._adds_bos
        return self._once([self.tokenizer.bos_token_id, *tokens] if is_missing else tokens)

    def _once(self, tokens: list[int]) -> list[int]:
        """The tokens with one beginning-of-sequence token at most: text that brings its own would double it."""
        bos = self.tokenizer.bos_token_id
        doubled = bos is not None and len(tokens) > 1 and tokens[0] == tokens[1] == bos
        return tokens[1:] if doubled else tokens

    def _find_ends(self, configured: Tokens) -> Tokens:
        ends = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        first = self._encoder.continued(self._template.after_reply)[:1]
        if first and first[0] in {*self.tokenizer.all_special_ids, *self._encoder.added.values()}:
            ends = [first[0], *ends]
        if not ends:
            raise CheckpointError(
                "tokenizer: no end-of-sequence token and none in the chat template; expected one, else no reply ends; "
                "set eos_token in tokenizer_config.json"
            )
        return tuple(dict.fromkeys([*ends, *configured]))

    def _find_document_end(self) -> int:
        """The end-of-sequence token, but for a chat model where that ends turns: what its pre-training had instead."""
        end = self.tokenizer.eos_token_id
        if end is not None and (self.template == "plain" or end != self.end_tokens[0]):
            return end
        known = [self._encoder.added[name] for name in DOCUMENT_ENDS if name in self._encoder.added]
        return self.end_tokens[0] if self.end_tokens[0] in known or not known else known[0]


def _remake(tokenizer: Any, thinking: bool, ends: Tokens) -> Renderer:
    return Renderer(tokenizer, thinking=thinking, ends=ends)


def _end(found: Layout, *, whole: bool) -> Iterable[int]:
    return (len(found.text),) if whole and found.spans[-1][1] < len(found.text) else ()


def _datum(row: Row, rendered: Rendered, source: str, term: str, max_length: int | None) -> Datum | DataError:
    if max_length is not None and len(rendered.tokens) > max_length:
        return _too_long(row.origin, rendered.mask, len(rendered.tokens), max_length)
    weights = tuple(map(float, rendered.mask[1:]))
    return Datum(tokens=rendered.tokens, weights={term: weights}, source=source, row=row.origin)


def _too_long(where: str, mask: Sequence[bool], tokens: int, max_length: int) -> DataError:
    """The refusal of a row of which something to learn is beyond the length, or everything is."""
    if True not in mask[:max_length]:
        return DataError(
            f"{where}: a prompt of {mask.index(True)} tokens; expected fewer than {max_length} (max_length), else none "
            f"of the answer fits; raise max_length, or shorten or delete the row"
        )
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
