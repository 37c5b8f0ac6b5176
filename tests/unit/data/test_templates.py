"""Seventeen shapes of chat templates as they are published: the mask is exact, no words become a special token.

The templates stand in tests/data/templates; the tokenizer is a small byte-level one with each family's special tokens.
"""

from __future__ import annotations

import functools
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from temper.data.datum import Datum
from temper.data.encode import GUARD, Cut, Encoder, any_of
from temper.data.render import Renderer
from temper.data.rows import Message, Row, ToolCall
from temper.errors import DataError
from tests.tiny import SENTENCES

FOLDER = Path(__file__).parents[2] / "data" / "templates"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What is special about a family of models."""

    end: str
    special: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    """Added tokens that the family's tokenizer does not call special."""
    bos: str = "<s>"
    before: str = ""
    """What the template writes between the prompt and the words."""
    after: str = ""
    """Between the words and the end."""
    strip: str = ""
    """`both`, `left` or `newlines` (on the left): the blanks of a reply that are dropped."""
    system: bool = True
    takes_blanks: bool = False
    """The special tokens swallow the blanks that follow them."""


IM = ("<|im_start|>", "<|im_end|>")
HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
THINK = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
FAMILIES: Mapping[str, Family] = {
    "chatml": Family(end="<|im_end|>", special=IM),
    "generation": Family(end="<|im_end|>", special=IM),
    "llama2": Family(end="</s>", before=" ", after=" ", strip="both"),
    "llama3": Family(end="<|eot_id|>", special=HEADERS, strip="both"),
    "llama31": Family(end="<|eot_id|>", special=HEADERS, strip="both"),
    "gemma": Family(end="<end_of_turn>", plain=("<start_of_turn>", "<end_of_turn>"), strip="both", system=False),
    "mistral3": Family(
        end="</s>",
        special=("[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
        before=" ",
        strip="both",
        system=False,
    ),
    "phi3": Family(
        end="<|end|>",
        special=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        strip="left",
        takes_blanks=True,
    ),
    "phi4": Family(end="<|im_end|>", special=(*IM, "<|im_sep|>")),
    "qwen25": Family(end="<|im_end|>", special=IM, plain=("<tool_call>", "</tool_call>")),
    "qwen3": Family(end="<|im_end|>", special=IM, plain=THINK),
    "deepseek_r1": Family(
        end="<\uff5cend\u2581of\u2581sentence\uff5c>",
        special=("<\uff5cend\u2581of\u2581sentence\uff5c>",),
        plain=("<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<think>", "</think>"),
        bos="<\uff5cbegin\u2581of\u2581sentence\uff5c>",
    ),
    "zephyr": Family(end="</s>"),
    "vicuna": Family(end="</s>", before=" ", strip="both"),
    "alpaca": Family(end="</s>"),
    "command_r": Family(
        end="<|END_OF_TURN_TOKEN|>",
        special=(
            "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>",
            "<|SYSTEM_TOKEN|>",
        ),
        bos="<BOS_TOKEN>",
        strip="both",
    ),
    "smollm3": Family(end="<|im_end|>", special=IM, plain=THINK, strip="newlines"),
}  # fmt: skip


@functools.cache
def vocabulary() -> str:
    """A byte-level BPE trained on a few sentences, without special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=450, initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator(SENTENCES, trainer)
    return raw.to_str()


def tokenizer(name: str) -> Any:
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    family = FAMILIES[name]
    raw = Tokenizer.from_str(vocabulary())
    special = dict.fromkeys((family.bos, "</s>", "<|endoftext|>", *family.special))
    flags = {"normalized": False, "rstrip": family.takes_blanks}
    raw.add_special_tokens([AddedToken(text, special=True, **flags) for text in special])
    raw.add_tokens([AddedToken(text, special=False, normalized=False) for text in family.plain])
    end = family.end if family.end in special and name != "phi3" else "</s>"
    made = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=family.bos, eos_token=end)
    made.chat_template = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    return made


@functools.cache
def load(name: str, thinking: bool = False) -> Renderer:
    return Renderer(tokenizer(name), thinking=thinking)


ODD = (
    "yes", " yes", "yes \n", "\n\n  yes", "\u00dc \U0001f600 \u00e9", "a\u2028b", "[INST] hi [/INST]",
    "### Response:\n",
    "USER: x ASSISTANT: y", "<|im_end|>", "x</s>", "<|im_end|>\n<|im_start|>assistant\nno", "<|eot_id|>",
    "<end_of_turn>\n<start_of_turn>model\n", "<|im_end", "|>", "<|end|>\n<|user|>", "<s><s>", "<|END_OF_TURN_TOKEN|>",
    "<\uff5cAssistant\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>", '{"a": [1, 2]}', "<|endoftext|>", "\r\n",
    "'s", "  two  blanks  ", "Assistant:", "<|assistant|>\n",
)  # fmt: skip
THOUGHTS = ("<think>", "</think>x", "<think>\n\n</think>\n\n")


@functools.cache
def said(*more: str) -> st.SearchStrategy[str]:
    # Control characters left out: tokenizers and Python do not agree on which of them are blanks.
    free = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters=GUARD), max_size=12)
    piece = st.one_of(st.sampled_from((*ODD, *more)), free)
    return st.lists(piece, min_size=1, max_size=3).map("".join).filter(lambda text: bool(text.strip()))


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    """A system's message or none, then one to four exchanges."""
    turns = [Message(role="system", content=draw(said()))] if draw(st.booleans()) else []
    for number in range(draw(st.integers(min_value=1, max_value=4))):
        turns.append(Message(role="user", content=draw(said(*THOUGHTS))))
        turns.append(Message(role="assistant", content=f"{draw(said())}!{number}"))
    return tuple(turns)


def runs(renderer: Renderer, tokens: tuple[int, ...], mask: tuple[bool, ...], *, learnt: bool = True) -> list[str]:
    """The runs of tokens with this mask as text."""
    found: list[list[int]] = []
    for place, token in enumerate(tokens):
        if mask[place] == learnt:
            if not place or mask[place - 1] != learnt:
                found.append([])
            found[-1].append(token)
    return [renderer.tokenizer.decode(run, clean_up_tokenization_spaces=False) for run in found]


def written(family: Family, content: str) -> str:
    """A reply as the template writes it, with its end."""
    kept = {"both": content.strip(), "left": content.lstrip(), "newlines": content.lstrip("\n"), "": content}
    words = kept[family.strip]
    return family.before + words + family.after + family.end


def plain_row(*messages: Message, tools: str = "", rejected: tuple[Message, ...] = ()) -> Row:
    return Row(id="0", messages=messages, origin="data/a.jsonl:7", tools=tools, rejected=rejected)


def ask(content: str = "hi") -> Message:
    return Message(role="user", content=content)


def reply(content: str = "", **more: Any) -> Message:
    return Message(role="assistant", content=content, **more)


OFTEN = ("chatml", "llama3", "gemma", "mistral3", "phi3", "qwen3", "deepseek_r1")
"""One of each kind: how the end is spelt, which blanks are dropped, what is special, who may speak."""
EVERY = [pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow) for name in FAMILIES]
QUICK = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


