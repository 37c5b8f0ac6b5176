"""Endpoint: an OpenAI-compatible chat model that a recipe names, asked in batches, with retries and a cache.

What was answered is kept by the content of the question, so a run that continues, or another checkpoint with the same
reply, costs nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from temper.data import fetch
from temper.errors import RecipeError
from temper.probes.web import Address, check_address, check_seconds, secret_of

if TYPE_CHECKING:
    from temper.probes.base import ProbeSpec

AT_ONCE = 8
SECONDS = 60.0
ANSWER_TOKENS = 512
WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further try, unless the server says how long to wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where to ask, and how."""

    where: str
    """Name of the probe, for messages."""
    base_url: str
    """Up to and without `/chat/completions`, e.g. `http://localhost:8000/v1`."""
    model: str
    key: str = field(default="", repr=False)
    seconds: float = SECONDS
    """Longest wait for one answer."""
    sleep: Callable[[float], None] = time.sleep

    @classmethod
    def of(cls, spec: ProbeSpec) -> Endpoint:
        """The endpoint that the options of a probe name."""
        url, variable = str(spec.options["base_url"]), str(spec.options.get("key_env", ""))
        check_address(url, f"probe {spec.name}: base_url")
        key = secret_of(variable, f"probe {spec.name}: key_env")
        seconds = float(spec.options.get("seconds", SECONDS))
        check_seconds(seconds, f"probe {spec.name}: seconds")
        model = str(spec.options["model"])
        return cls(where=f"probe {spec.name}", base_url=url.rstrip("/"), model=model, key=key, seconds=seconds)

    def ask(self, prompts: Sequence[str]) -> list[str]:
        """One answer per prompt, in order, each sampled at temperature 0.

        Raises:
            RecipeError: the endpoint cannot be reached, refuses, or does not speak the protocol.
        """
        known = {prompt: self._known(prompt) for prompt in prompts}
        found = {prompt: answer for prompt, answer in known.items() if answer is not None}
        missing = [prompt for prompt in known if prompt not in found]
        if missing:
            found |= self._fetch(missing)
        return [found[prompt] for prompt in prompts]

    def _fetch(self, prompts: Sequence[str]) -> dict[str, str]:
        with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
            try:
                answers = list(pool.map(self._one, prompts))
            finally:
                pool.shutdown(cancel_futures=True)  # after one refusal the others would be refused as well
        return dict(zip(prompts, answers, strict=True))

    def _one(self, prompt: str) -> str:
        body = {
            "model": self.model, "temperature": 0, "max_tokens": ANSWER_TOKENS,
            "messages": [{"role": "user", "content": prompt}],
        }  # fmt: skip
        answer = self._read(self._address.send(json.dumps(body).encode()))
        self._keep(prompt, answer)
        return answer

    @property
    def _address(self) -> Address:
        return Address(
            where=self.where, url=f"{self.base_url}/chat/completions", secret=self.key, timeout=self.seconds,
            waits=WAITS, sleep=self.sleep, refused=f"expected 200; check base_url, model ({self.model!r}) and key_env",
            silent="expected an endpoint that is up; start it, or run again: answers so far are kept",
        )  # fmt: skip

    def _read(self, reply: bytes) -> str:
        try:
            return str(json.loads(reply)["choices"][0]["message"]["content"] or "")
        except (ValueError, KeyError, IndexError, TypeError):
            raise RecipeError(
                f"{self.where}: {self.base_url} answers {self._address.excerpt(reply)!r}; expected the JSON of a chat"
                " completion; write the address up to and without /chat/completions"
            ) from None

    def _path(self, prompt: str) -> Path:
        name = hashlib.sha256(json.dumps([self.base_url, self.model, ANSWER_TOKENS, prompt]).encode()).hexdigest()
        return fetch.cache_dir() / "judge" / name[:2] / f"{name}.txt"

    def _known(self, prompt: str) -> str | None:
        path = self._path(prompt)
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def _keep(self, prompt: str, answer: str) -> None:
        path = self._path(prompt)
        path.parent.mkdir(parents=True, exist_ok=True)
        with fetch.replacing(path) as file:
            file.write(answer.encode("utf-8", errors="replace"))
