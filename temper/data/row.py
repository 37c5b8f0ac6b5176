"""A row and its turns: what every data file becomes, whatever its format and shape.

Values only; `rows` reads them from files. Imports nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One call of a tool by the assistant."""

    name: str
    arguments: str
    """A JSON object as compact text."""
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: str
    """One of `ROLES`."""
    content: str
    reasoning: str = ""
    """What an assistant thinks before it says `content`, without the template's marks around it."""
    tool_calls: tuple[ToolCall, ...] = ()
    """An assistant's calls; `content` may then be empty."""
    tool_call_id: str = ""
    """Of a tool's turn: the call it answers."""
    name: str = ""
    """Of a tool's turn: the tool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One training or exam row.

    Example: the line {"prompt": "lamp on", "completion": {"call": "on"}} of data/home.jsonl, line 3, becomes messages
    (user "lamp on", assistant '{"call": "on"}'), origin "data/home.jsonl:3" and reference '{"call": "on"}'.
    """

    id: str
    """16 hexadecimal digits of the content's sha256: the same content has the same id in any file."""
    messages: tuple[Message, ...]
    """The conversation, an assistant's turn last; empty for a row of plain text."""
    origin: str
    """file:row. The row is the line it begins on, 1-based; in .json, .parquet and .arrow the number of the record."""
    reference: str = ""
    """The last assistant's turn; empty for plain text."""
    text: str = ""
    """Plain text to continue pre-training on; empty for a conversation."""
    rejected: tuple[Message, ...] = ()
    """Of a preference pair: the turns that must not win, in place of the last of `messages`; empty otherwise."""
    tools: str = ""
    """The tools that may be called, a JSON list of function descriptions as compact text; empty for none."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The columns as they stand in the file."""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """What the model is asked: the messages before the last assistant's turn; of a task all of them."""
        return self.messages[:-1] if self.messages and self.messages[-1].role == "assistant" else self.messages
