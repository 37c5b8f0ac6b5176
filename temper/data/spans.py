"""Spans: where in the text of a conversation the assistant's words stand, whatever the chat template.

A turn begins where its prompt ends and ends with its end token: found by writing the conversation again up to the turn,
and by a mark in place of the words where the template rewrites earlier turns. What was found for one conversation holds
for every other with the same roles in which the template wrote the same things around the words, which is compared.
Knows text, no tokens. Imports errors, data.templates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from temper.data.templates import CLOSE, MARK, OPEN, ChatTemplate, Conversation, Turn, no_calls
from temper.errors import DataError

FRAMES = 256
"""Frames kept; conversations come in few orders of roles."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The text of a conversation and what of it is learnt."""

    text: str
    spans: tuple[tuple[int, int], ...]
    """Begin of an assistant's words and end of its end token, in the order of the turns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What a template writes around the words of conversations with the same roles."""

    literals: tuple[str, ...]
    """One more than there are turns."""
    shifts: Mapping[int, tuple[int, int]]
    """Turn of the assistant -> from the begin and the end of its words to those of its span."""

    def spans(self, text: str, turns: Sequence[Turn], learnt: Sequence[int]) -> tuple[tuple[int, int], ...] | None:
        """The spans of the learnt turns; None when the text is not these turns in this frame."""
        at = len(self.literals[0])
        if not text.startswith(self.literals[0]):
            return None
        places: list[tuple[int, int]] = []
        for turn, literal in zip(turns, self.literals[1:], strict=True):
            end = _end_of_words(text, at, turn["content"], literal)
            if end is None:
                return None
            places.append((at, end))
            at = end + len(literal)
        if at != len(text) or any(turn not in self.shifts for turn in learnt):
            return None
        return tuple((places[t][0] + self.shifts[t][0], places[t][1] + self.shifts[t][1]) for t in learnt)


class Spans:
    """Finds the assistant's words in what a template writes.

    Attributes:
        frames: Conversations of known roles -> their frame, None for those that have none; empty it to search anew.
    """

    def __init__(self, template: ChatTemplate, *, ends: Sequence[str]) -> None:
        self._template = template
        self._ends = tuple(ends)
        self.frames: dict[tuple[Any, ...], Frame | None] = {}

    def find(self, conversation: Conversation, *, last: int = 0) -> Layout:
        """The conversation's text and its spans, or DataError.

        Args:
            conversation: With an assistant's turn at least.
            last: How many of the assistant's turns are learnt, counted from the end; 0 for all.
        """
        return self._lay_out(conversation, self._template.write(conversation), last)

    def find_many(self, conversations: Sequence[Conversation], *, last: int = 0) -> list[Layout | DataError]:
        """What `find` returns or raises for each of many conversations."""
        found: list[Layout | DataError] = []
        for conversation, text in zip(conversations, self._template.write_many(conversations), strict=True):
            try:
                found.append(text if isinstance(text, DataError) else self._lay_out(conversation, text, last))
            except DataError as error:
                found.append(error)
        return found

    def _lay_out(self, conversation: Conversation, text: str, last: int) -> Layout:
        turns = conversation.turns
        learnt = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"][-last:]
        frame = self._frame(conversation) if conversation.is_plain else None
        spans = frame.spans(text, turns, learnt) if frame else None
        return Layout(text, spans) if spans else self._search(conversation, text, learnt)

    def _search(self, conversation: Conversation, text: str, learnt: Sequence[int]) -> Layout:
        """Turn by turn, for any template and any turn."""
        check_written(self._template, conversation, text)
        spans: list[tuple[int, int]] = []
        for turn in learnt:
            is_last = turn == len(conversation.turns) - 1
            found = self._by_prefix(conversation, turn, text)
            if found is None:
                found = self._by_mark(conversation, turn, text)
                if found and is_last:
                    text, found = self._with_thought(conversation, turn, text, found)
            elif conversation.thought and is_last:
                text, found = _put_in(text, found, f"{OPEN}\n{conversation.thought}\n{CLOSE}\n\n")
            spans.append(self._checked(conversation, turn, text, found))
        return Layout(text, tuple(spans))

    def _checked(
        self, conversation: Conversation, turn: int, text: str, found: tuple[int, int] | None
    ) -> tuple[int, int]:
        where = conversation.where
        is_last = turn == len(conversation.turns) - 1
        if found is None:
            raise DataError(
                f"{where}: turn {turn + 1} cannot be found again in what the chat template made of it; expected the "
                f"template to write the assistant's words as they are; simplify the turn"
            )
        thought = conversation.turns[turn].get(self._template.reasoning_key, "").strip()
        if is_last and thought not in text[slice(*found)]:
            raise DataError(
                f"{where}: the model's chat template leaves the last answer's reasoning out; expected it where it is "
                f"learnt; write the thoughts into the answer itself, or remove the reasoning column"
            )
        if is_last and not text.endswith(self._ends, *found):
            raise DataError(
                f"{where}: the chat template writes no end token after the assistant's turn; expected one, else the "
                f"model never learns to stop; add eos_token to the template of the model folder"
            )
        return found

    def _by_prefix(self, conversation: Conversation, turn: int, text: str) -> tuple[int, int] | None:
        """The span when the prompt of the turn begins the text with the turn."""
        before = conversation.upto(turn)
        if not before.turns:
            return None  # there is no empty prompt to write
        # With the switch for thinking off the prompt may hold an empty thought; a reply that thinks contradicts it.
        switches = (conversation.thinking, not conversation.thinking)[: 2 if self._template.has_switch else 1]
        try:
            is_last = turn == len(conversation.turns) - 1
            upto = text if is_last else self._template.write(conversation.upto(turn + 1))
            if not text.startswith(upto):
                return None
            for thinking in switches:
                prompt = self._template.write(before, prompt=True, thinking=thinking)
                if upto.startswith(prompt):
                    return len(prompt), self._end_of_turn(upto, len(prompt))
        except DataError:  # a part of the conversation is refused where the whole is not
            return None
        return None

    def _end_of_turn(self, text: str, begin: int) -> int:
        """The end of the first of the end tokens that end the text, or of the words where there is none."""
        end = stop = begin + len(text[begin:].rstrip())
        while found := next((e for e in self._ends if text.endswith(e, begin, end)), ""):
            stop = end
            end = begin + len(text[begin : end - len(found)].rstrip())
        return stop

    def _by_mark(self, conversation: Conversation, turn: int, text: str) -> tuple[int, int] | None:
        """The span for templates that rewrite earlier turns: a mark in place of the words shows where they stand."""
        plain = {"role": "assistant", "content": MARK}
        for words in (plain, {**conversation.turns[turn], "content": MARK}):
            try:
                written = self._template.write(conversation.with_turn(turn, words))
            except DataError:  # e.g. the answer of a tool must follow a call
                continue
            head, found, tail = written.partition(MARK)
            begin = _shared(head, text)
            if not found or head[begin:].strip() or not text[begin:].endswith(tail):
                continue
            ended = tail[: len(tail) - len(tail.lstrip())]
            end_token = next((e for e in self._ends if tail.startswith(e, len(ended))), "")
            words_end = len(text) - len(tail)
            return begin, words_end + (len(ended) + len(end_token) if end_token else 0)
        return None

    def _with_thought(
        self, conversation: Conversation, turn: int, text: str, found: tuple[int, int]
    ) -> tuple[str, tuple[int, int]]:
        """The text with the thought that a prompt has begun and the template has dropped, be it empty."""
        begin, stop = found
        prompt = self._template.write(conversation.upto(turn), prompt=True)
        begun = prompt[begin:]
        if not prompt.startswith(text[:begin]) or begun.strip() != OPEN:
            return text, found
        put_in = f"{conversation.thought}\n{CLOSE}\n\n"
        text, (begin, stop) = _put_in(text, (begin, stop), begun + put_in)
        return text, (begin + len(begun), stop)

    def _frame(self, conversation: Conversation) -> Frame | None:
        """The frame of conversations with these roles and tools, searched for once."""
        key = (conversation.thinking, conversation.tools_text, *(turn["role"] for turn in conversation.turns))
        if key not in self.frames:
            if len(self.frames) >= FRAMES:
                self.frames.pop(next(iter(self.frames)))
            self.frames[key] = self._make_frame(conversation)
        return self.frames[key]

    def _make_frame(self, conversation: Conversation) -> Frame | None:
        marks = [f"\ue000{place}\ue001" for place in range(len(conversation.turns))]
        marked = conversation
        for place, turn in enumerate(conversation.turns):
            marked = marked.with_turn(place, {**turn, "content": marks[place]})
        learnt = [place for place, turn in enumerate(conversation.turns) if turn["role"] == "assistant"]
        try:
            text = self._template.write(marked)
            layout = self._search(marked, text, learnt)
        except DataError:
            return None  # the conversation's own words may be refused with a better reason, or accepted
        if layout.text != text or any(text.count(mark) != 1 for mark in marks):
            return None
        literals: list[str] = []
        rest = text
        for mark in marks:
            literal, found, rest = rest.partition(mark)
            if not found:
                return None
            literals.append(literal)
        shifts = {
            place: (span[0] - text.index(marks[place]), span[1] - text.index(marks[place]) - len(marks[place]))
            for place, span in zip(learnt, layout.spans, strict=True)
        }
        ended = {place: shift for place, shift in shifts.items() if shift[0] <= 0 < shift[1]}
        return Frame(literals=(*literals, rest), shifts=ended)


