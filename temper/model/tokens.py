"""New tokens: a model folder whose tokenizer knows more words, each beginning as the mean of the pieces it was before.

The result is an ordinary model folder, so training, merging and export need to know nothing of it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from temper.data import fetch
from temper.errors import CheckpointError
from temper.model import load, store
from temper.model.load import loading
from temper.model.protocol import Base


def extended(base: Base, words: Sequence[str]) -> Base:
    """The model with further tokens, in the cache under the hash of its weights and the words."""
    key = hashlib.sha256(json.dumps([base.sha256, *words]).encode()).hexdigest()[:16]
    folder = fetch.cache_dir() / "models" / f"more-tokens-{key}"
    if not (folder / "config.json").is_file():
        extend(base.folder, words, folder)
    found = load.locate(str(folder))
    lineage = {**base.lineage, "sha256": found.sha256, "grown from": base.sha256, "added tokens": ", ".join(words)}
    return Base(name=base.name, folder=found.folder, sha256=found.sha256, lineage=lineage)


def extend(folder: Path, words: Sequence[str], to: Path) -> None:
    """Writes the model of a folder with further tokens.

    Args:
        folder: Of the model; stays as it is.
        words: Each becomes one token, with or without a space before it.
        to: New folder.
    """
    with loading(folder):
        old = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        new = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    known = [word for word in words if len(old.encode(word, add_special_tokens=False)) == 1]
    if known:
        raise CheckpointError(
            f"add_tokens: {known[0]!r} is one token already; expected words of several pieces; remove it from the list"
        )
    new.add_tokens(list(words))
    pieces = {new.convert_tokens_to_ids(word): old.encode(word, add_special_tokens=False) for word in words}
    tables = _tables(model)
    rows = 0
    with store.new_folder(to) as target:
        for path in store.weight_files(folder):
            with safe_open(path, framework="pt") as tensors:
                held = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
            for name in tables & held.keys():
                held[name] = _grown(held[name], pieces)
                rows = max(rows, len(held[name]))
            save_file(held, target / path.name, metadata={"format": "pt"})
        if not rows:
            raise CheckpointError(
                f"{folder}: none of its tensors is called {' or '.join(sorted(tables))}; expected the embeddings; "
                "remove add_tokens"
            )
        for name in ("model.safetensors.index.json", "generation_config.json"):
            if (folder / name).is_file():
                shutil.copy(folder / name, target / name)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (target / "config.json").write_text(json.dumps({**config, "vocab_size": rows}, indent=2), encoding="utf-8")
        new.save_pretrained(str(target))
        store.copy_tokenizer(folder, target)


def _tables(model: torch.nn.Module) -> set[str]:
    """Names of the tensors with a row per token: what a token is read as, and what it is predicted by."""
    sizes = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}  # pyright: ignore
    return {name for name, parameter in model.named_parameters(remove_duplicate=False) if id(parameter) in sizes}


def _grown(table: Tensor, pieces: Mapping[int, Sequence[int]]) -> Tensor:
    """The table with a row for each new token; some tables have rows to spare, which are used first."""
    missing = max(pieces) + 1 - len(table)
    grown = torch.cat([table, table.new_zeros(max(0, missing), table.shape[1])])
    for number, old in pieces.items():
        grown[number] = table[list(old)].float().mean(dim=0).to(table.dtype)
    return grown
