"""Endpoint: a reward that answers over HTTP, asked in batches.

    POST url  {"items": [{"task": {...}, "reply": "..."}]}   ->   {"scores": [0.5, {"value": 1.0, "parts": {...}}]}

A score is a number, or an object with `value` and perhaps `outcome`, `parts` and `note`; null, or an object with
`error`, is an errored reply. 429, 5xx, broken connections and timeouts are tried again with growing waits. Tasks and
replies leave this machine for that address and no other: redirects are not followed. The bearer token comes from the
environment variable that the recipe names, and is never written anywhere.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from temper.errors import RecipeError
from temper.probes.endpoint import LARGEST, TOO_MANY, is_address, is_token, said_of
from temper.rollout.score import NO_PARTS, Outcome, RewardError, Rule, Score, as_score, errored
from temper.rollout.task import Task

AT_ONCE = 4
"""Batches under way at a time."""
LONGEST_WAIT = 60.0
DAY = 86_400.0
"""Seconds that nobody waits longer for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """Where to ask, and how patiently."""

    url: str
    token: str = field(default="", repr=False)
    timeout: float = 30.0
    """Seconds until one batch is answered."""
    retries: int = 4
    """Further tries after the first."""
    sleep: Callable[[float], None] = time.sleep

    def score(self, tasks: Sequence[Task], replies: Sequence[str], *, batch: int) -> list[Score]:
        """One score per reply, in order.

        Raises:
            RewardError: the endpoint is down, refuses, or does not speak the protocol.
        """
        items = [{"task": dict(t), "reply": r} for t, r in zip(tasks, replies, strict=True)]
        batches = [items[start : start + batch] for start in range(0, len(items), batch)]
        with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
            try:
                return [score for scores in pool.map(self._batch, batches) for score in scores]
            finally:
                pool.shutdown(cancel_futures=True)  # after one refusal the others would be refused as well

    def _batch(self, items: Sequence[Mapping[str, Any]]) -> list[Score]:
        body = json.dumps({"items": items}, default=str).encode()
        problem = ""
        for attempt in range(self.retries + 1):
            wait = min(2.0**attempt, LONGEST_WAIT)
            try:
                with opener().open(self._request(body), timeout=self.timeout) as reply:
                    return self._read(_whole(reply, time.monotonic() + self.timeout), len(items))
            except urllib.error.HTTPError as error:
                with error:
                    said = self._excerpt(said_of(error))
                problem = f"HTTP {error.code} ({said})"
                if error.code != TOO_MANY and error.code < 500:
                    raise RewardError(
                        f"reward endpoint: {self.url} answers {problem}; expected 200; check url and token_env"
                    ) from None
                told = error.headers.get("Retry-After", "").strip()
                wait = min(float(told), LONGEST_WAIT) if told.isdigit() else wait
            except (OSError, http.client.HTTPException) as error:
                problem = f"{type(error).__name__}: {self._hidden(str(error))}"
            if attempt < self.retries:
                self.sleep(wait)
        raise RewardError(
            f"reward endpoint: {self.url} gave no answer in {self.retries + 1} tries (the last: {problem}); expected an"
            " endpoint that is up; start it and run again"
        )

    def _request(self, body: bytes) -> urllib.request.Request:
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        return urllib.request.Request(self.url, body, headers)

    def _read(self, said: bytes, count: int) -> list[Score]:
        wanted = f'expected {{"scores": [...]}} with {count} scores, one per item in order; correct the endpoint'
        try:
            scores = json.loads(said)["scores"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RewardError(f"reward endpoint: {self.url} answers {self._excerpt(said)!r}; {wanted}") from None
        if not isinstance(scores, list) or len(scores) != count:
            found = f"{len(scores)} scores" if isinstance(scores, list) else self._excerpt(said)
            raise RewardError(f"reward endpoint: {self.url} answers {found}; {wanted}")
        return [_score(score) for score in scores]

    def _excerpt(self, said: bytes) -> str:
        return self._hidden(" ".join(said[:2000].decode("utf-8", errors="replace").split()))[:200]

    def _hidden(self, text: str) -> str:
        """Some servers repeat the token they refuse."""
        return text.replace(self.token, "***") if self.token else text


def token_of(variable: str, where: str) -> str:
    """The content of the environment variable that a recipe names; empty when it names none."""
    if variable and not os.environ.get(variable):
        raise RecipeError(
            f"{where} names the environment variable {variable}, which is not set; expected a token in it;"
            f" run: export {variable}=..."
        )
    token = os.environ[variable] if variable else ""
    if not is_token(token):
        raise RecipeError(
            f"{where} names the environment variable {variable}, whose content is no token: a line break or a letter"
            " that HTTP cannot send; expected the token alone; set it again"
        )
    return token


def check_address(address: str, where: str) -> None:
    """Refuses what is no address of the web."""
    if not is_address(address):
        raise RecipeError(f"{where}: found {address!r}; expected an address such as http://localhost:8000; correct it")


def _endpoint(
    tasks: Sequence[Task], replies: Sequence[str], *, url: str, token_env: str = "", batch: int = 32,
    timeout: float = 30.0, retries: int = 4,
) -> list[Score]:  # fmt: skip
    """What the endpoint says of each reply."""
    remote = Remote(url=url, token=token_of(token_env, "reward endpoint: token_env"), timeout=timeout, retries=retries)
    return remote.score(tasks, replies, batch=batch)


def _is_reachable(params: Mapping[str, Any]) -> None:
    check_address(params["url"], "reward endpoint: url")
    token_of(params.get("token_env", ""), "reward endpoint: token_env")
    for name, least, most in (("batch", 1, 10_000), ("timeout", 0.001, DAY), ("retries", 0, 100)):
        if not least <= params.get(name, least) <= most:
            raise RecipeError(f"reward endpoint: {name} {params[name]!r}; expected {least:g} to {most:g}; correct it")


def _whole(reply: http.client.HTTPResponse, deadline: float) -> bytes:
    """The body, unless it comes so slowly that the time for one batch is over; the socket's own limit is per read."""
    said = bytearray()
    while len(said) <= LARGEST and (part := reply.read1(1 << 16)):
        said += part
        if time.monotonic() > deadline:
            raise TimeoutError("the answer did not end in time")
    if reply.length:
        raise http.client.IncompleteRead(bytes(said), reply.length)
    return bytes(said)


def _score(told: Any) -> Score:
    if not isinstance(told, Mapping):
        return as_score(told)
    if told.get("error") or "value" not in told:
        return errored(f"the endpoint says: {str(told.get('error') or 'no value')[:200]}")
    parts = told.get("parts") or NO_PARTS
    outcome = told.get("outcome") or Outcome.GRADED
    return as_score(Score(value=told["value"], outcome=outcome, parts=parts, note=str(told.get("note") or "")))


def opener() -> urllib.request.OpenerDirector:
    """What asks over HTTP: the usual one without the handler of redirects."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPErrorProcessor,
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener


endpoint = Rule(function=_endpoint, check=_is_reachable, batch=True)
