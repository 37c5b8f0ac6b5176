"""Digests of files, remembered: a large file is hashed once and not again before it changes.

They share the cache's `hashes.json` with those of model folders. Imports fetch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from temper.data import fetch

SETTLED_S = 2.0
"""A file changed this recently may change again within one tick of the disk's clock: its hash is not remembered."""


def remembered_digests(paths: Sequence[Path]) -> list[str]:
    """The sha256 of files, kept in the cache under path, size and time of change so that each is computed once."""
    index = fetch.cache_dir() / "hashes.json"
    known = _hashes(index)
    found: dict[str, str] = {}
    lasting: dict[str, str] = {}
    keys: list[str] = []
    for path in paths:
        stat = path.stat()
        key = json.dumps([[str(path.resolve()), stat.st_size, stat.st_mtime_ns]])
        keys.append(key)
        found[key] = known.get(key) or fetch.digest(path)
        if key not in known and time.time() - stat.st_mtime > SETTLED_S:
            lasting[key] = found[key]
    if lasting:
        with fetch.replacing(index) as out:
            out.write(json.dumps({**_hashes(index), **lasting}).encode())
    return [found[key] for key in keys]


def _hashes(index: Path) -> Mapping[str, str]:
    try:
        return json.loads(index.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
