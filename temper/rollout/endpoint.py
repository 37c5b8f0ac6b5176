"""Endpoint: a reward that answers over HTTP, asked in batches.

    POST url  {"items": [{"task": {...}, "reply": "..."}]}   ->   {"scores": [0.5, {"value": 1.0, "parts": {...}}]}

A score is a number, or an object with `value` and perhaps `outcome`, `parts` and `note`; null, or an object with
`error`, is an errored reply. How it is asked stands in `probes/web.py`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from temper.errors import RecipeError
from temper.probes.web import Address, check_address, check_seconds, secret_of
from temper.rollout.score import NO_PARTS, Outcome, RewardError, Rule, Score, as_score, errored
from temper.rollout.task import Task

AT_ONCE = 4
"""Batches under way at a time."""
SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """Where to ask, and how patiently."""

    url: str
    token: str = field(default="", repr=False)
    timeout: float = SECONDS
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
        said = self._address.send(json.dumps({"items": items}, default=str).encode())
        return self._read(said, len(items))

    @property
    def _address(self) -> Address:
        return Address(
            where="reward endpoint", url=self.url, secret=self.token, timeout=self.timeout, fault=RewardError,
            waits=[2.0**attempt for attempt in range(self.retries)], sleep=self.sleep,
            refused="expected 200; check url and token_env",
            silent="expected an endpoint that is up; start it and run again",
        )  # fmt: skip

    def _read(self, said: bytes, count: int) -> list[Score]:
        wanted = f'expected {{"scores": [...]}} with {count} scores, one per item in order; correct the endpoint'
        shown = self._address.excerpt(said)
        try:
            scores = json.loads(said)["scores"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RewardError(f"reward endpoint: {self.url} answers {shown!r}; {wanted}") from None
        if not isinstance(scores, list) or len(scores) != count:
            found = f"{len(scores)} scores" if isinstance(scores, list) else shown
            raise RewardError(f"reward endpoint: {self.url} answers {found}; {wanted}")
        return [_score(score) for score in scores]


def _endpoint(
    tasks: Sequence[Task], replies: Sequence[str], *, url: str, token_env: str = "", batch: int = 32,
    timeout: float = SECONDS, retries: int = 4,
) -> list[Score]:  # fmt: skip
    """What the endpoint says of each reply."""
    remote = Remote(url=url, token=secret_of(token_env, "reward endpoint: token_env"), timeout=timeout, retries=retries)
    return remote.score(tasks, replies, batch=batch)


def _is_reachable(params: Mapping[str, Any]) -> None:
    check_address(params["url"], "reward endpoint: url")
    secret_of(params.get("token_env", ""), "reward endpoint: token_env")
    check_seconds(params.get("timeout", SECONDS), "reward endpoint: timeout")
    for name, least, most in (("batch", 1, 10_000), ("retries", 0, 100)):
        if not least <= params.get(name, least) <= most:
            raise RecipeError(f"reward endpoint: {name} {params[name]!r}; expected {least} to {most}; correct it")


def _score(told: Any) -> Score:
    if not isinstance(told, Mapping):
        return as_score(told)
    if told.get("error") or "value" not in told:
        return errored(f"the endpoint says: {str(told.get('error') or 'no value')[:200]}")
    parts = told.get("parts") or NO_PARTS
    outcome = told.get("outcome") or Outcome.GRADED
    return as_score(Score(value=told["value"], outcome=outcome, parts=parts, note=str(told.get("note") or "")))


endpoint = Rule(function=_endpoint, check=_is_reachable, batch=True)
