"""The run folder is the database: recipe, resolved values, event log, report, stages with their checkpoints.

One run at a time holds its lock. Imports events and errors.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from temper import events
from temper.errors import MachineError, RecipeError, writing
from temper.events import Event, Resumed, RunFinished


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """Paths of a run."""

    root: Path

    @property
    def log(self) -> Path:
        """The event log."""
        return self.root / "events.jsonl"

    @property
    def report(self) -> Path:
        """The report, drawn from the log."""
        return self.root / "report.html"

    @property
    def key_file(self) -> Path:
        """What the run was started with; another key is another run."""
        return self.root / "resolved.json"

    def stage(self, name: str) -> Path:
        """Folder of one stage."""
        return self.root / "stages" / name

    def trace(self, stage: str) -> Path:
        """Which rows each step of a stage learnt from."""
        return self.stage(stage) / "rows.jsonl"

    def checkpoint(self, stage: str, step: int, alpha: float = 1.0) -> Path:
        """Folder of a checkpoint."""
        line = "" if alpha == 1.0 else f"-alpha-{alpha:.2f}"
        return self.stage(stage) / "checkpoints" / f"step-{step:06d}{line}"

    def relative(self, path: Path) -> str:
        """As written in events: relative to the run folder where it lies inside."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def append(self, event: Event) -> Event:
        """Stamps and writes an event."""
        stamped = dataclasses.replace(event, at=time.time())
        with writing(self.log):
            events.append(self.log, stamped)
        return stamped

    def events(self) -> list[Event]:
        """What still holds of the log; empty before the first event."""
        return events.read(self.log) if self.log.is_file() else []

    def finished(self) -> RunFinished | None:
        """The last event of a run that came to its end."""
        return next((e for e in self.events() if isinstance(e, RunFinished)), None)

    def seconds(self) -> float:
        """Wall clock of all sittings: the time between events, breaks before a sitting left out."""
        found = events.read(self.log, superseded=True) if self.log.is_file() else []
        return sum(b.at - a.at for a, b in itertools.pairwise(found) if not (isinstance(b, Resumed) and not b.stage))

    def sit_down(self) -> None:
        """Marks the beginning of a further sitting, before anything else is written in it."""
        self.append(Resumed(stage="", step=0))

    def claim(self, key: dict[str, object], recipe: str) -> bool:
        """Makes the folder this run's own; True when it holds an earlier sitting of the same run.

        Raises:
            RecipeError: another run lives here.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        if self.key_file.is_file():
            known = json.loads(self.key_file.read_text(encoding="utf-8"))
            changed = [name for name in key if known.get(name) != json.loads(json.dumps(key[name]))]
            if changed:
                raise RecipeError(
                    f"{self.root}: holds a run that differs in {', '.join(changed)}; expected an empty folder or "
                    f"the same run to continue; write --out with a new folder, or delete {self.root}"
                )
            self._write_recipe(recipe)
            return self.log.is_file()
        temporary = self.key_file.with_suffix(".part")
        if any(p.name not in (".lock", temporary.name) for p in self.root.iterdir()):
            raise RecipeError(
                f"{self.root}: is not empty and holds no run; expected an empty or new folder; "
                "write --out with a new folder"
            )
        temporary.write_text(json.dumps(key, indent=1), encoding="utf-8")
        temporary.replace(self.key_file)
        self._write_recipe(recipe)
        return False

    def _write_recipe(self, recipe: str) -> None:
        """For the reader alone, so it comes last: nothing depends on its being there after a kill."""
        if not (self.root / "recipe.yaml").is_file():
            (self.root / "recipe.yaml").write_text(recipe, encoding="utf-8")


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Holds the folder's lock; a second run in the same folder is refused."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = (root / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise MachineError(
            f"{root}: {error.strerror}; expected a folder that can be written; choose another --out"
        ) from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.seek(0)
            owner = handle.read().strip() or "unknown"
            raise MachineError(
                f"{root}: another run (process {owner}) is at work here; expected nobody; wait for it, or write --out "
                "with another folder"
            ) from None
        for left in root.rglob(".*.part"):  # what a kill left of a half-written checkpoint
            shutil.rmtree(left, ignore_errors=True)
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        try:
            yield
        finally:
            _forget_unused(root)


def is_held(root: Path) -> bool:
    """Whether a run is at work in a folder."""
    try:
        with (root / ".lock").open(encoding="utf-8") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _forget_unused(root: Path) -> None:
    """A run that was refused before it wrote anything leaves no folder behind."""
    if [p.name for p in root.iterdir()] == [".lock"]:
        with contextlib.suppress(OSError):
            (root / ".lock").unlink()
            root.rmdir()
