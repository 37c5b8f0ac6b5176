"""Instruction residual: the base of a chat model is trained, and what made it a chat model is added to the result.

trained + (instruct - base), which is instruct + (trained - base): with an adapter that is the same adapter on the chat
model, with all weights a sum tensor by tensor. The two models must be of one lineage: the same tensors, the same
arithmetic, the same vocabulary. Source: 2410.10739.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer

from temper.data.datum import Datum
from temper.errors import CheckpointError
from temper.losses import Objective
from temper.model import store
from temper.model.load import loading
from temper.model.protocol import (
    Checkpoint,
    Completion,
    Floats,
    Policy,
    Sampling,
    StepMetrics,
    Tokens,
    TrainSpec,
)

Open = Callable[[Checkpoint, TrainSpec | None], Policy]
TRAINED = "trained"
"""Below the trainer's state: the base as it was trained, to continue from; with an adapter both are the same file."""
ARITHMETIC = (
    "model_type", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act", "rope_theta", "rope_scaling",
    "rope_parameters", "sliding_window", "tie_word_embeddings",
)  # fmt: skip
"""Values of config.json that change what the same tensors compute."""


def require_kin(instruct: Path, base: Path) -> None:
    """Refuses two models whose difference means nothing, with the reason.

    Reads headers, configurations and tokenizers, no weights.
    """
    one, other = _config(instruct), _config(base)
    for key in ARITHMETIC:
        if one.get(key) != other.get(key):
            raise _strangers(instruct, base, f"{key} is {one.get(key)} and {other.get(key)}")
    shapes, others = _shapes(instruct), _shapes(base)
    for name in sorted(shapes.keys() | others.keys()):
        if shapes.get(name) != others.get(name):
            found = [_shown(held.get(name)) for held in (shapes, others)]
            raise _strangers(instruct, base, f"{name} is {found[0]} and {found[1]}")
    words, others = _vocabulary(instruct), _vocabulary(base)
    different = sorted(words.items() ^ others.items())
    if different:
        raise _strangers(
            instruct, base, f"the vocabularies differ in {len(different)} entries, e.g. {different[0][0]!r}"
        )


def open_pair(open_policy: Open, start: Checkpoint, base: Path, spec: TrainSpec) -> Policy:
    """A policy that learns as the base does and answers as the chat model with what was learnt added.

    Args:
        open_policy: Of the backend.
        start: Full weights of the chat model.
        base: Folder of what it was made from.
        spec: What trains, and how.

    Raises:
        CheckpointError: The two are of different lineage.
    """
    require_kin(start.path, base)
    below = replace(start, id=f"{start.id} base", path=base, base=base)
    answering = open_policy(start, spec if spec.rank is not None else None)
    learner = ResidualLearner(open_policy(below, spec), answering, start=start, below=below, spec=spec)
    return Policy(learner=learner, sampler=ResidualSampler(learner, answering))


class ResidualLearner:
    """Trains the base; scores, saves and loads the chat model that goes with it.

    What it saves are checkpoints of the chat model, so that everything that reads checkpoints reads them.
    """

    def __init__(
        self, trained: Policy, answering: Policy, *, start: Checkpoint, below: Checkpoint, spec: TrainSpec
    ) -> None:
        self.step = 0
        self._trained, self._answering = trained.learner, answering.learner
        self._start, self._below = start, below
        self._adapter = spec.rank is not None
        self._stale = False

    def forward_backward(self, datums: Sequence[Datum], objective: Objective) -> StepMetrics:
        """Adds the gradient of the objective at the trained base, averaged over the whole batch."""
        return self._trained.forward_backward(datums, objective)

    def optim_step(self, lr: float) -> float:
        """One update of the base; returns the gradient norm before clipping and clears the gradient."""
        norm = self._trained.optim_step(lr)
        self.step, self._stale = self._trained.step, True
        return norm

    def logprobs(self, datums: Sequence[Datum]) -> list[Floats]:
        """Log-probability in nats of every target with a weight, of the chat model; no gradient."""
        self.catch_up()
        return self._answering.logprobs(datums)

    def likely(self, datums: Sequence[Datum], k: int) -> list[list[tuple[Tokens, Floats]]]:
        """The k likeliest tokens at every target with a weight, and their log-probabilities in nats, per datum."""
        self.catch_up()
        return self._answering.likely(datums, k)

    def logprobs_of(self, datums: Sequence[Datum], tokens: Sequence[Sequence[Tokens]]) -> list[list[Floats]]:
        """Log-probabilities in nats of the tokens named for every target with a weight, in order, per datum."""
        self.catch_up()
        return self._answering.logprobs_of(datums, tokens)

    def save(self, to: Path) -> None:
        """The chat model (or its adapter), and beside it what training continues from."""
        if self._adapter:
            self._trained.save(to)
            _name_base(to / "adapter_config.json", self._start.path)
        else:
            with TemporaryDirectory(dir=_made(to.parent), prefix=".residual-") as beside:
                trained = Path(beside) / TRAINED
                self._trained.save(trained)
                with store.new_folder(to) as folder:
                    _write_sum(trained, instruct=self._start.path, base=self._below.path, to=folder)
                    shutil.copytree(trained, folder / store.TRAINER / TRAINED)
                    shutil.copy(trained / store.TRAINER / "state.json", folder / store.TRAINER / "state.json")
        self._answering.load(self._saved(to))
        self._stale = False

    def load(self, start: Checkpoint, *, resume: bool = False) -> None:
        """Replaces what answers; where training begins or continues, what is trained as well."""
        if resume:
            path = start.path if self._adapter else start.path / store.TRAINER / TRAINED
            self._trained.load(replace(start, path=path, base=self._below.path), resume=True)
        elif start.path == self._start.path:
            self._trained.load(self._below)
        self._answering.load(start)
        self.step, self._stale = (self._trained.step if resume else 0), False

    def catch_up(self) -> None:
        """Lets the chat model answer with all that the base has learnt by now."""
        if self._stale:
            with TemporaryDirectory(prefix="temper-residual-") as beside:
                self.save(Path(beside) / "now")

    def _saved(self, path: Path) -> Checkpoint:
        return replace(self._start, id=path.name, path=path, base=self._start.path, adapter=self._adapter)


