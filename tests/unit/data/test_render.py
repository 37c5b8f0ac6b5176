"""The mask is exactly the assistant's words and the end of the turn, whatever the chat template."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from temper.data.datum import Datum
from temper.data.render import Rendered, Renderer
from temper.data.rows import Message, Row
from temper.errors import CheckpointError, DataError
from tests.tiny import CHATML, GEMMA, LLAMA3, MISTRAL, PHI3, QWEN3, tiny_tokenizer

Load = Callable[..., Renderer]

TEMPLATES = {
    "chatml": CHATML, "llama3": LLAMA3, "gemma": GEMMA, "mistral": MISTRAL, "phi3": PHI3, "qwen3": QWEN3, "plain": "",
}  # fmt: skip
ADDS_BOS = ("llama3", "gemma", "mistral")


def chat(*said: str, system: str = "") -> list[Message]:
    """Turns of user and assistant in alternation."""
    roles = ("user", "assistant")
    turns = [Message(role=roles[i % 2], content=content) for i, content in enumerate(said)]
    return [Message(role="system", content=system), *turns] if system else turns


def row(*said: str, text: str = "", system: str = "") -> Row:
    return Row(id="0", messages=tuple(chat(*said, system=system)), origin="data/a.jsonl:12", text=text)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Renderers by the name of their template, each made once."""
    made: dict[str, Path] = {}

    def loaded(name: str, **knobs: bool) -> Renderer:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            made[name] = tiny_tokenizer(folder, TEMPLATES[name], adds_bos=name in ADDS_BOS)
        return Renderer.load(made[name], **knobs)

    return loaded


def learnt(renderer: Renderer, rendered: Rendered) -> list[str]:
    """The runs of tokens under the mask, as text with special tokens."""
    runs: list[list[int]] = []
    before = False
    for token, learn in zip(rendered.tokens, rendered.mask, strict=True):
        if learn and not before:
            runs.append([])
        if learn:
            runs[-1].append(token)
        before = learn
    return [renderer.tokenizer.decode(run) for run in runs]


def whole(renderer: Renderer, rendered: Rendered) -> str:
    return renderer.tokenizer.decode(list(rendered.tokens))


@pytest.mark.parametrize(
    ("name", "text", "runs"),
    [
        (
            "chatml",
            "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
            "<|im_start|>assistant\nyes no<|im_end|>\n<|im_start|>user\nParis?<|im_end|>\n"
            "<|im_start|>assistant\nhi<|im_end|>\n",
            ["yes no<|im_end|>", "hi<|im_end|>"],
        ),
        (
            "llama3",
            "<s><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nyes no<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nParis?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nhi<|eot_id|>",
            ["yes no<|eot_id|>", "hi<|eot_id|>"],
        ),
        (
            "gemma",
            "<s><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\nyes no<end_of_turn>\n"
            "<start_of_turn>user\nParis?<end_of_turn>\n<start_of_turn>model\nhi<end_of_turn>\n",
            ["yes no<end_of_turn>", "hi<end_of_turn>"],
        ),
        (
            "mistral",
            "<s>[INST] hi [/INST] yes no</s>[INST] Paris? [/INST] hi</s>",
            [" yes no</s>", " hi</s>"],
        ),
        (
            "phi3",
            "<|user|>\nhi<|end|>\n<|assistant|>\nyes no<|end|>\n"
            "<|user|>\nParis?<|end|>\n<|assistant|>\nhi<|end|>\n</s>",
            ["yes no<|end|>", "hi<|end|>"],
        ),
        (
            "qwen3",
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes no<|im_end|>\n"
            "<|im_start|>user\nParis?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nhi<|im_end|>\n",
            ["yes no<|im_end|>", "hi<|im_end|>"],
        ),
        ("plain", "User: hi\nAssistant: yes no</s>\nUser: Paris?\nAssistant: hi</s>\n", [" yes no</s>", " hi</s>"]),
    ],
)
def test_the_mask_covers_the_words_and_the_end_of_every_turn(load: Load, name: str, text: str, runs: list[str]) -> None:
    """The first answer is a word of the second question and of the prompt too: it is found by place, not by search."""
    renderer = load(name)
    rendered = renderer.dialogue(chat("hi", "yes no", "Paris?", "hi"))
    assert whole(renderer, rendered) == text
    assert learnt(renderer, rendered) == runs
    assert learnt(renderer, renderer.dialogue(chat("hi", "yes no", "Paris?", "hi"), train_on="last")) == runs[-1:]


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_learnt_follows_the_very_tokens_of_the_prompt(load: Load, name: str) -> None:
    renderer = load(name)
    for messages in (
        chat("hi", "\n\n  yes"),
        chat("hi", "no", "Paris?", '{"intent": "x", "n": 21}'),
        chat("Ü", "😀 é "),
    ):
        prompt = renderer.prompt(messages[:-1])
        rendered = renderer.dialogue(messages, train_on="last")
        assert rendered.tokens[: len(prompt)] == prompt
        assert rendered.mask.index(True) == len(prompt)
        assert renderer.decode([t for t, m in zip(rendered.tokens, rendered.mask, strict=True) if m]).strip() == (
            messages[-1].content.strip()
        )


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_last_token_learnt_ends_a_reply(load: Load, name: str) -> None:
    renderer = load(name)
    datum = renderer.datum(row("hi", "yes"), source="s")
    assert datum.tokens[-1] == renderer.end_tokens[0]
    assert datum.weights["ce"][-1] == 1.0
    assert renderer.decode(renderer.end_tokens) == ""