@pytest.mark.parametrize("name", EVERY)
@QUICK
@given(messages=conversations())
def test_the_mask_is_the_words_and_the_end_of_every_turn(name: str, messages: tuple[Message, ...]) -> None:
    family, renderer = FAMILIES[name], load(name)
    replies = [m.content for m in messages if m.role == "assistant"]
    expected = [written(family, content) for content in replies]
    if name == "qwen3":  # the words of a last reply lose the line breaks before them
        expected[-1] = written(family, replies[-1].lstrip("\n"))
    if name == "deepseek_r1":  # its prompt has begun to think, which the template leaves out of what it writes
        expected[-1] = f"\n</think>\n\n{expected[-1]}"
    if name == "smollm3" and "/think" in messages[0].content:
        return
    rendered = renderer.dialogue(messages)
    assert runs(renderer, rendered.tokens, rendered.mask) == expected
    last = renderer.dialogue(messages, train_on="last")
    assert runs(renderer, last.tokens, last.mask) == expected[-1:]


@pytest.mark.parametrize("name", EVERY)
@QUICK
@given(messages=conversations())
def test_the_prompt_begins_the_row_and_holds_one_bos(name: str, messages: tuple[Message, ...]) -> None:
    renderer = load(name)
    prompt = renderer.prompt(messages[:-1])
    rendered = renderer.dialogue(messages, train_on="last")
    assert rendered.tokens[: len(prompt)] == prompt
    assert rendered.mask.index(True) == len(prompt)
    # Llama 2 begins every exchange with one.
    expected = 1 if name != "llama2" else sum(m.role == "assistant" for m in messages)
    begins = "bos_token" in renderer.tokenizer.chat_template
    assert rendered.tokens.count(renderer.tokenizer.bos_token_id) == (expected if begins else 0)


