"""Endpoint: an OpenAI-compatible chat model that a recipe names, asked in batches, with retries and a cache.

What was answered is kept by the content of the question, so a run that continues, or another checkpoint with the same
reply, costs nothing. Only 429, 5xx and broken connections are tried again.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from temper.data import fetch
from temper.errors import RecipeError

if TYPE_CHECKING:
    from temper.probes.base import ProbeSpec

AT_ONCE = 8
TRIES = 5
SECONDS = 60.0
ANSWER_TOKENS = 512
WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further try, unless the server says how long to wait."""
LONGEST_WAIT = 60.0
LARGEST = 64 << 20
"""Bytes of an answer that are read."""
TOO_MANY = 429


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
        if not is_address(url):
            raise RecipeError(
                f"probe {spec.name}: base_url {url!r}; expected an address such as http://localhost:8000/v1; correct it"
            )
        if variable and not os.environ.get(variable):
            raise RecipeError(
                f"probe {spec.name}: key_env names the environment variable {variable}, which is not set; expected the"
                f" key of {url} in it; run: export {variable}=..."
            )
        key = os.environ[variable] if variable else ""
        if not is_token(key):
            raise RecipeError(
                f"probe {spec.name}: key_env names the environment variable {variable}, whose content is no key: a line"
                f" break or a letter that HTTP cannot send; expected the key of {url} alone; set it again"
            )
        seconds = float(spec.options.get("seconds", SECONDS))
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
        opener = urllib.request.OpenerDirector()  # the usual one without the handler of redirects
        for handler in (
            urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler,
            urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPErrorProcessor,
        ):  # fmt: skip
            opener.add_handler(handler())
        with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
            try:
                answers = list(pool.map(lambda prompt: self._one(opener, prompt), prompts))
            finally:
                pool.shutdown(cancel_futures=True)  # after one refusal the others would be refused as well
        return dict(zip(prompts, answers, strict=True))

    def _one(self, opener: urllib.request.OpenerDirector, prompt: str) -> str:
        problem = ""
        for attempt in range(TRIES):
            wait = WAITS[min(attempt, len(WAITS) - 1)]
            try:
                with opener.open(self._request(prompt), timeout=self.seconds) as reply:
                    answer = self._read(reply.read())
            except urllib.error.HTTPError as error:
                problem = f"HTTP {error.code}"
                with error:
                    said = _excerpt(said_of(error), self.key)
                if error.code != TOO_MANY and error.code < 500:
                    raise RecipeError(
                        f"{self.where}: {self.base_url} answers {problem} ({said}); expected 200; check base_url, model"
                        f" ({self.model!r}) and key_env"
                    ) from None
                wait = _wanted_wait(error.headers.get("Retry-After", ""), wait)
            except (OSError, http.client.HTTPException) as error:
                problem = type(error).__name__
            else:
                self._keep(prompt, answer)
                return answer
            if attempt < TRIES - 1:
                self.sleep(wait)
        raise RecipeError(
            f"{self.where}: {self.base_url} gave no answer in {TRIES} tries (the last: {problem}); expected an endpoint"
            " that is up; start it, or run again: answers so far are kept"
        )

    def _request(self, prompt: str) -> urllib.request.Request:
        body = {
            "model": self.model, "temperature": 0, "max_tokens": ANSWER_TOKENS,
            "messages": [{"role": "user", "content": prompt}],
        }  # fmt: skip
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        return urllib.request.Request(f"{self.base_url}/chat/completions", json.dumps(body).encode(), headers)

    def _read(self, reply: bytes) -> str:
        try:
            return str(json.loads(reply)["choices"][0]["message"]["content"] or "")
        except (ValueError, KeyError, IndexError, TypeError):
            raise RecipeError(
                f"{self.where}: {self.base_url} answers {_excerpt(reply, self.key)!r}; expected the JSON of a chat"
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


def is_address(text: str) -> bool:
    """Whether something can be asked there; what urllib makes of another text is an error of any kind."""
    try:
        parts = urllib.parse.urlsplit(text)
        host = (parts.hostname or "").encode("idna")
        f"{parts.path}?{parts.query}".encode("ascii")
        return parts.scheme in ("http", "https") and bool(host) and parts.port != 0 and len(text.split()) == 1
    except ValueError:
        return False


def is_token(text: str) -> bool:
    """Whether a header can carry it; the error of one that cannot would show it."""
    return text.isascii() and text.isprintable()


def said_of(error: urllib.error.HTTPError) -> bytes:
    """The body of a refusal as far as it comes; the status is what counts."""
    try:
        return error.read(LARGEST)
    except (OSError, http.client.HTTPException):
        return b""


def _wanted_wait(told: str, otherwise: float) -> float:
    return min(float(told), LONGEST_WAIT) if told.strip().isdigit() else otherwise


def _excerpt(said: bytes, key: str) -> str:
    """The beginning of what a server says; some repeat the key they refuse."""
    shown = " ".join(said.decode("utf-8", errors="replace").split())
    return (shown.replace(key, "***") if key else shown)[:200]
