"""ChatTemplate: how a model's chat template writes a conversation, and what it can take of it.

What a template is able to do (a system message, tools, calls, reasoning, a switch for thinking) is tried out, not read
from its source, and nothing that a row says is dropped in silence: what the template cannot write is put where it can,
or refused. Knows text; knows no tokens but the names of the special ones. Imports errors, data.encode, data.rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from typing import Any, Literal

from temper.data.encode import Guard, any_of
from temper.data.rows import Message, ToolCall
from temper.errors import DataError

Turn = Mapping[str, Any]
Thoughts = Literal["key", "inline", "splice", "none"]

PLAIN = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ 'Assistant: ' + m['content'] + eos_token + '\n' }}"
    "{% elif m['role'] == 'user' %}{{ 'User: ' + m['content'] + '\n' }}{% else %}{{ m['content'] + '\n\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""The template of a model that has none, called `plain`."""
MARK = "\ue000reply\ue001"
"""Stands in for words to see where the template puts them; private-use characters, so that no data contain it."""
TODAY = date(2024, 7, 26)
"""What a template that writes the date gets to see: the same recipe must give the same tokens on any day."""
OPEN, CLOSE = "<think>", "</think>"
"""What a thought stands between, in all families that think aloud in their chat."""
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
SYSTEM = ("system", "developer")
USER: Mapping[str, Any] = {"role": "user", "content": "x"}
REPLY: Mapping[str, Any] = {"role": "assistant", "content": "x"}
TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "probe_tool",
        "description": "x",
        "parameters": {"type": "object", "properties": {"x": {"type": "string", "description": "x"}}},
    },
}
"""A tool to try a template with."""


