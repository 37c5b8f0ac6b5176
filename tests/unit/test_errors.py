"""What the system has against writing is told as the user's to put right."""

from __future__ import annotations

from pathlib import Path

import pytest

from temper.errors import MachineError, writing


def test_a_file_that_cannot_be_written_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be", encoding="utf-8")
    log = tmp_path / "runs" / "events.jsonl"
    with pytest.raises(MachineError, match=r"events\.jsonl: could not be written .*run the same"), writing(log):
        log.open("a")
    with pytest.raises(MachineError, match=r"then run `temper report r`$"), writing(log, then="run `temper report r`"):
        log.open("a")
