"""Web: a JSON body sent to an address that a recipe names, and tried again while that may help.

429, 5xx, broken connections and timeouts are tried again, after the waits given or as long as the server asks for. What
is sent leaves this machine for that address and no other: redirects are not followed. The secret comes from the
environment variable that the recipe names; it is sent as a bearer token and never written anywhere.
"""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from temper.errors import RecipeError, TemperError

LONGEST_WAIT = 60.0
LARGEST = 64 << 20
"""Bytes of an answer that are read."""
TOO_MANY = 429


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to send, how patiently, and what to say when it is in vain."""

    where: str
    """Who asks, for messages."""
    url: str
    secret: str = field(default="", repr=False)
    timeout: float
    """Seconds until one answer."""
    waits: Sequence[float]
    """Seconds before each further try."""
    refused: str
    """What was expected and what to do where the server refuses: `expected 200; check url`."""
    silent: str
    """The same where it gives no answer: `expected an endpoint that is up; start it`."""
    fault: type[TemperError] = RecipeError
    sleep: Callable[[float], None] = time.sleep

    def send(self, body: bytes | None) -> bytes:
        """What the server answers; with no body it is only asked for what is there.

        Raises:
            TemperError: the `fault`, when the server refuses, or gives no answer in all tries.
        """
        headers = {"Content-Type": "application/json"}
        if self.secret:
            headers["Authorization"] = f"Bearer {self.secret}"
        request = urllib.request.Request(self.url, body, headers)
        opener, problem = _opener(), ""
        for wait in (*self.waits, None):
            told = ""
            try:
                with opener.open(request, timeout=self.timeout) as reply:
                    return reply.read(LARGEST + 1)
            except urllib.error.HTTPError as error:
                with error:
                    problem = f"HTTP {error.code} ({self.excerpt(error.read(LARGEST))})"
                told = error.headers.get("Retry-After", "").strip()
                if error.code != TOO_MANY and error.code < 500:
                    raise self.fault(f"{self.where}: {self.url} answers {problem}; {self.refused}") from None
            except (OSError, http.client.HTTPException) as error:
                problem = f"{type(error).__name__}: {self._hidden(str(error))}"
            if wait is not None:
                self.sleep(min(float(told) if told.isdigit() else wait, LONGEST_WAIT))
        tries = len(self.waits) + 1
        raise self.fault(
            f"{self.where}: {self.url} gave no answer in {tries} tries (the last: {problem}); {self.silent}"
        )

    def excerpt(self, said: bytes) -> str:
        """The beginning of what the server says; some repeat the secret that they refuse."""
        return self._hidden(" ".join(said[:2000].decode("utf-8", errors="replace").split()))[:200]

    def _hidden(self, text: str) -> str:
        return text.replace(self.secret, "***") if self.secret else text


def secret_of(variable: str, where: str) -> str:
    """The content of the environment variable that a recipe names; empty when it names none."""
    if variable and not os.environ.get(variable):
        raise RecipeError(
            f"{where} names the environment variable {variable}, which is not set; expected a secret in it;"
            f" run: export {variable}=..."
        )
    return os.environ[variable] if variable else ""


def check_address(address: str, where: str) -> None:
    """Refuses what is no address of the web."""
    if not address.startswith(("http://", "https://")):
        raise RecipeError(f"{where}: found {address!r}; expected an address such as http://localhost:8000; correct it")


def _opener() -> urllib.request.OpenerDirector:
    """The usual one without the handler of redirects."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPErrorProcessor,
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener
