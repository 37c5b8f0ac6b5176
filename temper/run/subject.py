"""Subject: what MODEL or RUN of the command line stands for, as a checkpoint that a backend can open.

A built-in name, a hub id, a model folder, an adapter folder (peft), or a run folder, which stands for the checkpoint
that the run chose. Sees the model protocol only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from temper import events
from temper.errors import CheckpointError, RecipeError
from temper.events import Choice, RunStarted
from temper.model.protocol import BASE, Backend, Base, Checkpoint

ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model to talk to, to measure or to export."""

    name: str
    """As the user wrote it."""
    checkpoint: Checkpoint
    base: Base
    """The untouched model it comes from; itself for one that was not trained here. Holds the tokenizer."""
    identity: str
    """Hash of everything that decides about its answers."""
    run: Path | None = None
    """The run folder, when it was named by one."""
    choice: Choice | None = None
    """What that run chose."""
    grown_from: Base | None = None
    """The model as the recipe of that run names it, where a stage added tokens to it."""

    @property
    def is_base(self) -> bool:
        """True for an untouched model, and for a run that kept its base."""
        return self.checkpoint.id == BASE

    @property
    def tokenizer(self) -> Path:
        """Folder of tokenizer and chat template."""
        return self.base.folder


def find(name: str, backend: Backend) -> Subject:
    """The model that a name, a folder or a run stands for.

    Raises:
        TemperError: nothing of the kind is there, the run has chosen nothing yet, or its base has changed since.
    """
    folder = Path(name).expanduser()
    if (folder / "events.jsonl").is_file():
        return _of_run(name, folder, backend)
    if (folder / ADAPTER_CONFIG).is_file():
        return _of_adapter(name, folder, backend)
    if name.startswith((".", "~", "/")) and not folder.is_dir():
        raise CheckpointError(
            f"{name}: found no such folder; expected the folder of a run, of a model or of an adapter, a hub id, or a "
            "built-in name; correct the path"
        )
    base = backend.locate(name)
    return Subject(name=name, checkpoint=base.checkpoint, base=base, identity=base.sha256)


def find_run(name: str, backend: Backend) -> Subject:
    """The chosen checkpoint of a run folder, and of nothing else."""
    folder = Path(name).expanduser()
    if not (folder / "events.jsonl").is_file():
        found = "a folder without events.jsonl" if folder.is_dir() else "no such folder"
        raise RecipeError(
            f"{name}: found {found}; expected the folder of a run; `temper run RECIPE --out DIR` makes one"
        )
    return _of_run(name, folder, backend)


def as_base(subject: Subject) -> Subject:
    """The untouched model that a subject comes from."""
    base = subject.grown_from or subject.base
    return Subject(name=base.name, checkpoint=base.checkpoint, base=base, identity=base.sha256)


def _of_run(name: str, folder: Path, backend: Backend) -> Subject:
    log = events.read(folder / "events.jsonl")
    started = next((e for e in log if isinstance(e, RunStarted)), None)
    choices = [e for e in log if isinstance(e, Choice)]
    if started is None or not choices:
        raise RecipeError(
            f"{name}: found a run that has chosen nothing yet; expected one that has come to a choice; continue it "
            "with the same `temper run` command"
        )
    base = named = backend.locate(started.base)
    known = started.lineage.get("grown from") or started.lineage.get("sha256", base.sha256)
    if known != base.sha256:
        raise CheckpointError(
            f"{name}: was trained on {started.base} with weights {known[:12]}, found {base.sha256[:12]}; expected the "
            "same weights; put the base back that the run started from"
        )
    if words := started.lineage.get("added tokens"):
        base = backend.extended(named, words.split(", "))
    checkpoint = _chosen(folder, choices, base)
    if checkpoint.id == BASE:
        base, checkpoint, identity = named, named.checkpoint, named.sha256
    else:
        if not checkpoint.path.is_dir():
            raise CheckpointError(
                f"{checkpoint.path}: no such folder; expected the chosen checkpoint of {name}; put it back, or run "
                "again with another --out"
            )
        identity = _hash(checkpoint, base.sha256)
    return Subject(
        name=name, checkpoint=checkpoint, base=base, identity=identity, run=folder, choice=choices[-1],
        grown_from=named if base is not named else None,
    )  # fmt: skip


def _chosen(folder: Path, choices: Sequence[Choice], base: Base) -> Checkpoint:
    """Walks the choices of the stages in order: each started from what the one before it handed on, made whole."""
    result, stage = base.checkpoint, ""
    for choice in choices:
        if choice.checkpoint == result.id:
            continue  # the stage kept what it started from
        start = folder / "stages" / stage / "whole" if result.adapter else result.path
        path = folder / choice.path
        result = Checkpoint(
            id=choice.checkpoint, path=path, base=start, adapter=(path / ADAPTER_CONFIG).is_file(), step=choice.step,
            alpha=choice.alpha, parent=result.id, lineage=base.lineage,
        )  # fmt: skip
        stage = choice.stage
    return result


def _of_adapter(name: str, folder: Path, backend: Backend) -> Subject:
    path = folder / ADAPTER_CONFIG
    try:
        told = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (json.JSONDecodeError, AttributeError):
        told = None
    if not told:
        raise CheckpointError(
            f"{path}: names no base_model_name_or_path; expected the model that the adapter belongs to; write its name "
            "or folder there"
        )
    base = backend.locate(told)
    checkpoint = Checkpoint(id=folder.name, path=folder, base=base.folder, adapter=True, lineage=base.lineage)
    return Subject(name=name, checkpoint=checkpoint, base=base, identity=_hash(checkpoint, base.sha256))


def _hash(checkpoint: Checkpoint, base: str) -> str:
    """Of the weights on disk, and of the weights below them when they are an adapter."""
    files = sorted(checkpoint.path.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{checkpoint.path}: found no .safetensors file; expected weights; name another folder")
    digest = hashlib.sha256(f"{base}:{checkpoint.adapter}".encode())
    if checkpoint.adapter:
        settings = json.loads((checkpoint.path / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        digest.update(json.dumps([settings.get("r"), settings.get("lora_alpha"), str(checkpoint.base)]).encode())
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