@pytest.mark.parametrize("name", TEMPLATES)
def test_there_is_one_bos_token_at_most(load: Load, name: str) -> None:
    renderer = load(name)
    bos = renderer.tokenizer.bos_token_id
    expected = 1 if name in ADDS_BOS else 0
    assert renderer.dialogue(chat("hi", "yes", "no", "yes")).tokens.count(bos) == expected
    assert renderer.prompt(chat("hi")).count(bos) == expected
    assert renderer.text("hi").count(bos) == expected
    assert renderer.text("<s>hi").count(bos) == 1


def test_the_plain_template_begins_as_the_tokenizer_does(tmp_path: Path) -> None:
    renderer = Renderer.load(tiny_tokenizer(tmp_path, "", adds_bos=True))
    assert whole(renderer, renderer.dialogue(chat("hi", "yes", system="Be kind."))) == (
        "<s>Be kind.\n\nUser: hi\nAssistant: yes</s>\n"
    )
    assert renderer.template == "plain"
    assert "no chat template" in renderer.notice


def test_a_system_message_the_template_refuses_is_put_before_the_first_question(load: Load) -> None:
    renderer = load("gemma")
    assert renderer.tokenizer.decode(list(renderer.prompt(chat("hi", system="Be kind.")))) == (
        "<s><start_of_turn>user\nBe kind.\n\nhi<end_of_turn>\n<start_of_turn>model\n"
    )
    assert "takes no system message" in renderer.notice
    assert load("chatml").notice == ""


def test_a_thought_is_learnt_in_the_last_turn_and_gone_from_earlier_ones(load: Load) -> None:
    renderer = load("qwen3")
    messages = chat("hi", "<think>hm</think>yes", "Paris?", "<think>so</think>no")
    rendered = renderer.dialogue(messages)
    assert learnt(renderer, rendered) == ["yes<|im_end|>", "<think>\nso\n</think>\n\nno<|im_end|>"]


def test_the_switch_for_thinking_is_off_unless_wanted(load: Load) -> None:
    off, on = load("qwen3"), load("qwen3", thinking=True)
    assert off.tokenizer.decode(list(off.prompt(chat("hi")))).endswith("assistant\n<think>\n\n</think>\n\n")
    assert on.tokenizer.decode(list(on.prompt(chat("hi")))).endswith("assistant\n")
    # A row's own answer decides for the row: without a thought the switch is off, whatever prompts are given.
    assert learnt(on, on.dialogue(chat("hi", "yes"))) == ["yes<|im_end|>"]
    assert off.notice.endswith("it is off")
    assert on.notice.endswith("it is on")


def test_the_date_of_a_template_does_not_depend_on_the_day(load: Load) -> None:
    renderer = load("llama3")
    assert "Today Date: 26 Jul 2024" in renderer.tokenizer.decode(list(renderer.prompt(chat("hi", system="Be kind."))))