class ResidualSampler:
    """Generates as the chat model with what the base has learnt."""

    def __init__(self, learner: ResidualLearner, answering: Policy) -> None:
        self._learner, self._sampler = learner, answering.sampler

    def generate(
        self,
        prompts: Sequence[Tokens],
        sampling: Sampling,
        *,
        drafts: Sequence[Tokens] = (),
        on_token: Callable[[int, int], None] | None = None,
    ) -> list[Completion]:
        """One completion per prompt, in order; `on_token(prompt index, token)` streams."""
        self._learner.catch_up()
        return self._sampler.generate(prompts, sampling, drafts=drafts, on_token=on_token)


def _write_sum(trained: Path, *, instruct: Path, base: Path, to: Path) -> None:
    """Writes trained + (instruct - base) with the configuration of `instruct`."""
    upper, lower = _index(instruct), _index(base)
    for path in store.weight_files(trained):
        changed = {
            name: _moved(tensor, _read(upper, name, instruct), _read(lower, name, base))
            for name, tensor in _tensors(path)
        }
        save_file(changed, to / path.name, metadata={"format": "pt"})
    index = trained / "model.safetensors.index.json"
    if index.is_file():
        shutil.copy(index, to / index.name)
    for name in ("config.json", "generation_config.json"):
        if (instruct / name).is_file():
            shutil.copy(instruct / name, to / name)


def _moved(tensor: Tensor, upper: Tensor, lower: Tensor) -> Tensor:
    return (tensor.float() + (upper.float() - lower.float())).to(tensor.dtype).contiguous()


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    with safe_open(path, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - a safetensors handle is no mapping
            yield name, tensors.get_tensor(name)


def _index(folder: Path) -> Mapping[str, Path]:
    """Tensor -> the file that holds it."""
    found: dict[str, Path] = {}
    for path in store.weight_files(folder):
        with safe_open(path, framework="pt") as tensors:
            found |= dict.fromkeys(tensors.keys(), path)
    return found


def _read(index: Mapping[str, Path], name: str, folder: Path) -> Tensor:
    if name not in index:
        raise CheckpointError(
            f"{folder}: has no tensor {name} as the trained model has; expected the model that training started from; "
            "name that one under residual.base"
        )
    with safe_open(index[name], framework="pt") as tensors:
        return tensors.get_tensor(name)


def _shapes(folder: Path) -> Mapping[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name, path in _index(folder).items():
        with safe_open(path, framework="pt") as tensors:
            found[name] = tuple(tensors.get_slice(name).get_shape())
    return found


def _config(folder: Path) -> Mapping[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: has no config.json; expected a model folder as transformers' save_pretrained writes it; name "
            "another one under residual"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def _vocabulary(folder: Path) -> Mapping[str, int]:
    """Pieces of words and their ids; special tokens are renamed between a base and its chat model, and mean no text."""
    with loading(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    special = {token.content for token in tokenizer.added_tokens_decoder.values()}
    return {word: number for word, number in tokenizer.get_vocab().items() if word not in special}


def _name_base(config: Path, base: Path) -> None:
    """Says in an adapter's configuration which model it belongs to."""
    told = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**told, "base_model_name_or_path": str(base)}, indent=2), encoding="utf-8")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _shown(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else " x ".join(map(str, shape))


def _strangers(instruct: Path, base: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"residual: {instruct} was not made from {base}: {why}; expected a chat model and its own base; "
        "name those two, or leave residual out and train the chat model itself with replay"
    )
