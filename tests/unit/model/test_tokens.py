"""New tokens begin as the mean of their pieces, are learnt with full training, and survive merging and export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from temper.data.render import Renderer
from temper.data.rows import Row
from temper.errors import CheckpointError
from temper.losses import Term
from temper.model import load
from temper.model.protocol import Checkpoint, TrainSpec
from temper.model.tokens import extend, extended
from temper.model.torch_backend import TorchBackend
from tests.tiny import tiny_model

WORDS = ("autovacuum", "tablespace")
TEXT = "Turn the autovacuum on; the tablespace is off."


@pytest.mark.parametrize("tied", [True, False])
def test_a_new_token_is_the_mean_of_its_pieces_and_the_others_stay(tmp_path: Path, tied: bool) -> None:
    base = tiny_model(tmp_path / "base", tie_word_embeddings=tied)
    extend(base, WORDS, tmp_path / "more")
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "more"))
    old, new = (AutoTokenizer.from_pretrained(folder) for folder in (base, tmp_path / "more"))
    tables = {"model.embed_tokens.weight"} | ({"lm_head.weight"} if not tied else set())
    assert after.keys() == before.keys()
    for name in before:
        if name not in tables:
            assert torch.equal(after[name], before[name])
            continue
        assert after[name].shape == (len(old) + 2, 64)
        assert torch.equal(after[name][: len(old)], before[name])
        for word in WORDS:
            mean = before[name][old.encode(word, add_special_tokens=False)].mean(dim=0)
            assert torch.allclose(after[name][new.convert_tokens_to_ids(word)], mean, atol=1e-7)
    assert len(new.encode("autovacuum", add_special_tokens=False)) == 1
    assert new.decode(new.encode(TEXT, add_special_tokens=False)) == TEXT
    assert new.chat_template == old.chat_template
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "more").config.vocab_size == len(old) + 2


def test_rows_to_spare_are_used_first(tmp_path: Path) -> None:
    size = len(AutoTokenizer.from_pretrained(tiny_model(tmp_path / "plain")))
    base = tiny_model(tmp_path / "base", vocab_size=size + 64)
    extend(base, WORDS, tmp_path / "more")
    assert load_file(tmp_path / "more" / "model.safetensors")["model.embed_tokens.weight"].shape == (size + 64, 64)


def test_new_tokens_are_learnt_and_the_exported_model_reads_them(tmp_path: Path) -> None:
    extend(tiny_model(tmp_path / "base"), WORDS, tmp_path / "more")
    start = Checkpoint(id="base", path=tmp_path / "more", base=tmp_path / "more")
    renderer = Renderer.load(start.path)
    number = renderer.tokenizer.convert_tokens_to_ids("autovacuum")
    datum = renderer.datum(Row(id="0", messages=(), origin="m:1", text=TEXT), source="manual")
    assert number in datum.tokens
    learner = TorchBackend().open(start, TrainSpec(rank=None)).learner
    first = sum(learner.logprobs([datum])[0])
    for _ in range(5):
        learner.forward_backward([datum], (Term(loss="ce"),))
        learner.optim_step(1e-2)
    learner.save(tmp_path / "trained")
    checkpoint = Checkpoint(id="s", path=tmp_path / "trained", base=start.path)
    TorchBackend().whole(checkpoint, tmp_path / "whole")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "whole")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.float32).eval()
    assert tokenizer.encode(TEXT) == list(datum.tokens[:-1])
    before = load_file(start.path / "model.safetensors")["model.embed_tokens.weight"][number]
    assert not torch.allclose(model.get_input_embeddings().weight[number], before, atol=1e-3)
    with torch.inference_mode():
        logp = torch.log_softmax(model(torch.tensor([datum.tokens])).logits[0], dim=-1)
    found = [float(logp[t, datum.tokens[t + 1]]) for t in range(len(datum.tokens) - 1)]
    assert learner.logprobs([datum])[0] == pytest.approx(found, abs=1e-4)
    assert sum(found) > first + 10


def test_a_word_that_is_a_token_already_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="add_tokens: 'a' is one token already"):
        extend(tiny_model(tmp_path / "base"), ["autovacuum", "a"], tmp_path / "more")
    assert not (tmp_path / "more").exists()


def test_the_same_words_are_added_once_and_the_lineage_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    base = load.locate(str(tiny_model(tmp_path / "base")))
    found = extended(base, WORDS)
    assert (found.name, found.lineage["grown from"], found.lineage["added tokens"]) == (
        base.name, base.sha256, "autovacuum, tablespace",
    )  # fmt: skip
    assert found.sha256 == found.lineage["sha256"] != base.sha256
    written = (found.folder / "model.safetensors").stat().st_mtime_ns
    assert extended(base, WORDS) == found
    assert (found.folder / "model.safetensors").stat().st_mtime_ns == written
    assert extended(base, WORDS[:1]).folder != found.folder
