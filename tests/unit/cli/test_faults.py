from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from temper.cli.faults import clearly
from temper.errors import DataError, NotReady


@pytest.mark.parametrize(("error", "code"), [(DataError("rows.jsonl:17: x"), 2), (NotReady("do SFT first"), 3)])
def test_a_users_fault_is_its_message_and_its_exit_code(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise error

    with pytest.raises(typer.Exit) as ended:
        clearly(command)()
    assert ended.value.exit_code == code
    assert capsys.readouterr().err == f"error: {error}\n"


def test_our_fault_is_a_short_message_and_a_file_with_the_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def command() -> None:
        raise ZeroDivisionError("in the middle")

    with pytest.raises(typer.Exit) as ended:
        clearly(command)()
    said = capsys.readouterr().err
    (file,) = tmp_path.iterdir()
    assert ended.value.exit_code == 1
    assert str(file) in said
    assert "Traceback" not in said
    assert "ZeroDivisionError: in the middle" in file.read_text(encoding="utf-8")


@pytest.fixture(name="heard")
def _heard() -> Iterator[None]:
    """A process that a shell started in its background was told not to hear Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_and_says_that_the_same_command_continues(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        os.kill(os.getpid(), number)
        time.sleep(5)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as ended:
        clearly(command)()
    assert ended.value.exit_code == 130
    assert capsys.readouterr().err == "interrupted; the same command continues\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_commands_own_exit_code_passes() -> None:
    def command() -> None:
        raise typer.Exit(4)

    with pytest.raises(typer.Exit) as ended:
        clearly(command)()
    assert ended.value.exit_code == 4
