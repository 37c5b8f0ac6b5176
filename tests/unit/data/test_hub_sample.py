"""Hub sources from local copies made by hand, in the layouts that a hub has."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from temper.data import hub_sample
from temper.data.hub_sample import HubSet
from temper.errors import DataError, MachineError

CHATS = HubSet(id="owner/chats", revision="f" * 40, columns={"messages": "turns"}, only={"source": ("good",)})
TEXTS = HubSet(id="owner/texts", revision="f" * 40, columns={"text": "body"}, config="sample-1B")


def chat(question: str, reply: str = "Yes.", source: str = "good") -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return {"turns": turns, "source": source, "n": 1}


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)


def questions(found: list[dict[str, Any]]) -> list[str]:
    return [row["messages"][0]["content"] for row in found]


def test_conversations_of_a_parquet_copy_are_read_up_to_the_limit(tmp_path: Path) -> None:
    parquet(tmp_path / "owner/chats/data/train-00000-of-00002.parquet", [chat("a?"), chat("b?", source="bad")])
    parquet(tmp_path / "owner/chats/data/train-00001-of-00002.parquet", [chat("c?"), chat("d?"), chat("a?")])
    parquet(tmp_path / "owner/chats/data/test-00000-of-00001.parquet", [chat("never?")])
    found = hub_sample.rows(CHATS, "chats", limit=9, folder=tmp_path)
    assert questions(found) == ["a?", "c?", "d?"]
    assert found[0]["messages"][1] == {"role": "assistant", "content": "Yes."}
    assert len({row["id"] for row in found}) == 3
    assert questions(hub_sample.rows(CHATS, "chats", limit=2, folder=tmp_path)) == ["a?", "c?"]


@pytest.mark.parametrize(
    "record",
    [
        chat("x" * 3998, "abc"),  # 3,998 + a line break + 3 characters, two too many
        chat("q?", "  "),
        {**chat("q?"), "turns": [{"role": "user", "content": "q?"}]},
        {**chat("q?"), "turns": [{"role": "assistant", "content": "q?"}]},
        {**chat("q?"), "turns": [{"from": "human", "value": "q?"}]},
        {**chat("q?"), "turns": None},
        {**chat("q?"), "source": None},
    ],
)
def test_conversations_that_cannot_be_learnt_from_are_left_out(record: dict[str, Any]) -> None:
    assert hub_sample.usable(CHATS, record) == []


def test_a_list_of_licences_must_all_be_allowed() -> None:
    code = HubSet(id="o/c", revision="f" * 40, columns={"text": "body"}, only={"licenses": ("MIT", "ISC")})
    assert len(hub_sample.usable(code, {"body": "x" * 300, "licenses": ["MIT", "ISC"]})) == 1
    assert hub_sample.usable(code, {"body": "x" * 300, "licenses": ["MIT", "GPL-3.0"]}) == []
    assert hub_sample.usable(code, {"body": "x" * 300, "licenses": []}) == []


def test_texts_of_the_wanted_configuration_are_read_in_pieces(tmp_path: Path) -> None:
    # five paragraphs of 700 characters are pieces of two, two and one; of a document two pieces are taken
    long = "\n".join(letter * 700 for letter in "abcde")
    parquet(tmp_path / "owner/texts/sample/1B/000.parquet", [{"body": long}, {"body": "short"}, {"body": "f" * 300}])
    parquet(tmp_path / "owner/texts/sample/10B/000.parquet", [{"body": "g" * 300}])
    found = hub_sample.rows(TEXTS, "texts", limit=9, folder=tmp_path)
    assert [row["text"][0] for row in found] == ["a", "c", "f"]


def test_lines_zipped_lines_and_arrow_are_read_as_well(tmp_path: Path) -> None:
    folder = tmp_path / "owner/chats"
    folder.mkdir(parents=True)
    (folder / "a.json").write_text(json.dumps(chat("a?")) + "\n\n" + json.dumps(chat("b?")), encoding="utf-8")
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(json.dumps(chat("c?")).encode()))
    table = pa.Table.from_pylist([chat("d?")])
    with pa.OSFile(str(folder / "d.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    (folder / "dataset_info.json").write_text("{}")
    assert questions(hub_sample.rows(CHATS, "chats", limit=9, folder=tmp_path)) == ["a?", "b?", "c?", "d?"]


def test_a_copy_is_found_by_variable_and_in_the_layout_of_the_hubs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEMPER_HUB", raising=False)
    assert hub_sample.local_copy(CHATS) is None
    monkeypatch.setenv("TEMPER_HUB", str(tmp_path))
    assert hub_sample.local_copy(CHATS) is None
    cached = tmp_path / "datasets--owner--chats" / "snapshots" / ("f" * 40)
    cached.mkdir(parents=True)
    assert hub_sample.local_copy(CHATS) == cached
    (tmp_path / "owner/chats").mkdir(parents=True)
    assert hub_sample.local_copy(CHATS) == tmp_path / "owner/chats"


def test_the_fingerprint_changes_with_the_files(tmp_path: Path) -> None:
    parquet(tmp_path / "train-0.parquet", [chat("a?")])
    before = hub_sample.fingerprint(CHATS, tmp_path)
    assert hub_sample.fingerprint(CHATS, tmp_path) == before
    os.utime(tmp_path / "train-0.parquet", ns=(1, 1))
    assert hub_sample.fingerprint(CHATS, tmp_path) != before


def test_wrong_copies_are_refused_with_what_was_found(tmp_path: Path) -> None:
    folder = tmp_path / "owner/chats"
    folder.mkdir(parents=True)
    with pytest.raises(DataError, match=r"chats: no data files; expected \.parquet"):
        hub_sample.rows(CHATS, "chats", limit=9, folder=tmp_path)
    file = folder / "train.parquet"
    parquet(file, [{"text": "a"}])
    with pytest.raises(DataError, match=r"owner/chats: no column 'turns'; found 'text'"):
        hub_sample.rows(CHATS, "chats", limit=9, folder=tmp_path)
    parquet(file, [chat("a?", source="bad")])
    with pytest.raises(DataError, match=r"chats: no usable row in "):
        hub_sample.rows(CHATS, "chats", limit=9, folder=tmp_path)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"train\.parquet: not a whole \.parquet file"):
        hub_sample.rows(CHATS, "chats", limit=9, folder=tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("datasets") is not None, reason="datasets is installed")
def test_without_a_copy_and_without_datasets_the_way_to_the_rows_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEMPER_HUB", raising=False)
    with pytest.raises(MachineError) as caught:
        hub_sample.rows(CHATS, "chats", limit=9)
    assert str(caught.value) == (
        "chats: the rows are on the hub as owner/chats and not on this machine; run where there is a network after"
        " pip install 'temper-llm[hub]', or copy the data set to <folder>/owner/chats and set TEMPER_HUB to <folder>"
    )