def test_a_template_that_asks_for_the_time_gets_the_same_day_too(tmp_path: Path) -> None:
    renderer = Renderer.load(tiny_tokenizer(tmp_path, "{{ strftime_now('%d %B %Y') }}" + PHI3))
    assert renderer.tokenizer.decode(list(renderer.prompt(chat("hi")))).startswith("26 July 2024")


def test_words_that_carry_their_space_get_none_at_the_seams(tmp_path: Path) -> None:
    """SentencePiece puts a space before a beginning; a reply tokenised on its own must not begin with one."""
    renderer = Renderer.load(tiny_tokenizer(tmp_path, GEMMA, adds_bos=True, metaspace=True))
    assert renderer.tokenizer.encode("Paris", add_special_tokens=False)[0] == renderer.tokenizer.encode(" Paris")[1]
    rendered = renderer.dialogue(chat("yes", "Paris", "no", "yes"))
    natural = renderer.tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in chat("yes", "Paris", "no", "yes")], tokenize=False
    )
    assert list(rendered.tokens) == renderer.tokenizer.encode(natural, add_special_tokens=False)
    assert learnt(renderer, rendered) == ["Paris<end_of_turn>", "yes<end_of_turn>"]


def test_a_token_across_the_seam_is_split_there(tmp_path: Path) -> None:
    """`Turn` is one token; with `T` in the prompt, `urn` must follow it without the space of a beginning."""
    template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] + ' T' }}{% else %}"
        "{{ m['content'] + '</s>' }}{% endif %}{% endfor %}"
    )
    renderer = Renderer.load(tiny_tokenizer(tmp_path, template, metaspace=True))
    assert len(renderer.tokenizer.encode(" Turn")) == 1
    prompt = renderer.prompt(chat("yes"))
    rendered = renderer.dialogue(chat("yes", "urn"))
    assert rendered.tokens[: len(prompt)] == prompt
    assert "".join(renderer.tokenizer.convert_ids_to_tokens(rendered.tokens[len(prompt) :])) == "urn</s>"


def test_a_datum_weighs_targets(load: Load) -> None:
    renderer = load("mistral")
    datum = renderer.datum(row("hi", "yes"), source="tickets", term="ce")
    prompt = renderer.prompt(chat("hi"))
    # Target t is token t + 1: the last token of the prompt predicts the first one learnt.
    assert datum.weights["ce"] == (0.0,) * (len(prompt) - 1) + (1.0,) * (len(datum.tokens) - len(prompt))
    assert (datum.source, datum.row) == ("tickets", "data/a.jsonl:12")


def test_a_datum_ends_with_what_is_learnt(load: Load) -> None:
    renderer = load("chatml")
    assert renderer.tokenizer.decode(list(renderer.datum(row("hi", "yes"), source="s").tokens)).endswith(
        "yes<|im_end|>"
    )


def test_every_token_of_plain_text_is_learnt_and_so_is_its_end(load: Load) -> None:
    renderer = load("llama3")
    datum = renderer.datum(row(text="The quick brown fox"), source="manual", term="lm")
    assert renderer.tokenizer.decode(list(datum.tokens)) == "<s>The quick brown fox</s>"
    assert datum.weights == {"lm": (1.0,) * (len(datum.tokens) - 1)}


def test_a_document_ends_as_in_pre_training_and_not_with_the_end_of_a_turn(load: Load) -> None:
    """A chat model's end-of-sequence token ends turns; text that ended with it would teach to fall silent."""
    renderer = load("chatml")
    assert renderer.tokenizer.eos_token == "<|im_end|>"
    (made,) = renderer.datums([row(text="The quick brown fox")], source="manual")
    assert isinstance(made, Datum)
    assert renderer.tokenizer.decode(list(made.tokens)) == "The quick brown fox</s>"
    assert renderer.document_end not in renderer.end_tokens


def test_a_row_that_continues_has_no_end(load: Load) -> None:
    renderer = load("llama3")
    goes_on = replace(row(text="The quick brown fox"), fields={"text": "The quick brown fox", "continues": True})
    (made,) = renderer.datums([goes_on], source="manual")
    assert isinstance(made, Datum)
    assert renderer.tokenizer.decode(list(made.tokens)) == "<s>The quick brown fox"