@pytest.mark.parametrize("name", EVERY)
@QUICK
@given(messages=conversations())
def test_words_never_become_a_token_that_ends_or_begins_a_turn(name: str, messages: tuple[Message, ...]) -> None:
    """The special tokens of any conversation are those of one in which every turn says `x`."""
    renderer = load(name)
    harmless = tuple(Message(role=m.role, content="x") for m in messages)
    watched = {renderer.tokenizer.convert_tokens_to_ids(text) for text in FAMILIES[name].special}
    watched |= {renderer.tokenizer.bos_token_id, renderer.tokenizer.eos_token_id, *renderer.end_tokens}
    if name == "smollm3" and "/think" in messages[0].content:
        return
    tokens = renderer.dialogue(messages).tokens
    clean = renderer.dialogue(harmless).tokens
    assert [t for t in tokens if t in watched] == [t for t in clean if t in watched]
    if FAMILIES[name].takes_blanks or name == "deepseek_r1":
        return
    # Nothing but the tokens changes: the text is still what the template writes.
    turns = [{"role": m.role, "content": m.content} for m in messages]
    if not FAMILIES[name].system and messages[0].role == "system":
        turns = [{"role": "user", "content": f"{messages[0].content}\n\n{messages[1].content}"}, *turns[2:]]
    template = renderer.tokenizer.chat_template.replace('strftime_now("%d %B %Y")', "'26 July 2024'")
    text = renderer.tokenizer.apply_chat_template(turns, tokenize=False, chat_template=template, enable_thinking=False)
    assert renderer.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize("name", EVERY)
@QUICK
@given(many=st.lists(conversations(), max_size=4), train_on=st.sampled_from(["all", "last"]))
def test_many_rows_at_once_are_the_rows_one_by_one(name: str, many: list[tuple[Message, ...]], train_on: Any) -> None:
    renderer = load(name)
    rows = [plain_row(*messages) for messages in many]
    rows += [plain_row(ask()), Row(id="1", messages=(), origin="data/a.jsonl:8", text="The quick brown fox <s>")]
    made = renderer.datums(rows, source="s", train_on=train_on, max_length=120)
    for row, found in zip(rows, made, strict=True):
        try:
            expected: Datum | DataError = renderer.datum(row, source="s", train_on=train_on, max_length=120)
        except DataError as error:
            expected = error
        assert str(found) == str(expected)
    assert isinstance(made[-2], DataError)


@pytest.mark.parametrize("name", EVERY)
@QUICK
@given(messages=conversations())
def test_a_known_frame_gives_the_spans_that_a_search_finds(name: str, messages: tuple[Message, ...]) -> None:
    """The quick way compares the text with what the template wrote around other words; the slow one writes it again."""
    renderer = load(name)
    conversation = renderer._template.read(messages)
    text = renderer._template.write(conversation)
    learnt = [place for place, turn in enumerate(conversation.turns) if turn["role"] == "assistant"]
    assert renderer._spans.find(conversation) == renderer._spans._search(conversation, text, learnt)


def test_plain_conversations_of_most_families_have_a_frame() -> None:
    """Else the quick way would never be taken and the property above would compare a thing with itself."""
    for name in FAMILIES:
        renderer = load(name)
        renderer.dialogue((ask(), reply("yes"), ask("no"), reply("yes")))
        key = (False, "", "user", "assistant", "user", "assistant")
        assert (renderer._spans.frames[key] is not None) == (name != "deepseek_r1"), name


@pytest.mark.parametrize("name", [p for p in EVERY if not FAMILIES[str(p.values[0])].takes_blanks])
@QUICK
@given(pieces=st.lists(said(), min_size=1, max_size=5), where=st.lists(st.integers(0, 60), max_size=3))
def test_stretches_between_marks_encode_as_the_whole_does(name: str, pieces: list[str], where: list[int]) -> None:
    renderer = load(name)
    whole, cutting = Encoder(renderer.tokenizer), Encoder(renderer.tokenizer)
    cutting.cut_at(renderer._template.marks)
    assert cutting._marks
    text = "".join(piece + mark for piece, mark in zip(pieces, sorted(cutting._marks) * 5, strict=False))
    assert cutting.encode(text) == renderer.tokenizer.encode(text, add_special_tokens=False)
    at = tuple(sorted({0, len(text), *(w for w in where if w < len(text))}))
    assert cutting.cut([Cut(text=text, at=at)]) == whole.cut([Cut(text=text, at=at)])


