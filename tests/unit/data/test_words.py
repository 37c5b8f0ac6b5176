"""The word encoder gives the tokenizer's own tokens, whatever the text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from temper.data import words
from temper.data.words import WRITTEN, WordEncoder
from tests.tiny import SENTENCES

SPECIAL = ("<|im_start|>", "<|im_end|>", "<tool_call>")
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
WHOLE = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def split(pattern: str) -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), WHOLE])


CUTS = {
    "gpt2": BYTES,
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES]),
    "llama3": split(WRITTEN[0]),
    "qwen2": split(WRITTEN[1]),
}
"""As these models' tokenizer.json have it."""


def tokenizer(cut: Any, *, special: tuple[str | AddedToken, ...] = SPECIAL) -> Tokenizer:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = cut
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=list(special), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    raw.train_from_iterator(SENTENCES * 3 + ("  a  b\n\n c'll we've 10 100 2024 caf\u00e9 na\u00efve",) * 3, trainer)
    return raw


def own(raw: Tokenizer, text: str) -> list[int]:
    return raw.encode(text, add_special_tokens=False).ids


ENCODERS = {name: (raw := tokenizer(cut), WordEncoder(raw)) for name, cut in CUTS.items()}
PIECES = st.sampled_from(
    [
        *("the", " light", "Don't", "WE'LL", "'S", "'\u017f", " ", "  ", "\n", "\r\n", "\t", "\x0b", "\x85", "\xa0"),
        *("0", "42", "\u00bd", "\u2460", "\u00b2", ".", "...", "!?", "{", '":', "_", "\u00fc", "e\u0301", "\u03a9"),
        *("\u2126", "\u0416", "\u20ac", "\u201c", "\U0001f600", "\u200d", "\ufe0f", "\u4e2d", "\uac00"),
        *("<|im_end|>", "<|im_", "<tool_call>", "x" * 50),
    ]
)


@pytest.mark.parametrize("name", CUTS)
@given(text=st.lists(PIECES | st.text(max_size=3), max_size=30).map("".join))
@settings(max_examples=150, deadline=None)
def test_tokens_are_those_of_the_tokenizer(name: str, text: str) -> None:
    raw, encoder = ENCODERS[name]
    assert encoder.remembers
    assert encoder.encode(text) == own(raw, text)
    assert encoder.encode(text) == own(raw, text)  # from memory


@pytest.mark.slow
@pytest.mark.parametrize("name", CUTS)
def test_every_familiar_character_is_cut_as_the_tokenizer_cuts_it(name: str) -> None:
    raw, encoder = ENCODERS[name]
    familiar = [c for first, stop in words.RANGES for c in map(chr, range(first, stop)) if words._is_settled(c)]
    texts = [f"a{c}b {c}1{c} {c}{c}\n{c} .{c}9 '{c} {c}s'{c}ll  {c}" for c in familiar]
    assert len(familiar) > 4000
    assert not any(encoder._foreign.search(text) for text in texts)  # all of them take the quick way
    expected = raw.encode_batch_fast(texts, add_special_tokens=False)
    assert encoder.encode_all(texts) == [found.ids for found in expected]


def test_many_texts_give_what_single_ones_give() -> None:
    raw, encoder = ENCODERS["llama3"]
    texts = ["plain words", "", "\u4e2d\u6587 and words", "<|im_start|>user\nhi<|im_end|>", "\u4e2d"]
    assert encoder.encode_all(texts) == [own(raw, text) for text in texts]


def test_a_full_memory_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "WORDS", 3)
    raw = tokenizer(BYTES)
    encoder = WordEncoder(raw)
    for text in ("one two three four five", "five six seven", "one two"):
        assert encoder.encode(text) == own(raw, text)
    assert len(encoder._words) <= 3


@pytest.mark.parametrize(
    "changed",
    [
        tokenizer(split(r"\w+|\s+")),  # a cut that is not known
        tokenizer(pre_tokenizers.ByteLevel(add_prefix_space=True)),
        tokenizer(BYTES, special=(AddedToken("<mask>", lstrip=True, special=True),)),
    ],
)
def test_a_tokenizer_that_works_otherwise_is_asked_every_time(changed: Tokenizer) -> None:
    encoder = WordEncoder(changed)
    assert not encoder.remembers
    for text in ("the light is on", "a <mask> b", "  x"):
        assert encoder.encode(text) == own(changed, text)
        assert encoder.encode_all([text]) == [own(changed, text)]


def test_a_normaliser_that_changes_characters_is_not_trusted() -> None:
    raw = tokenizer(BYTES)
    raw.normalizer = normalizers.Lowercase()
    assert not WordEncoder(raw).remembers
    raw.normalizer = normalizers.NFC()
    assert WordEncoder(raw).remembers