def split_thought(text: str) -> tuple[str, str]:
    """A reply as its thought and what is said after it; a thought that has not ended leaves nothing said."""
    before, closed, after = text.rpartition(CLOSE)
    if closed:
        return before.replace(OPEN, "", 1).strip(), after.strip()
    return (text.strip().removeprefix(OPEN).strip(), "") if text.lstrip().startswith(OPEN) else ("", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What a chat template gets to see."""

    turns: tuple[Turn, ...]
    """In OpenAI's form, words that spell special tokens guarded."""
    tools: tuple[Turn, ...] = ()
    tools_text: str = ""
    """The tools as the row has them."""
    thinking: bool = False
    thought: str = ""
    """The last turn's reasoning, when the template has no place for it and it must be put in afterwards."""
    where: str = "prompt"
    """file:row for messages."""

    @property
    def is_plain(self) -> bool:
        """Whether every turn is a role and words, nothing else."""
        return not self.thought and all(len(turn) == 2 for turn in self.turns)

    def upto(self, turn: int) -> Conversation:
        """The conversation before a turn."""
        return replace(self, turns=self.turns[:turn])

    def with_turn(self, turn: int, words: Turn) -> Conversation:
        """The conversation with a turn replaced."""
        return replace(self, turns=(*self.turns[:turn], words, *self.turns[turn + 1 :]))


class ChatTemplate:
    """A tokenizer's chat template.

    Attributes:
        name: `model` for the model's own, `plain` for the default.
        thinking: Whether prompts ask a model that can think aloud to do so.
        has_switch: Whether the template can be asked.
        thoughts: Where reasoning goes: the template reads a `key`, it stands `inline` in the words, it is put in after
            the template dropped it (`splice`), or the model has no token for it (`none`).
        reasoning_key: The key that reasoning goes under, "" where the template reads none.
        marks: The special tokens that the template itself writes around turns.
        guard: Keeps words from spelling special tokens.
        notice: What the user should know; empty when the template needs no help.
    """

    def __init__(self, tokenizer: Any, *, thinking: bool = False) -> None:
        self._tokenizer = tokenizer
        self.name = "model" if tokenizer.chat_template else "plain"
        self._source = _without_clock(_source(tokenizer, tools=False))
        self._tools_source = _without_clock(_source(tokenizer, tools=True))
        self.thinking = thinking
        self.has_switch = re.search(r"enable_thinking|\b(?:if|not|and|or) thinking\b", self._source) is not None
        self._added = {token.content: token.special for token in tokenizer.added_tokens_decoder.values()}
        self.guard = Guard()
        system = {"role": "system", "content": MARK}
        # Mistral's writes it in a prompt and forgets it once the prompt is answered.
        self._folds_system = not (self._writes(system, USER) and self._writes(system, USER, REPLY))
        self._renames_developer = not self._writes({"role": "developer", "content": MARK}, USER)
        self.reasoning_key, self.thoughts = self._find_thoughts()
        self.marks = self._find_marks()
        self._learn_special(())
        self.notice = self._describe()

    @cached_property
    def after_reply(self) -> str:
        """What stands after the words of a last reply, without blanks."""
        reply = {"role": "assistant", "content": MARK}
        return self.write(Conversation(turns=(USER, reply))).partition(MARK)[2].lstrip()

    def end_with(self, ends: Sequence[str]) -> None:
        """Names the tokens that end a reply, which no words may spell."""
        self._learn_special(ends)

    def read(
        self, messages: Sequence[Message], *, tools: str = "", thinking: bool | None = None, where: str = "prompt"
    ) -> Conversation:
        """Messages as the template takes them.

        Args:
            messages: Any roles of `temper.data.rows.ROLES`.
            tools: A JSON list of function descriptions; "" for none.
            thinking: Whether the last reply thinks aloud; None to see from the reply itself.
            where: file:row for messages.
        """
        last = messages[-1] if messages and messages[-1].role == "assistant" else None
        if thinking is None:
            thinking = last is not None and (bool(last.reasoning) or CLOSE in last.content)
        turns = tuple(self._turns(_fold(messages) if self._folds_system else messages, where))
        thought = self.guard.text(last.reasoning, "thought") if last and self.thoughts == "splice" else ""
        known = self._read_tools(tools, where) if tools else ()
        return Conversation(turns=turns, tools=known, tools_text=tools, thinking=thinking, thought=thought, where=where)

    def write(self, conversation: Conversation, *, prompt: bool = False, thinking: bool | None = None) -> str:
        """The text of a conversation, with guards in it.

        Args:
            conversation: From `read`.
            prompt: End with what a reply follows.
            thinking: In place of the conversation's own.
        """
        if thinking is not None:
            conversation = replace(conversation, thinking=thinking)
        try:
            return self._apply([list(conversation.turns)], conversation, prompt)[0]
        except _refusals() as error:
            roles = ", ".join(turn["role"] for turn in conversation.turns)
            raise DataError(
                f"{conversation.where}: the model's chat template refuses a conversation of {roles} ({error}); "
                f"expected turns it knows, mostly user and assistant in alternation; rewrite the row"
            ) from None

    def write_many(self, conversations: Sequence[Conversation]) -> list[str | DataError]:
        """The texts of many conversations at once, or the errors that `write` raises."""
        groups: dict[tuple[str, bool], list[int]] = {}
        for place, conversation in enumerate(conversations):
            groups.setdefault((conversation.tools_text, conversation.thinking), []).append(place)
        written: dict[int, str | DataError] = {}
        for places in groups.values():
            first = conversations[places[0]]
            try:
                texts = self._apply([list(conversations[place].turns) for place in places], first, False)
            except _refusals():
                for place in places:
                    try:
                        written[place] = self.write(conversations[place])
                    except DataError as error:
                        written[place] = error
            else:
                written.update(zip(places, texts, strict=True))
        return [written[place] for place in range(len(conversations))]

    def fingerprint_parts(self) -> tuple[str, ...]:
        """What the text of a conversation depends on."""
        return (self._source, self._tools_source, str(self.thinking))

    def _apply(self, turns: list[list[Turn]], like: Conversation, prompt: bool) -> list[str]:
        """The texts of conversations with the tools and the switch of one of them."""
        return self._tokenizer.apply_chat_template(
            turns,
            tools=list(like.tools) or None,
            chat_template=self._tools_source if like.tools else self._source,
            tokenize=False,
            add_generation_prompt=prompt,
            enable_thinking=like.thinking,
            thinking=like.thinking,
        )

    def _turns(self, messages: Sequence[Message], where: str) -> list[Turn]:
        turns: list[Turn] = []
        waiting: list[str] = []
        given = 0
        for message in messages:
            role = "system" if message.role == "developer" and self._renames_developer else message.role
            turn: dict[str, Any] = {
                "role": role,
                "content": self.guard.text(message.content, "own" if role == "assistant" else "other"),
            }
            if message.reasoning:
                self._add_thought(turn, message, where)
            if message.tool_calls:
                if self._calls_as == "none":
                    raise no_calls(where)
                turn["tool_calls"] = [self._call(call, given + n, where) for n, call in enumerate(message.tool_calls)]
                given += len(message.tool_calls)
                waiting = [call["id"] for call in turn["tool_calls"] if "id" in call]
            if role == "tool":
                answers = message.tool_call_id or (waiting.pop(0) if waiting and self._reads_ids else "")
                turn |= {"tool_call_id": answers} if answers else {}
                turn |= {"name": message.name} if message.name else {}
            turns.append(turn)
        return turns

    def _add_thought(self, turn: dict[str, Any], message: Message, where: str) -> None:
        thought = self.guard.text(message.reasoning, "thought")
        if self.thoughts == "key":
            turn[self.reasoning_key] = thought
        elif self.thoughts == "inline":
            turn["content"] = f"{OPEN}\n{thought}\n{CLOSE}\n\n{turn['content']}"
        elif self.thoughts == "none":
            raise DataError(
                f"{where}: the answer has reasoning, but the model's chat template drops it and the tokenizer has no "
                f"{OPEN}; expected a model that thinks aloud; write the thoughts into the answer itself, remove the "
                f"reasoning column, or choose a base that thinks"
            )

    def _call(self, call: ToolCall, number: int, where: str) -> Turn:
        try:
            arguments = json.loads(call.arguments or "{}")
        except json.JSONDecodeError as error:
            raise DataError(
                f"{where}: the arguments of the call of {call.name} are not JSON ({error}); expected an object; "
                f"correct the call"
            ) from None
        arguments = self.guard.all_text(arguments, "own")
        if self._calls_as == "text":
            arguments = json.dumps(arguments, ensure_ascii=False)
        id = call.id or (f"call{number:05d}" if self._reads_ids else "")  # nine characters, as Mistral's insist on
        body = {"type": "function", "function": {"name": call.name, "arguments": arguments}}
        return {"id": id, **body} if id else body

    def _read_tools(self, tools: str, where: str) -> tuple[Turn, ...]:
        try:
            found = json.loads(tools)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: tools are not JSON ({error}); expected a list; correct the column") from None
        if not isinstance(found, list) or not all(isinstance(tool, dict) for tool in found):
            raise DataError(f"{where}: tools are no list of objects; expected a list of functions; correct the column")
        if found and not self._takes_tools:
            raise DataError(
                f"{where}: the row has tools, but the model's chat template does not write them; expected a template "
                f"for tools; choose a base that has one, or describe the tools in the system's message and remove the "
                f"tools column"
            )
        guarded = [self.guard.all_text(tool, "other") for tool in found]
        return tuple(tool if "function" in tool else {"type": "function", "function": tool} for tool in guarded)

    def _probe(self, *turns: Turn, tools: Sequence[Turn] = (), prompt: bool = False, thinking: bool = True) -> str:
        """What the template makes of turns; "" when it refuses them."""
        try:
            return self.write(Conversation(turns=turns, tools=tuple(tools), thinking=thinking), prompt=prompt)
        except DataError:
            return ""

    def _writes(self, *turns: Turn, tools: Sequence[Turn] = ()) -> bool:
        return MARK in self._probe(*turns, tools=tools)

    @cached_property
    def _takes_tools(self) -> bool:
        marked = {**TOOL, "function": {**TOOL["function"], "name": MARK}}
        return self._writes(USER, tools=[marked])

    @cached_property
    def _calls_as(self) -> Literal["object", "text", "none"]:
        """How the arguments of a call must come for the template to write them, if it writes calls at all."""
        object_, text = self._probe_call({"x": MARK}), self._probe_call(json.dumps({"x": MARK}, ensure_ascii=False))
        if MARK in object_ and "{'x'" not in object_:  # else as Python writes an object, which is no JSON
            return "object"
        return "text" if MARK in text else "none"

    @property
    def _reads_ids(self) -> bool:
        return "tool_call_id" in self._tools_source

    def _probe_call(self, arguments: Any) -> str:
        call = {"id": "call00000", "type": "function", "function": {"name": "probe_tool", "arguments": arguments}}
        reply = {"role": "assistant", "content": "", "tool_calls": [call]}
        return self._probe(USER, reply, tools=[TOOL] if self._takes_tools else [])

    def _find_thoughts(self) -> tuple[str, Thoughts]:
        for key in REASONING_KEYS:
            if self._writes(USER, {**REPLY, key: MARK}):
                return key, "key"
        if not {OPEN, CLOSE} <= set(self._added):
            return "", "none"
        inline = f"{OPEN}\n{MARK}\n{CLOSE}\n\nx"
        return "", "inline" if self._writes(USER, {**REPLY, "content": inline}) else "splice"

    def _find_marks(self) -> frozenset[str]:
        """The special tokens that the template itself writes around turns."""
        system = () if self._folds_system else ({"role": "system", "content": "x"},)
        texts = (
            self._probe(*system, USER, REPLY, USER, prompt=True, thinking=False),
            self._probe(*system, USER, REPLY, USER, REPLY),
            self._probe(USER, REPLY),
        )
        return frozenset(any_of(self._added).findall("\n".join(texts)))

    def _learn_special(self, ends: Sequence[str]) -> None:
        bos = self._tokenizer.bos_token
        marks = {*self.marks, *ends, *([bos] if bos else [])}
        special = marks | {text for text, special in self._added.items() if special}
        self.guard = Guard(special=special, own=marks - {OPEN, CLOSE}, thought=marks | {OPEN, CLOSE})

    def _describe(self) -> str:
        said: list[str] = []
        if self.name == "plain":
            said.append("the model has no chat template: the default `plain` (User: ... Assistant: ...) is used")
        if self._folds_system:
            said.append("the chat template takes no system message: it is put before the first user's message")
        if self.thoughts in ("inline", "splice"):
            said.append(f"the chat template reads no reasoning: it is put before the answer as {OPEN}...{CLOSE}")
        if self.has_switch:
            said.append(
                f"the chat template has a switch for thinking: rows with reasoning are learnt with it on, others with "
                f"it off; for prompts it is {'on' if self.thinking else 'off'}"
            )
        elif self._probe(USER, prompt=True).rstrip().endswith(OPEN):
            said.append("the chat template begins every reply with a thought: answers without one close it at once")
        return "; ".join(said)


def _refusals() -> tuple[type[Exception], ...]:
    """What a template raises: its own refusal, or that it joins text to what is none."""
    from jinja2 import TemplateError

    return (TemplateError, TypeError)


def _source(tokenizer: Any, *, tools: bool) -> str:
    """The template's source; some models keep a second one for conversations with tools."""
    found = tokenizer.chat_template
    if isinstance(found, dict):
        names = ("tool_use", "default") if tools else ("default",)
        return next((found[name] for name in names if name in found), next(iter(found.values())))
    return found or PLAIN


def _without_clock(template: str) -> str:
    """The template with the date written out where it asks for it; transformers lets no caller replace its clock."""
    clock = r"""strftime_now\(\s*(['"])(.*?)\1\s*\)"""
    return re.sub(clock, lambda found: repr(TODAY.strftime(found[2])), template)


def _fold(messages: Sequence[Message]) -> list[Message]:
    """The system's words at the head of the first user's message, for templates that know no system."""
    system = "\n\n".join(m.content for m in messages if m.role in SYSTEM)
    rest = [m for m in messages if m.role not in SYSTEM]
    if not system:
        return rest
    first = next((i for i, m in enumerate(rest) if m.role == "user"), None)
    if first is None:
        return [Message(role="user", content=system), *rest]
    rest[first] = replace(rest[first], content=f"{system}\n\n{rest[first].content}")
    return rest


def no_calls(where: str) -> DataError:
    """The refusal of a call that the template does not write."""
    return DataError(
        f"{where}: a turn calls a tool, but the model's chat template does not write calls; expected a template for "
        f"tools; choose a base that has one, or write the call into the answer's text"
    )