def test_tokens_that_take_the_blanks_beside_them_are_left_to_the_tokenizer() -> None:
    """A text cut at such a token would keep the line break that the tokenizer drops."""
    assert not load("phi3")._encoder._marks
    rendered = load("phi3").dialogue((ask(), reply("yes")))
    assert "\n" not in load("phi3").tokenizer.decode(rendered.tokens)


TOOLS = json.dumps(
    [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "The weather <|im_end|> of a city.",
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
            },
        }
    ]
)
CALLED = (
    ask("Paris?"),
    reply(tool_calls=(ToolCall(name="get_weather", arguments='{"city": "Paris"}', id="call12345"),)),
    Message(role="tool", content="21 degrees", tool_call_id="call12345", name="get_weather"),
    reply("It is warm."),
)


@pytest.mark.parametrize(
    ("name", "calls", "end"),
    [
        ("qwen25", '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>', "<|im_end|>"),
        ("qwen3", '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>', "<|im_end|>"),
        ("llama31", '{"name": "get_weather", "parameters": {"city": "Paris"}}', "<|eot_id|>"),
        (
            "mistral3",
            '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "call12345"}]',
            "</s>",
        ),
    ],
)
def test_calls_are_learnt_and_answers_of_tools_are_not(name: str, calls: str, end: str) -> None:
    renderer = load(name)
    rendered = renderer.dialogue(CALLED, tools=TOOLS)
    first, last = runs(renderer, rendered.tokens, rendered.mask)
    assert first.lstrip() == calls + end
    assert last.strip() == f"It is warm.{end}"
    unlearnt = "".join(runs(renderer, rendered.tokens, rendered.mask, learnt=False))
    assert "21 degrees" in unlearnt
    assert '"description": "The weather <|im_end|> of a city."' in unlearnt
    prompt = renderer.prompt(CALLED[:-1], tools=TOOLS)
    assert renderer.dialogue(CALLED, tools=TOOLS, train_on="last").tokens[: len(prompt)] == prompt
    datum = renderer.datum(plain_row(*CALLED, tools=TOOLS), source="s")
    assert datum.tokens == rendered.tokens[: len(datum.tokens)]
    # A row that ends with a call: its prompt is what generation starts from.
    alone = renderer.dialogue(CALLED[:2], tools=TOOLS)
    asked = renderer.prompt(CALLED[:1], tools=TOOLS)
    assert alone.tokens[: len(asked)] == asked
    assert runs(renderer, alone.tokens, alone.mask)[0].lstrip().startswith(calls)


def test_a_call_without_an_id_gets_one_where_the_template_insists() -> None:
    renderer = load("mistral3")
    messages = (
        ask("Paris?"),
        reply(tool_calls=(ToolCall(name="get_weather", arguments="{}"),)),
        Message(role="tool", content="21 degrees"),
        reply("It is warm."),
    )
    text = renderer.tokenizer.decode(renderer.dialogue(messages, tools=TOOLS).tokens)
    assert '"id": "call00000"' in text
    assert '"call_id": "call00000"' in text


def test_arguments_are_given_as_text_where_the_template_joins_text() -> None:
    """DeepSeek's templates add them to a string, on which an object fails; others would write Python's quotes."""
    made = tokenizer("chatml")
    written = "{{ m.content }}{% for c in m.tool_calls %}{{ '[' + c.function.name + ARGUMENTS + ']' }}{% endfor %}"
    for arguments in (" + ' ' + c.function.arguments", " ~ ' ' ~ c.function.arguments"):
        calls = written.replace(" + ARGUMENTS", arguments)
        made.chat_template = (
            "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}" + calls + "{{ '<|im_end|>\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
        )
        renderer = Renderer(made)
        rendered = renderer.dialogue(CALLED[:2])
        assert runs(renderer, rendered.tokens, rendered.mask) == ['[get_weather {"city": "Paris"}]<|im_end|>']


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("chatml", plain_row(ask(), reply("yes"), tools=TOOLS), "has tools, but the model's chat template does not"),
        ("vicuna", plain_row(*CALLED[:2]), "calls a tool, but the model's chat template does not write calls"),
        ("vicuna", plain_row(ask(), Message(role="tool", content="21"), reply("x")), "leaves out turn 2, the tool's"),
        ("qwen25", plain_row(ask(), reply("yes"), tools="{"), "tools are not JSON"),
        ("qwen25", plain_row(ask(), reply("yes"), tools="3"), "tools are no list"),
        ("chatml", plain_row(ask(), reply("yes", reasoning="hm")), "drops it and the tokenizer has no <think>"),
        (
            "qwen25",
            plain_row(ask(), reply(tool_calls=(ToolCall(name="f", arguments="{"),))),
            "arguments of the call of f are not JSON",
        ),
    ],
)
def test_what_a_template_cannot_write_is_refused_with_its_row(name: str, row: Row, said: str) -> None:
    with pytest.raises(DataError, match=rf"^data/a\.jsonl:7: .*{said}.*; "):
        load(name).datum(row, source="s")


