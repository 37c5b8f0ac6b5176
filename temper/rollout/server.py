"""Server: a sampler behind vLLM's HTTP interface, which takes adapters while it runs.

    VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve MODEL --enable-lora --max-lora-rank 16

It has to serve the weights that the stage starts from and to see the run folder under the same path, since adapters are
handed over by their folder. One request per row, many at a time: each row draws from a stream of its own. 429, 5xx and
broken connections are tried again. Prompts leave this machine for that address and no other. Imports its package.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from temper.errors import RecipeError
from temper.model.protocol import Completion, Sampling, Tokens
from temper.probes.web import Address
from temper.rollout.outside import OnToken, asked, completion, stream

AT_ONCE = 64
SECONDS = 600.0
"""For one reply: a server under load answers late."""
WAITS = (1.0, 4.0, 16.0)
"""Seconds before each further try."""
TOKEN = "token_id:"
START = "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve MODEL --enable-lora --max-lora-rank RANK"


class VllmServer:
    """What a server says, with the adapter it was last told of."""

    def __init__(self, *, url: str, where: str, sleep: Callable[[float], None] = time.sleep) -> None:
        """Asks what is served.

        Args:
            url: Address up to and without /v1.
            where: Dotted path in the recipe.
            sleep: Between two tries.

        Raises:
            RecipeError: nobody answers there, or not in vLLM's way.
        """
        self._url = url.removesuffix("/v1")
        self._where = where
        self._sleep = sleep
        self._followed = 0
        try:
            self._model = str(self._ask("/v1/models")["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise self._unlike("a list of models") from None

    def generate(
        self, prompts: Sequence[Tokens], sampling: Sampling, *, on_token: OnToken | None = None
    ) -> list[Completion]:
        """One completion per prompt, in order; `on_token` is told when all are there.

        Raises:
            RecipeError: the server is down, refuses, or does not give tokens with their log-probabilities.
        """
        if not prompts or not sampling.max_new_tokens:
            return [Completion(tokens=(), logprobs=(), finished=False) for _ in prompts]
        with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
            try:
                replies = list(pool.map(lambda at: self._one(prompts[at], sampling, at), range(len(prompts))))
            finally:
                pool.shutdown(cancel_futures=True)  # after one refusal the others would be refused as well
        stream(replies, on_token)
        return replies

    def follow(self, folder: Path) -> None:
        """Has the server load an adapter and answer with it from now on.

        Raises:
            RecipeError: it does not take adapters.
        """
        before, self._followed = self._model, self._followed + 1
        # The time makes the name new to a server that an earlier sitting has used.
        name = f"temper-{time.time_ns()}-{self._followed}"
        self._ask("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder.resolve())})
        self._model = name
        if self._followed > 1:
            self._ask("/v1/unload_lora_adapter", {"lora_name": before})

    def _one(self, prompt: Tokens, sampling: Sampling, row: int) -> Completion:
        body = {
            "model": self._model, "prompt": list(prompt), "return_tokens_as_token_ids": True,
            **asked(sampling, row), "logprobs": 1,
        }  # fmt: skip
        told = self._ask("/v1/completions", body)
        try:
            found = told["choices"][0]["logprobs"]
            tokens = [int(token.removeprefix(TOKEN)) for token in found["tokens"]]
            return completion(tokens, found["token_logprobs"], sampling)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise self._unlike("a completion whose tokens are ids with log-probabilities") from None

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON that the server answers; of an answer without any, None."""
        data = None if body is None else json.dumps(body).encode()
        address = Address(
            where=self._where, url=f"{self._url}{path}", timeout=SECONDS, waits=WAITS, sleep=self._sleep,
            refused="expected a server of vLLM that takes adapters and serves the model that the stage starts from;"
            f" start it with {START}",
            silent=f"expected a server of vLLM that is up; start it with {START}",
        )  # fmt: skip
        return _json(address.send(data))

    def _unlike(self, expected: str) -> RecipeError:
        return RecipeError(
            f"{self._where}: {self._url} answers something else than {expected}; expected a server of vLLM; name its"
            " address without a path, such as http://localhost:8000"
        )


def _json(said: bytes) -> Any:
    try:
        return json.loads(said)
    except ValueError:
        return None  # the answer to an adapter is a sentence
