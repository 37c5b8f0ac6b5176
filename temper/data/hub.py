"""Hub: a data set of the Hugging Face hub, or a folder laid out like one, as a source of rows (extra `hub`).

Named `hub:owner/name`, with `/config` and `@split` where there are several; `hf://datasets/owner/name` is the same. A
name that begins with . or / is a folder, and nothing is asked of the network for it. Imports rows, files, columnar and
errors.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temper.data import columnar
from temper.data.files import BLOCK, Batch
from temper.data.rows import Stream, stream
from temper.errors import DataError, MissingExtra

PREFIX = re.compile(r"hub:|hf:/+(?:datasets/)?")
ROWS = 1000
"""Rows that are taken from the data set at once."""
FORM = "expected hub:owner/name, hub:owner/name/config@split, or hub:./folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubData:
    """One split of a data set."""

    name: str
    """owner/name, or a folder."""
    config: str = ""
    split: str = ""
    """Empty for `train`, or the only one there is."""
    revision: str = ""
    """A commit, tag or branch of the hub; empty for the newest."""

    @property
    def path(self) -> Path:
        """How messages and rows name it."""
        config = f"/{self.config}" if self.config else ""
        return Path(f"hub:{self.name}{config}{'@' if self.split else ''}{self.split}")

    def blocks(self, bytes_per_block: int = BLOCK) -> Iterator[Batch]:
        """The rows in pieces; the data set itself is a memory-mapped file in the cache of `datasets`."""
        for piece in columnar.cut(self._tables(), bytes_per_block):
            yield Batch(path=self.path, row=piece.row, content=piece.content)

    def fingerprint(self) -> str:
        """Sha256 of the rows as Arrow writes them; another version of Arrow may write them differently."""
        digest = hashlib.sha256()
        for piece in columnar.cut(self._tables(), BLOCK):
            digest.update(piece.content)
        return digest.hexdigest()

    def _tables(self) -> Iterator[Any]:
        for table in self._load().with_format("arrow").iter(batch_size=ROWS):
            yield table.replace_schema_metadata(None)  # it holds the version of `datasets`

    def _load(self) -> Any:
        datasets = _datasets()
        try:
            loaded = datasets.load_dataset(
                self.name, self.config or None, split=self.split or None, revision=self.revision or None
            )
        except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
            found = " ".join(str(error).split())[:400]
            do = "correct the name or the split, or run where the hub can be reached"
            raise DataError(f"{self.path}: cannot be loaded: {found}; {FORM}; {do}") from None
        if self.split:
            return loaded
        splits = list(loaded)
        if "train" not in splits and len(splits) > 1:
            found = f"found the splits {', '.join(splits)}"
            raise DataError(f"{self.path}: {found}; expected one to be named; write {self.path}@{splits[0]}")
        return loaded["train" if "train" in splits else splits[0]]


def is_hub(name: str | Path) -> bool:
    """Whether a recipe's `data:` names a data set of the hub."""
    return PREFIX.match(str(name)) is not None


def parse(name: str | Path, *, revision: str = "") -> HubData:
    """The data set that a name stands for; nothing is loaded."""
    prefix = PREFIX.match(str(name))
    rest, _, split = str(name)[prefix.end() if prefix else 0 :].partition("@")
    if prefix and rest.startswith((".", "/")):
        return HubData(name=rest, split=split)
    parts = rest.split("/")
    if not prefix or len(parts) not in (2, 3) or not all(re.fullmatch(r"[\w.-]+", part) for part in parts):
        raise DataError(f"{name}: not the name of a data set; {FORM}; correct it")
    return HubData(name="/".join(parts[:2]), config="".join(parts[2:]), split=split, revision=revision)


def open_hub(name: str | Path, columns: Mapping[str, str] | None = None, *, revision: str = "") -> Stream:
    """The rows of a data set, downloaded if it is not in the cache; `columns` as for `read_table`."""
    return stream(parse(name, revision=revision), columns)


def _datasets() -> Any:
    try:
        return importlib.import_module("datasets")
    except ModuleNotFoundError:
        raise MissingExtra("datasets", "hub") from None