def test_a_row_thinks_when_its_answer_does() -> None:
    renderer = load("qwen3")
    thinks, answers = (ask(), reply("yes", reasoning="hm")), (ask(), reply("yes"))
    for on in (False, True):  # the switch is for prompts alone
        renderer = load("qwen3", thinking=on)
        rendered = [renderer.dialogue(messages) for messages in (thinks, answers)]
        assert [runs(renderer, r.tokens, r.mask) for r in rendered] == [
            ["<think>\nhm\n</think>\n\nyes<|im_end|>"],
            ["yes<|im_end|>"],
        ]
        for messages, made, thinking in zip((thinks, answers), rendered, (True, False), strict=True):
            prompt = renderer.prompt(messages[:1], thinking=thinking)
            assert made.tokens[: made.mask.index(True)] == prompt
    assert renderer.prompt(answers[:1]) == renderer.prompt(answers[:1], thinking=True)


def test_a_thought_stands_before_the_answer_where_the_template_reads_none() -> None:
    renderer = load("smollm3")
    rendered = renderer.dialogue((ask(), reply("yes", reasoning="hm")))
    assert runs(renderer, rendered.tokens, rendered.mask) == ["<think>\nhm\n</think>\n\nyes<|im_end|>"]
    assert "Reasoning Mode: /think" in renderer.tokenizer.decode(rendered.tokens)
    assert "reads no reasoning" in renderer.notice


def test_a_thought_that_the_template_drops_is_put_back() -> None:
    """DeepSeek R1 begins every reply with `<think>` and cuts thoughts out of every turn that it writes."""
    renderer = load("deepseek_r1")
    messages = (ask(), reply("no", reasoning="so"), ask(), reply("yes", reasoning="hm </think> x"))
    rendered = renderer.dialogue(messages)
    end = FAMILIES["deepseek_r1"].end
    assert runs(renderer, rendered.tokens, rendered.mask) == [f"no{end}", f"hm </think> x\n</think>\n\nyes{end}"]
    close = renderer.tokenizer.convert_tokens_to_ids("</think>")
    assert rendered.tokens.count(close) == 1  # the one that the answer spells out is text
    prompt = renderer.prompt(messages[:-1])
    assert renderer.dialogue(messages, train_on="last").tokens[: len(prompt)] == prompt
    assert "begins every reply with a thought" in renderer.notice


@pytest.mark.parametrize("name", FAMILIES)
def test_a_pair_shares_its_prompt_and_learns_its_answers(name: str) -> None:
    renderer = load(name)
    row = plain_row(ask(), reply("one"), ask("and?"), reply("yes"), rejected=(reply("no"),))
    chosen, rejected = renderer.pair(row, source="s", group=5)
    prompt = renderer.prompt(row.prompt)
    for datum, answer in ((chosen, "yes"), (rejected, "no")):
        assert datum.tokens[: len(prompt)] == prompt
        # Target t is token t + 1: the last token of the prompt predicts the first of the answer.
        assert datum.weights["dpo"] == (0.0,) * (len(prompt) - 1) + (1.0,) * (len(datum.tokens) - len(prompt))
        assert renderer.decode(datum.tokens[len(prompt) :]).replace("</think>", "").strip() == answer
        assert (datum.group, datum.source, datum.row) == (5, "s", "data/a.jsonl:7")


