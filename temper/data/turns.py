"""Turns: the ways in which files write down a conversation, into messages.

OpenAI's (`role`, `content`, tool calls, reasoning), ShareGPT's (`from`, `value`), Bedrock Converse's (lists of blocks)
and plain transcripts. Every function raises ValueError with `found; expected; remedy`. Imports `row`.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from temper.data import strict_json
from temper.data.row import ROLES, Message, ToolCall

REMEDY = "write it or delete the row"
ASSISTANTS = ("gpt", "chatgpt", "bot", "model", "assistant")
SPEAKERS: Mapping[str, str] = (
    {"human": "user", "function_call": "assistant", "function": "tool"}
    | dict.fromkeys(ASSISTANTS, "assistant")
    | dict.fromkeys(("observation", "function_response", "tool"), "tool")
)
"""ShareGPT's names for the roles, and OpenAI's former name for a tool's."""
REASONING = ("reasoning_content", "reasoning", "thinking")
"""Fields of an assistant's turn that hold what it thinks before it answers; the first that is filled counts."""
SPEAKER_MARK = re.compile(r"(?:\A|\n\n)(Human|Assistant):[ \t]*")


def written(value: Any) -> str:
    """A value as the model will write it: text as it is, everything else as compact JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    try:
        # Older tools write text into columns of bytes.
        return value.decode() if isinstance(value, bytes) else json.dumps(
            value, ensure_ascii=False, default=_plain, allow_nan=False
        )  # fmt: skip
    except UnicodeDecodeError as error:
        found = f"found bytes that are not UTF-8 text ({error.reason})"
        raise ValueError(f"{found}; expected text; write the column as text") from None
    except ValueError:
        found = f"found {reprlib.repr(value)}, which holds a number that is not finite"
        raise ValueError(f"{found}; expected JSON; write null where a value is missing") from None


def _plain(value: Any) -> str:
    """What JSON has no form for, such as a date, as text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def listed(value: Any, column: str) -> Any:
    """The value of a column that holds a list or an object; a cell of a CSV file holds it as JSON text."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return strict_json.parse(value)
    except ValueError as error:
        raise ValueError(f"{column} is not JSON ({error}); expected a list of objects; correct the cell") from None


def turns_in(value: Any) -> Sequence[Any]:
    """The list of turns that stands in a column where a text might as well, also as JSON text; else nothing."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = strict_json.parse(value)
        except ValueError:
            return ()
    turns = value if isinstance(value, list) else []
    return turns if all(isinstance(t, dict) and _keys(t) is not None for t in turns) else ()


def chat(turns: Any, *, wanted: str = "'role' and 'content'") -> tuple[Message, ...]:
    """The messages of a list of turns, each written as by OpenAI or by ShareGPT."""
    wanted = f"expected a list of objects with {wanted}"
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"no turns, found {reprlib.repr(turns)}; {wanted}; write the conversation or delete the row")
    messages: list[Message] = []
    for number, turn in enumerate(turns, start=1):
        keys = _keys(turn) if isinstance(turn, dict) else None
        if keys is None:
            raise ValueError(f"turn {number} is {reprlib.repr(turn)}; {wanted}; correct the turn")
        messages.append(_turn(turn, *keys, where=f"turn {number}"))
    return tuple(messages)


def converse(turns: Any) -> tuple[Message, ...]:
    """The messages of a Bedrock Converse conversation; a tool's results become turns of the tool."""
    wanted = "expected a list of objects with 'role' and 'content', a list of blocks"
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"no turns, found {reprlib.repr(turns)}; {wanted}; write the conversation or delete the row")
    messages: list[Message] = []
    for number, turn in enumerate(turns, start=1):
        blocks = turn.get("content") if isinstance(turn, dict) else None
        if not isinstance(blocks, list) or not all(isinstance(b, dict) for b in blocks):
            raise ValueError(f"turn {number} is {reprlib.repr(turn)}; {wanted}; correct the turn")
        if turn.get("role") not in ("user", "assistant"):
            found = f"turn {number} has role {reprlib.repr(turn.get('role'))}"
            raise ValueError(f"{found}; expected user or assistant; rename it")
        messages += _blocks(turn["role"], [_filled(b) for b in blocks], f"turn {number}")
    return tuple(messages)


