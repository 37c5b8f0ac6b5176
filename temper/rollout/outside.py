"""Outside: samplers with weights of their own, which have to be told when the learner has moved on.

    sampler: vllm                                     # an engine in this process (extra `vllm`)
    sampler: {vllm: {gpu_memory_utilization: 0.4}}    # with arguments of vllm.LLM
    sampler: http://localhost:8000                    # a server of vLLM, for adapters

What they say has the contract of every sampler: tokens and the log-probability of each at temperature 1, the token that
ended a reply included. They round in another way than the learner; losses correct for that by the ratio to the
sampler's own log-probabilities. Imports model.protocol, probes and its package.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from temper.errors import MissingExtra, RecipeError
from temper.model.protocol import Completion, Sampling, Tokens
from temper.probes.web import is_address

OWN = "own"
"""The learner's own model samples: its weights are always the newest."""
VLLM = "vllm"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM makes room for; an adapter of another rank takes the next."""
ADAPTER_CONFIG = "adapter_config.json"
OnToken = Callable[[int, int], None]


class Outside(Protocol):
    """A sampler that answers with the weights it was last given."""

    def generate(
        self, prompts: Sequence[Tokens], sampling: Sampling, *, on_token: OnToken | None = None
    ) -> list[Completion]:
        """One completion per prompt, in order."""
        ...

    def follow(self, folder: Path) -> None:
        """Answers with the weights in a folder from now on: an adapter above the start, or full weights."""
        ...


class VllmEngine:
    """An engine of vLLM in this process."""

    def __init__(self, start: Path, *, rank: int | None, options: Mapping[str, Any]) -> None:
        """Loads the start of the stage.

        Args:
            start: Folder of full weights with their tokenizer.
            rank: Of the adapters that will follow; None for full weights.
            options: Arguments of vllm.LLM.

        Raises:
            MissingExtra: vLLM is not installed.
        """
        vllm = _vllm()
        lora = {} if rank is None else {"enable_lora": True, "max_lora_rank": room_for(rank)}
        self._vllm = vllm
        self._adapter: Any = None
        self._followed = 0
        self._engine = vllm.LLM(**{"model": str(start), "logprobs_mode": "raw_logprobs", **lora, **options})

    def generate(
        self, prompts: Sequence[Tokens], sampling: Sampling, *, on_token: OnToken | None = None
    ) -> list[Completion]:
        """One completion per prompt, in order; `on_token` is told when all are there."""
        if not prompts or not sampling.max_new_tokens:
            return [Completion(tokens=(), logprobs=(), finished=False) for _ in prompts]
        found = self._engine.generate(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts],
            [self._vllm.SamplingParams(detokenize=False, **asked(sampling, row)) for row in range(len(prompts))],
            lora_request=self._adapter, use_tqdm=False,
        )  # fmt: skip
        replies = [one.outputs[0] for one in found]
        completions = [
            completion(r.token_ids, [p[t].logprob for p, t in zip(r.logprobs, r.token_ids, strict=True)], sampling)
            for r in replies
        ]
        stream(completions, on_token)
        return completions

    def follow(self, folder: Path) -> None:
        """Answers with the weights in a folder from now on."""
        self._followed += 1
        if (folder / ADAPTER_CONFIG).is_file():
            from vllm.lora.request import LoRARequest  # pyright: ignore[reportMissingImports]

            # A number of its own for each state: by the number vLLM knows what it has loaded and cached.
            self._adapter = LoRARequest(f"temper-{self._followed}", self._followed, str(folder))
            return
        self._engine.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        self._engine.reset_prefix_cache()


def load_outside(spec: str | Mapping[str, Any], start: Path, *, rank: int | None, where: str) -> Outside:
    """The sampler that a recipe names, with the weights that the stage starts from.

    Raises:
        TemperError: it is not known, not installed, not reachable, or cannot follow full weights.
    """
    name, options = spec_of(spec, where)
    if name == VLLM:
        if rank is None and _is_tied(start):
            raise RecipeError(
                f"{where}: found vllm beside `adapter: full` of a model whose head is its embedding; expected an"
                " adapter, since vLLM leaves such a head behind when it reads weights again; write `adapter: lora`, or"
                " `sampler: own`"
            )
        return VllmEngine(start, rank=rank, options=options)
    from temper.rollout.server import VllmServer

    if rank is None:
        raise RecipeError(
            f"{where}: found the server {name} beside `adapter: full`; expected an adapter, the only weights that a"
            " server of vLLM takes while it runs; write `adapter: lora`, or `sampler: vllm`"
        )
    return VllmServer(url=name.rstrip("/"), where=where)


def spec_of(spec: Any, where: str) -> tuple[str, Mapping[str, Any]]:
    """Name and options of what a recipe writes under `sampler`.

    Raises:
        RecipeError: it is neither `own` nor `vllm` nor the address of a server.
    """
    name, options = spec, {}
    if isinstance(spec, Mapping) and len(spec) == 1:
        ((name, options),) = spec.items()
        options = {} if options is None else options
    known = name in (OWN, VLLM) or (isinstance(name, str) and is_address(name))
    if not known or not isinstance(options, Mapping) or (options and name != VLLM):
        raise RecipeError(
            f"{where}: found {spec!r}; expected own, vllm, {{vllm: {{argument: value}}}} or the address of a server;"
            " write one of these"
        )
    return str(name), options


def asked(sampling: Sampling, row: int) -> Mapping[str, object]:
    """What vLLM is asked for one row, in process and over HTTP alike.

    Every row draws from a stream of its own, and ends where the recipe's model ends and nowhere else.
    """
    return {
        "max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature, "top_p": 1.0, "top_k": -1,
        "seed": (sampling.seed * 1_000_003 + row * 7_919 + 1) % (1 << 63), "logprobs": 0, "ignore_eos": True,
        "stop_token_ids": list(sampling.stop),
    }  # fmt: skip


def completion(tokens: Sequence[int], logprobs: Sequence[float], sampling: Sampling) -> Completion:
    """What a sampler promises, from all tokens that were written, the one that ended the reply among them."""
    assert len(tokens) == len(logprobs)
    finished = bool(tokens) and tokens[-1] in sampling.stop
    return Completion(
        tokens=tuple(tokens[:-1] if finished else tokens), logprobs=tuple(map(float, logprobs)), finished=finished
    )


def room_for(rank: int) -> int:
    """The least rank of `RANKS` that holds an adapter of this one."""
    return next((room for room in RANKS if room >= rank), rank)


def stream(completions: Sequence[Completion], on_token: OnToken | None) -> None:
    """Tells all tokens of finished replies, row after row."""
    if on_token is not None:
        for row, reply in enumerate(completions):
            for token in reply.tokens:
                on_token(row, token)


def _is_tied(start: Path) -> bool:
    """Whether the head of a model is its embedding: with vLLM 0.32 the log-probabilities were then off by 1 nat.

    A model that does not say so is taken for one.
    """
    config = json.loads((start / "config.json").read_text(encoding="utf-8"))
    return bool(config.get("text_config", config).get("tie_word_embeddings", True))


def _vllm() -> Any:
    try:
        import vllm  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise MissingExtra("vllm", "vllm") from None
    return vllm