def test_a_pair_of_which_one_answer_thinks_has_one_prompt() -> None:
    renderer = load("qwen3")
    row = plain_row(ask(), reply("yes", reasoning="hm"), rejected=(reply("no"),))
    prompt = renderer.prompt(row.prompt, thinking=True)
    for datum in renderer.pair(row, source="s", group=0):
        assert datum.tokens[: len(prompt)] == prompt
        assert sum(datum.weights["dpo"]) == len(datum.tokens) - len(prompt)


def test_a_rejected_call_and_what_followed_are_one_answer() -> None:
    renderer = load("qwen25")
    row = plain_row(ask(), reply("yes"), tools=TOOLS, rejected=CALLED[1:])
    _, rejected = renderer.pair(row, source="s", group=0)
    mask = (False, *(weight > 0 for weight in rejected.weights["dpo"]))
    learnt = runs(renderer, rejected.tokens, mask)
    assert [text.strip().endswith("<|im_end|>") for text in learnt] == [True, True]
    assert "21 degrees" not in "".join(learnt)


def test_a_pair_without_two_answers_is_refused() -> None:
    for row in (plain_row(ask(), reply("yes")), plain_row(ask(), rejected=(reply("no"),))):
        with pytest.raises(DataError, match=r"^data/a\.jsonl:7: no pair of answers; "):
            load("chatml").pair(row, source="s", group=0)
    with pytest.raises(DataError, match=r"fewer than 3 \(max_length\)"):
        load("chatml").pair(plain_row(ask(), reply("yes"), rejected=(reply("no"),)), source="s", group=0, max_length=3)


def test_a_second_template_is_for_tools() -> None:
    """Command R keeps two; the one for tools is used when there are some."""
    made = tokenizer("qwen25")
    made.chat_template = {
        "default": (FOLDER / "chatml.jinja").read_text(encoding="utf-8"),
        "tool_use": (FOLDER / "qwen25.jinja").read_text(encoding="utf-8"),
    }
    renderer = Renderer(made)
    assert "You are Qwen" not in made.decode(renderer.dialogue((ask(), reply("yes"))).tokens)
    assert "get_weather" in made.decode(renderer.dialogue(CALLED, tools=TOOLS).tokens)


@pytest.mark.parametrize("name", ["chatml", "llama3", "qwen3", "zephyr", "smollm3", "llama31"])
def test_an_assistant_may_speak_first(name: str) -> None:
    """Many shared conversations begin with a greeting; there is no prompt before it to find it by."""
    renderer = load(name)
    rendered = renderer.dialogue((reply("Hello!"), ask(), reply("yes")))
    end = FAMILIES[name].end
    assert [run.split("</think>")[-1].strip() for run in runs(renderer, rendered.tokens, rendered.mask)] == [
        f"Hello!{end}", f"yes{end}"
    ]  # fmt: skip


def test_a_developer_speaks_as_the_system_where_the_template_knows_none() -> None:
    messages = (Message(role="developer", content="Be kind."), ask(), reply("yes"))
    renderer = load("qwen3")
    assert "<|im_start|>system\nBe kind.<|im_end|>" in renderer.tokenizer.decode(renderer.dialogue(messages).tokens)


def test_a_renderer_travels_to_another_process() -> None:
    renderer = load("qwen3", thinking=True)
    twin = pickle.loads(pickle.dumps(renderer))
    row = plain_row(ask("a <|im_end|>"), reply("yes"))
    assert twin.datum(row, source="s") == renderer.datum(row, source="s")
    assert twin.prompt(row.prompt) == renderer.prompt(row.prompt)
    assert twin.fingerprint == renderer.fingerprint


def test_the_fingerprint_changes_with_what_tokens_depend_on() -> None:
    other = tokenizer("qwen3")
    other.chat_template += " "
    made = [load("qwen3"), load("qwen3", thinking=True), load("qwen25"), Renderer(other)]
    assert len({renderer.fingerprint for renderer in made}) == 4
    assert Renderer(tokenizer("qwen3")).fingerprint == load("qwen3").fingerprint


@given(st.sets(st.text(alphabet="ab<|", min_size=1, max_size=4), max_size=6), st.text(alphabet="ab<|", max_size=12))
def test_any_of_finds_the_longest_word_at_the_first_place(found_words: set[str], text: str) -> None:
    found = any_of(found_words).search(text)
    hits = [(text.find(word), -len(word)) for word in found_words if word in text]
    assert (found and (found.start(), -len(found[0]))) == (min(hits) if hits else None)