def transcript(text: str) -> tuple[Message, ...]:
    """The messages of a text such as "\\n\\nHuman: ...\\n\\nAssistant: ..."; none when it is not one."""
    marks = list(SPEAKER_MARK.finditer(text))
    if not marks or text[: marks[0].start()].strip():
        return ()
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    roles = {"Human": "user", "Assistant": "assistant"}
    said = ((roles[m[1]], text[m.end() : end].strip()) for m, end in zip(marks, ends, strict=True))
    return tuple(Message(role=role, content=content) for role, content in said)


def described_tools(value: Any) -> str:
    """A list of function descriptions as compact JSON, each as {"type": "function", "function": {...}}."""
    tools = listed(value, "tools")
    if tools is None or tools == "" or tools == []:
        return ""
    wanted = 'expected a list such as [{"type": "function", "function": {"name": "..."}}]; correct the column'
    if not isinstance(tools, list):
        raise ValueError(f"tools are {reprlib.repr(tools)}; {wanted}, or rename it if it means something else")
    described: list[Any] = []
    for number, tool in enumerate(tools, start=1):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ValueError(f"tool {number} is {reprlib.repr(tool)}; {wanted}")
        described.append(tool if "function" in tool else {"type": "function", "function": tool})
    return written(described)


def converse_tools(value: Any) -> str:
    """The tools of Bedrock's `toolConfig`, as `described_tools` writes them."""
    config = _object(listed(value, "toolConfig") or {}, "toolConfig")
    renamed: list[Mapping[str, Any]] = []
    for tool in config.get("tools") or []:
        spec = _object(_filled(_object(tool, "toolConfig.tools")).get("toolSpec"), "toolConfig.tools.toolSpec")
        schema = _object(spec.get("inputSchema") or {}, "toolConfig.tools.toolSpec.inputSchema")
        function = {key: value for key, value in spec.items() if key != "inputSchema" and value is not None}
        renamed.append(function | {"parameters": schema.get("json") or {}})
    return described_tools(renamed)