def test_an_answer_that_does_not_fit_is_refused_with_its_row(load: Load) -> None:
    renderer = load("chatml")
    tokens = len(renderer.datum(row("hi", "yes no"), source="s").tokens)
    assert len(renderer.datum(row("hi", "yes no"), source="s", max_length=tokens).tokens) == tokens
    with pytest.raises(DataError, match=rf"^data/a\.jsonl:12: {tokens} tokens .*at most {tokens - 1} \(max_length\)"):
        renderer.datum(row("hi", "yes no"), source="s", max_length=tokens - 1)
    with pytest.raises(DataError, match=r"^data/a\.jsonl:12: .*max_length"):
        renderer.datum(row(text="The quick brown fox jumps"), source="s", max_length=3)


def test_only_what_is_not_learnt_is_cut(load: Load) -> None:
    renderer = load("chatml")
    full = renderer.dialogue(chat("hi", "yes"))  # ends with a newline after the end of the turn
    cut = renderer.dialogue(chat("hi", "yes"), max_length=len(full.tokens) - 1)
    assert (cut.tokens, cut.mask) == (full.tokens[:-1], full.mask[:-1])


def test_a_conversation_the_template_refuses_is_named(load: Load) -> None:
    messages = (*chat("hi", "yes"), Message(role="assistant", content="no"))
    broken = Row(id="0", messages=messages, origin="data/a.jsonl:3")
    with pytest.raises(
        DataError, match=r"^data/a\.jsonl:3: the model's chat template refuses .*user, assistant, assist"
    ):
        load("gemma").datum(broken, source="s")


def test_a_conversation_without_an_answer_is_refused(load: Load) -> None:
    with pytest.raises(DataError, match="no assistant's turn"):
        load("chatml").dialogue(chat("hi"))


def test_a_template_that_changes_the_words_is_refused(tmp_path: Path) -> None:
    """Reversed words and a prompt that does not begin the turn: there is nothing to tell the words by."""
    template = (
        "{% for m in messages %}{{ m['content'][::-1] + '</s>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'other' }}{% endif %}"
    )
    renderer = Renderer.load(tiny_tokenizer(tmp_path, template))
    with pytest.raises(DataError, match="turn 2 cannot be found again"):
        renderer.dialogue(chat("hi", "yes"), where="data/a.jsonl:1")


def test_a_template_without_an_end_of_turn_is_refused(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    renderer = Renderer.load(tiny_tokenizer(tmp_path, template))
    with pytest.raises(DataError, match=r"writes no end token .* never learns to stop"):
        renderer.dialogue(chat("hi", "yes"))


def test_an_end_of_sequence_after_the_last_turn_alone_is_enough(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + (eos_token if loop.last else '\n') }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '\nassistant: ' }}{% endif %}"
    )
    renderer = Renderer.load(tiny_tokenizer(tmp_path, template))
    assert learnt(renderer, renderer.dialogue(chat("hi", "yes", "no", "Paris"))) == ["yes", "Paris</s>"]


def test_end_tokens_of_the_generation_config_end_a_reply_too(tmp_path: Path) -> None:
    folder = tiny_tokenizer(tmp_path, CHATML)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 6]}))
    # <|im_end|> is token 3 and <|eot_id|> token 6 of the list of special tokens in tests/tiny.py.
    assert Renderer.load(folder).end_tokens == (3, 6)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, "no tokenizer in it"),
        ("version https://git-lfs.github.com/spec/v1", "a pointer to a large file"),
        ("{}", "does not load"),
    ],
)
def test_a_folder_without_a_usable_tokenizer_is_refused(tmp_path: Path, content: str | None, found: str) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=found):
        Renderer.load(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        Renderer.load(tmp_path / "nowhere")


@pytest.mark.slow
def test_loading_a_tokenizer_does_not_import_torch(tmp_path: Path) -> None:
    """`temper check` renders rows before a model is needed; importing torch costs seconds."""
    folder = tiny_tokenizer(tmp_path, CHATML)
    code = (
        "import sys; from pathlib import Path; from temper.data.render import Renderer; "
        f"Renderer.load(Path({str(folder)!r})); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
