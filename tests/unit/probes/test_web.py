"""What holds for everything that is asked over HTTP, whoever asks."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from temper.probes import web

if TYPE_CHECKING:
    import pytest


def test_an_answer_without_end_is_read_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "LARGEST", 1 << 20)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_pour, args=(listener,), daemon=True).start()
        address = web.Address(
            where="test", url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60.0, waits=(), refused="",
            silent="",
        )  # fmt: skip
        said = address.send(b"{}")
    assert (1 << 20) < len(said) <= (1 << 20) + (1 << 16)


def _pour(listener: socket.socket) -> None:
    """No length is announced, and the end never comes."""
    with suppress(OSError), listener.accept()[0] as line:
        line.recv(1 << 16)
        line.sendall(b"HTTP/1.1 200 X\r\n\r\n")
        while True:
            line.sendall(b" " * (1 << 16))