def answered(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Refuses a conversation nothing can be learnt from."""
    last = messages[-1].role
    if last != "assistant":
        raise ValueError(f"no answer, the last turn is the {last}'s; expected the assistant's last; {REMEDY}")
    for number, message in enumerate(messages, start=1):
        if message.role == "assistant" and not message.content.strip() and not message.tool_calls:
            raise ValueError(f"an empty answer in turn {number}; expected text; {REMEDY}")
    if all(m.role == "assistant" for m in messages):
        raise ValueError(f"no prompt, only the assistant speaks; expected a user's turn first; {REMEDY}")
    return messages


def _keys(turn: Mapping[str, Any]) -> tuple[str, str] | None:
    """The names of the fields for who speaks and what; a file may mix OpenAI's and ShareGPT's."""
    if turn.get("role") is not None and ("content" in turn or "tool_calls" in turn or "function_call" in turn):
        return ("role", "content")
    return ("from", "value") if turn.get("from") is not None and "value" in turn else None


def _turn(turn: Mapping[str, Any], role: str, content: str, *, where: str) -> Message:
    own = turn[role]
    name = SPEAKERS.get(str(own).lower(), own) if role == "from" or own == "function" else own
    if name not in ROLES:
        roles = ", ".join(ROLES)
        raise ValueError(f"{where} has {role} {reprlib.repr(own)}; expected one of {roles}; rename it")
    if turn.get("weight") not in (None, 1):
        found = f"{where} has weight {reprlib.repr(turn['weight'])}"
        raise ValueError(f"{found}; expected turns that all count; remove it, or write train_on: last in the recipe")
    if own == "function_call":
        return Message(role="assistant", content="", tool_calls=_calls(listed(turn[content], where), where))
    calls = _calls(turn.get("tool_calls") or turn.get("function_call"), where)
    if calls and name != "assistant":
        raise ValueError(f"{where} is the {name}'s and calls tools; expected the assistant's; correct the role")
    said = _said(turn.get(content), name, f"{where} has {content}", empty=bool(calls))
    if name == "assistant":
        return Message(role=name, content=said, reasoning=_reasoning(turn, where), tool_calls=calls)
    tool = name == "tool"
    called, tool_name = (written(turn.get(key)) if tool else "" for key in ("tool_call_id", "name"))
    return Message(role=name, content=said, tool_call_id=called, name=tool_name)


def _said(value: Any, role: str, where: str, *, empty: bool) -> str:
    if value is None and empty:
        return ""
    if isinstance(value, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in value):
        return "".join(str(part.get("text", "")) for part in value)
    if role == "tool" and value is not None:  # what a tool returns may be any value
        return written(value)
    if isinstance(value, str):
        return value
    remedy = "write text or delete the row"
    if isinstance(value, list) and value and all(isinstance(p, dict) and "type" not in p for p in value):
        remedy = 'for Bedrock Converse add the column "schemaVersion": "bedrock-conversation-2024"'
    raise ValueError(f"{where} {reprlib.repr(value)}; expected text (no images); {remedy}")


def _reasoning(turn: Mapping[str, Any], where: str) -> str:
    for key in REASONING:
        value = turn.get(key)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{where} has {key} {reprlib.repr(value)}; expected text; write text or remove it")
        if value and value.strip():
            return value
    return ""


def _calls(value: Any, where: str) -> tuple[ToolCall, ...]:
    if value is None:
        return ()
    calls = value if isinstance(value, list) else [value]
    return tuple(_call(call, f"{where}, call {number}") for number, call in enumerate(calls, start=1))


def _call(call: Any, where: str) -> ToolCall:
    function = call.get("function") or call if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        wanted = 'expected {"name": "...", "arguments": {...}}'
        raise ValueError(f"{where} is {reprlib.repr(call)}; {wanted}; correct the call")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = strict_json.parse(arguments or "{}")
        except ValueError as error:
            found = f"{where} has arguments {reprlib.repr(function['arguments'])} ({error})"
            raise ValueError(f"{found}; expected a JSON object; correct the arguments") from None
    if not isinstance(arguments, dict | None):
        raise ValueError(f"{where} has arguments {reprlib.repr(arguments)}; expected a JSON object; correct them")
    return ToolCall(name=function["name"], arguments=written(arguments or {}), id=written(call.get("id")))


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if isinstance(value, dict):
        return value
    raise ValueError(f"{where} is {reprlib.repr(value)}; expected an object; correct the row")


def _filled(block: Mapping[str, Any]) -> Mapping[str, Any]:
    """The block without nulls, which columnar files write for every kind of block that it is not."""
    return {key: value for key, value in block.items() if value is not None}


def _blocks(role: str, blocks: Sequence[Mapping[str, Any]], where: str) -> list[Message]:
    """One Converse turn: results of tools first, then what the role says."""
    known = {"text", "reasoningContent", "toolUse", "toolResult"}
    for block in blocks:
        if len(block) != 1 or not known & set(block):
            found = f"{where} has the block {reprlib.repr(block)}"
            raise ValueError(f"{found}; expected one of {', '.join(sorted(known))} (no images); delete the row")
    text = "".join(written(b["text"]) for b in blocks if "text" in b)
    results = [_result(_object(b["toolResult"], f"{where}, toolResult")) for b in blocks if "toolResult" in b]
    calls = [_object(b["toolUse"], f"{where}, toolUse") for b in blocks if "toolUse" in b]
    if role == "user":
        if calls:
            raise ValueError(f"{where} is the user's and has toolUse; expected the assistant's; correct the role")
        return results + ([Message(role="user", content=text)] if text or not results else [])
    if results:
        raise ValueError(f"{where} is the assistant's and has toolResult; expected the user's; correct the role")
    message = Message(role="assistant", content=text, reasoning=_thought(blocks, where))
    made = [{"id": c.get("toolUseId"), "name": c.get("name"), "arguments": c.get("input")} for c in calls]
    return [replace(message, tool_calls=_calls(made, where))]


def _thought(blocks: Sequence[Mapping[str, Any]], where: str) -> str:
    contents = [_object(b["reasoningContent"], f"{where}, reasoningContent") for b in blocks if "reasoningContent" in b]
    texts = [_object(c.get("reasoningText") or {}, f"{where}, reasoningText").get("text") for c in contents]
    return "".join(written(text) for text in texts)


def _result(result: Mapping[str, Any]) -> Message:
    parts = [_filled(_object(part, "toolResult.content")) for part in result.get("content") or []]
    said = "".join(written(part.get("text", part.get("json"))) for part in parts)
    return Message(role="tool", content=said, tool_call_id=written(result.get("toolUseId")))