def check_written(template: ChatTemplate, conversation: Conversation, text: str) -> None:
    """Refuses a conversation of which the template left something out."""
    where = conversation.where
    for number, turn in enumerate(conversation.turns, start=1):
        words = turn["content"].strip()
        if turn["role"] != "assistant" and words not in text:
            marked = template.write(conversation.with_turn(number - 1, {**turn, "content": MARK}))
            if marked == text:  # else the words stand there in another form, e.g. as JSON
                raise DataError(
                    f"{where}: the model's chat template leaves out turn {number}, the {turn['role']}'s; expected "
                    f"it to write every turn; put its words into a turn that it writes, or delete it"
                )
        for call in turn.get("tool_calls", ()):
            if call["function"]["name"] not in text:
                raise no_calls(where)
    missing = [name for tool in conversation.tools if (name := str(tool["function"].get("name"))) not in text]
    if missing:
        raise DataError(
            f"{where}: the model's chat template does not write the tool {missing[0]}; expected every tool in the "
            f"prompt; begin the conversation with a user's turn, or describe the tools in the system's message"
        )


def _end_of_words(text: str, at: int, words: str, literal: str) -> int | None:
    """Where words that begin at a place end, be they written as they are or stripped of blanks."""
    for written in (words, words.strip(), words.lstrip("\n"), words.strip("\n"), words.rstrip()):
        if text.startswith(written, at) and text.startswith(literal, at + len(written)):
            return at + len(written)
    return None


def _shared(first: str, second: str) -> int:
    """How many characters two texts begin with in common."""
    if second.startswith(first):
        return len(first)
    return next((at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(second))


def _put_in(text: str, span: tuple[int, int], words: str) -> tuple[str, tuple[int, int]]:
    """The text with words at the begin of the span, which grows by them."""
    return text[: span[0]] + words + text[span[0] :], (span[0], span[1] + len(words))
