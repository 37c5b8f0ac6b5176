"""A tokenizer small enough to be trained inside a test, chat templates of well-known families, and a random model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

SENTENCES = (
    "Turn the kitchen light on and the bedroom light off.",
    "What is the capital of France? The capital of France is Paris.",
    "You are a helpful assistant. Answer in one word, please.",
    "The quick brown fox jumps over the lazy dog 0123456789 times.",
    "user\nassistant\nsystem\nmodel\n[INST] hello [/INST] yes no",
    '{"intent": "HassTurnOn", "area": "kitchen", "value": 21}',
)

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""With a default system message, as SmolLM2 and Qwen2.5 write it."""

LLAMA3 = (
    "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ '<s>' }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{% if message['role'] == 'system' %}{{ 'Today Date: ' + date_string + '\n\n' }}{% endif %}"
    "{{ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
"""Begins with the beginning-of-sequence token and writes the date."""

GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
"""Calls the assistant `model` and refuses a system message."""

MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] + eos_token }}{% else %}{{ raise_exception('Only user and assistant roles!') }}"
    "{% endif %}{% endfor %}"
)
"""No token begins the reply; a space stands before it."""

PHI3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
"""Writes a second end token after the whole conversation."""

QWEN3 = (
    "{%- set ns = namespace(last=-1) %}{%- for message in messages %}{%- if message.role == 'user' %}"
    "{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for message in messages %}{%- if message.role == 'assistant' %}"
    "{%- set content = message.content %}{%- set thought = '' %}{%- if '</think>' in content %}"
    "{%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{{- '<|im_start|>assistant\n' }}"
    "{%- if loop.index0 > ns.last and (loop.last or thought) %}{{- '<think>\n' + thought + '\n</think>\n\n' }}"
    "{%- endif %}"
    "{{- content + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}"
    "{%- endif %}{%- endif %}"
)
"""Strips the thoughts of earlier turns and has a switch for thinking."""

SPECIAL = (
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>",
)  # fmt: skip


def tiny_tokenizer(
    folder: Path, template: str = CHATML, *, eos: str = "", adds_bos: bool = False, metaspace: bool = False
) -> Path:
    """Trains a byte-level BPE on a few sentences and saves it as a model folder would hold it.

    Args:
        folder: Made when missing.
        template: The chat template; "" for a model without one.
        eos: The end-of-sequence token; by default `<|im_end|>` for a ChatML template, else `</s>`.
        adds_bos: Whether the tokenizer itself puts `<s>` before a text.
        metaspace: Words carry their space as SentencePiece does, the first word of a text too (as in Llama 2).
    """
    return place(_tokenizer_files(template, eos, adds_bos, metaspace), folder)


def tiny_model(folder: Path, *, seed: int = 0, template: str = CHATML, kind: str = "llama", **changes: Any) -> Path:
    """Saves a random model of 2 layers and hidden size 64 with its tokenizer, as a model folder would hold them.

    Args:
        folder: Made when missing.
        seed: Of the weights.
        template: As for `tiny_tokenizer`.
        kind: transformers' name of the architecture.
        changes: Further values of its configuration.
    """
    files = _tokenizer_files(template, "", False, False)
    return place({**files, **_weight_files(seed, template, kind, json.dumps(changes, sort_keys=True))}, folder)


def place(files: Mapping[str, bytes], folder: Path) -> Path:
    """Writes files by their names, which may hold folders."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def contents(folder: Path) -> Mapping[str, bytes]:
    """Every file below a folder, by its name in it."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@cache
def _tokenizer_files(template: str, eos: str, adds_bos: bool, metaspace: bool) -> Mapping[str, bytes]:
    """What a tokenizer is saved as, by name; trained once for all tests of a process."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    alphabet = sorted(set("".join(SENTENCES) + "<>|")) if metaspace else pre_tokenizers.ByteLevel.alphabet()
    raw.pre_tokenizer = pre_tokenizers.Metaspace() if metaspace else pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.Metaspace() if metaspace else decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator((s.replace("\n", " ") for s in SENTENCES), trainer)
    if adds_bos:
        raw.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", raw.token_to_id("<s>"))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token=eos or ("<|im_end|>" if "<|im_end|>" in template else "</s>"),
    )
    if template:
        tokenizer.chat_template = template
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return contents(Path(folder))


@cache
def _weight_files(seed: int, template: str, kind: str, changes: str) -> Mapping[str, bytes]:
    """What a random model is saved as, by name; `changes` is JSON."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    with TemporaryDirectory() as folder:
        tokenizer = AutoTokenizer.from_pretrained(str(tiny_tokenizer(Path(folder), template)))
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": None,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "tie_word_embeddings": True,
    }  # fmt: skip
    logging.disable_progress_bar()
    config = AutoConfig.for_model(kind, **{**sizes, **json.loads(changes)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return contents(Path(folder))
