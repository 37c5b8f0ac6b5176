"""Hub samples: the first usable rows of general data sets on a hub, from a local copy or streamed through `datasets`.

A local copy lies in the folder that TEMPER_HUB names, as `<owner>/<name>/` or in the hub's own cache layout, and is
read with pyarrow alone, so a machine without network and without `datasets` can use it. A user's own data set is read
whole and is the matter of `hub`; this is for the catalogue's, of which a part is enough. Imports errors and readers.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from temper.data import readers
from temper.errors import DataError, MachineError

VARIABLE = "TEMPER_HUB"
CHAT_CHARACTERS = 4000
"""Longest conversation that is used, about 1,000 tokens."""
PIECES = 2
"""Pieces taken of one long document, so that no document is most of a small sample."""
MOST_SCANNED = 300_000
"""Rows looked at before a source is given up with what was found."""
SUFFIXES = (".parquet", ".arrow", ".jsonl", ".jsonl.gz", ".json", ".json.gz")
ABOUT = ("dataset_info.json", "dataset_infos.json", "state.json")
"""Files beside the data that say what the data are."""

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSet:
    """A data set on a hub, and what of it is used.

    Example: `HubSet(id="owner/chats", revision="0f...", columns={"messages": "turns"}, only={"source": ("oasst",)})`
    """

    id: str
    """owner/name."""
    revision: str
    """Commit of the data set; a local copy is taken as it is."""
    columns: Mapping[str, str]
    """`messages`, or `text`, or `prompt` and `completion`, and the column that holds it."""
    config: str = ""
    split: str = "train"
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Column -> values that may be used; of a list all. Where parts of a set have other licences."""


def local_copy(hub: HubSet, folder: Path | None = None) -> Path | None:
    """The folder of a local copy, below `folder` or the one that TEMPER_HUB names; None where there is none."""
    root = folder or (Path(os.environ[VARIABLE]).expanduser() if os.environ.get(VARIABLE) else None)
    if root is None:
        return None
    cached = root / f"datasets--{hub.id.replace('/', '--')}" / "snapshots" / hub.revision
    return next((path for path in (root / hub.id, cached) if path.is_dir()), None)


def fingerprint(hub: HubSet, copy: Path) -> str:
    """Changes when a file of the local copy does: names, sizes and times, since contents may be many gigabytes."""
    facts = [(str(path.relative_to(copy)), path.stat().st_size, path.stat().st_mtime_ns) for path in files(hub, copy)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def files(hub: HubSet, copy: Path) -> list[Path]:
    """The data files of the wanted configuration and split; all of them where names say neither."""
    found = sorted(path for path in copy.rglob("*") if path.is_file() and path.name.endswith(SUFFIXES))
    found = [path for path in found if path.name not in ABOUT]
    if not found:
        raise DataError(f"{copy}: no data files; expected {', '.join(SUFFIXES)}; copy them from {hub.id} on the hub")
    place = {path: path.relative_to(copy).as_posix() for path in found}
    if hub.config:
        found = [path for path in found if hub.config in place[path].replace("/", "-")] or found
    named = [path for path in found if re.search(rf"(^|[-_/.]){re.escape(hub.split)}([-_/.]|$)", place[path])]
    return named or found


def rows(hub: HubSet, name: str, *, limit: int, folder: Path | None = None) -> readers.Items:
    """The first usable rows, at most `limit`: conversations as `messages`, texts as pieces in `text`, each with an id.

    Args:
        hub: What to read.
        name: Of the source, for messages.
        limit: Reading ends there, so a large set is never read whole.
        folder: Of local copies, in place of the one that TEMPER_HUB names.
    """
    copy = local_copy(hub, folder)
    records = _stored(hub, copy) if copy else _streamed(hub, name)
    found: dict[str, Any] = {}
    for scanned, record in enumerate(records):
        if len(found) >= limit or scanned >= MOST_SCANNED:
            break
        found.update({item["id"]: item for item in usable(hub, record)})
    if not found:
        raise DataError(
            f"{name}: no usable row in {copy or hub.id}; expected conversations that end with an answer, or texts;"
            " copy the right data set, or leave the source out"
        )
    return list(found.values())[:limit]


def usable(hub: HubSet, record: Record) -> readers.Items:
    """What of a record can be learnt from: a conversation that ends with an answer and is not too long, or pieces."""
    for column in (*hub.columns.values(), *hub.only):
        if column not in record:
            raise DataError(
                f"{hub.id}: no column {column!r}; found {', '.join(map(repr, record))}; expected the data set that the"
                " catalogue names; copy it anew"
            )
    for column, allowed in hub.only.items():
        values = record[column] if isinstance(record[column], list) else [record[column]]
        if not values or not set(values) <= set(allowed):
            return []
    if "text" in hub.columns:
        pieces = readers.cut(str(record[hub.columns["text"]] or ""))[:PIECES]
        return [{"id": readers.digest(piece)[:16], "text": piece} for piece in pieces]
    messages = _messages(hub, record)
    said = "\n".join(message["content"] for message in messages)
    whole = bool(messages) and messages[-1]["role"] == "assistant" and all(m["content"].strip() for m in messages)
    if not whole or len(said) > CHAT_CHARACTERS or "user" not in {m["role"] for m in messages}:
        return []
    return [{"id": readers.digest(*(m["role"] + m["content"] for m in messages))[:16], "messages": messages}]


def how_to_get(hub: HubSet, name: str) -> str:
    """One sentence: the two ways to the data."""
    return (
        f"{name}: the rows are on the hub as {hub.id} and not on this machine; run where there is a network after"
        f" pip install 'temper-llm[hub]', or copy the data set to <folder>/{hub.id} and set {VARIABLE} to <folder>"
    )


def _messages(hub: HubSet, record: Record) -> list[dict[str, str]]:
    if "messages" in hub.columns:
        turns: Sequence[Record] = record[hub.columns["messages"]] or []
        return [{"role": str(turn.get("role")), "content": str(turn.get("content") or "")} for turn in turns]
    asked, answered = str(record[hub.columns["prompt"]] or ""), str(record[hub.columns["completion"]] or "")
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


def _stored(hub: HubSet, copy: Path) -> Iterator[Record]:
    """Records of a local copy, a batch in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in files(hub, copy):
        try:
            if path.suffix == ".parquet":
                with pq.ParquetFile(path) as file:
                    for batch in file.iter_batches(batch_size=512):
                        yield from batch.to_pylist()
            elif path.suffix == ".arrow":
                with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
                    for batch in stream:
                        yield from batch.to_pylist()
            else:
                yield from _lines(path)
        except (pa.ArrowInvalid, EOFError, gzip.BadGzipFile, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: not a whole {path.suffix} file ({error}); copy it from {hub.id} again") from None


def _lines(path: Path) -> Iterator[Record]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


def _streamed(hub: HubSet, name: str) -> Iterable[Record]:
    """Records from the network; what fails there ends in the sentence that says how to get the data."""
    try:
        datasets, errors = import_module("datasets"), import_module("huggingface_hub.errors")
    except ImportError:
        raise MachineError(how_to_get(hub, name)) from None
    print(f"streaming {hub.id} from the hub ...", file=sys.stderr, flush=True)
    try:
        yield from datasets.load_dataset(
            hub.id, hub.config or None, split=hub.split, revision=hub.revision, streaming=True
        )
    except (OSError, getattr(errors, "HTTPError", OSError)) as error:  # no network, a gate, a name that is gone
        raise MachineError(f"{how_to_get(hub, name)} ({error})") from error
