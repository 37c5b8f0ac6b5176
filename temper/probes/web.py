"""Web: a JSON body sent to an address that a recipe names, and tried again while that may help.

429, 5xx, broken connections and timeouts are tried again, after the waits given or as long as the server asks for. An
answer that trickles in is given up in time; its status and headers have the limit of each read alone. What is sent
leaves this machine for that address and no other: redirects are not followed. The secret comes from the environment
variable that the recipe names; it is sent as a bearer token and never written anywhere. What cannot work, an address, a
secret or a limit, is refused before anything is sent.
"""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

from temper.errors import RecipeError, TemperError

LONGEST_WAIT = 60.0
LARGEST = 64 << 20
"""Bytes of an answer that are read."""
DAY = 86_400.0
"""Seconds that nobody waits longer for."""
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
                    return _whole(reply, time.monotonic() + self.timeout)
            except urllib.error.HTTPError as error:
                with error:
                    problem = f"HTTP {error.code} ({self.excerpt(_said_of(error, self.timeout))})"
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
    secret = os.environ[variable] if variable else ""
    if not (secret.isascii() and secret.isprintable()):  # the error of http.client would show it
        raise RecipeError(
            f"{where} names the environment variable {variable}, whose content is no secret: a line break or a letter"
            " that HTTP cannot send; expected the secret alone; set it again"
        )
    return secret


def check_address(address: str, where: str) -> None:
    """Refuses what is no address of the web."""
    if not is_address(address):
        raise RecipeError(f"{where}: found {address!r}; expected an address such as http://localhost:8000; correct it")


def check_seconds(seconds: float, where: str) -> None:
    """Refuses a limit that cannot be kept: none, less than nothing, endless."""
    if not 0 < seconds <= DAY:
        raise RecipeError(f"{where} {seconds!r}; expected more than 0 and at most {DAY:g}; correct it")


def is_address(text: str) -> bool:
    """Whether something can be asked there; what urllib makes of another text is an error of any kind."""
    try:
        parts = urllib.parse.urlsplit(text)
        host = (parts.hostname or "").encode("idna")
        f"{parts.path}?{parts.query}".encode("ascii")
        return parts.scheme in ("http", "https") and bool(host) and parts.port != 0 and len(text.split()) == 1
    except ValueError:
        return False


def _whole(reply: http.client.HTTPResponse, deadline: float) -> bytes:
    """The body, or as much of it as is read; TimeoutError when it comes too slowly, whatever the limit of each read."""
    said, announced = bytearray(), reply.length
    while len(said) <= LARGEST and (part := reply.read1(1 << 16)):
        said += part
        if time.monotonic() > deadline:
            raise TimeoutError("the answer did not end in time")
    if announced is not None and len(said) < min(announced, LARGEST):
        raise http.client.IncompleteRead(bytes(said), announced - len(said))
    return bytes(said)


def _said_of(error: urllib.error.HTTPError, timeout: float) -> bytes:
    """The body of a refusal if it comes; the status is what counts."""
    try:
        return _whole(cast("http.client.HTTPResponse", error.fp), time.monotonic() + timeout)
    except (OSError, http.client.HTTPException):
        return b""


def _opener() -> urllib.request.OpenerDirector:
    """The usual one without the handler of redirects."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPErrorProcessor,
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener
