"""A data set of the hub is a source like any file; here a folder laid out like one, so that nothing is downloaded."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import pytest

from temper.data.documents import open_tables
from temper.data.hub import HubData, is_hub, open_hub, parse
from temper.errors import DataError, MissingExtra

DATASETS = importlib.util.find_spec("datasets") is not None
needs_datasets = pytest.mark.skipif(not DATASETS, reason="needs the extra `hub`")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hub:owner/name", HubData(name="owner/name")),
        ("hub:owner/name@test", HubData(name="owner/name", split="test")),
        ("hub:owner/na.me-1/config@train[:10%]", HubData(name="owner/na.me-1", config="config", split="train[:10%]")),
        ("hf://datasets/owner/name", HubData(name="owner/name")),
        (Path("hf://owner/name@test"), HubData(name="owner/name", split="test")),
        ("hub:./rows@test", HubData(name="./rows", split="test")),
        ("hub:/data/rows", HubData(name="/data/rows")),
    ],
)
def test_names(name: str | Path, expected: HubData) -> None:
    assert is_hub(name)
    assert parse(name) == expected


def test_other_names() -> None:
    assert not is_hub("data/hub.jsonl")
    assert parse("hub:owner/name", revision="abc").revision == "abc"
    for name in ("hub:name", "hub:a/b/c/d", "hub:a b/c", "hub:"):
        with pytest.raises(DataError, match="not the name of a data set; expected hub:owner/name"):
            parse(name)


@pytest.mark.skipif(DATASETS, reason="datasets is installed")
def test_without_the_extra_its_name_is_told() -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'temper-llm\[hub\]'"):
        open_hub("hub:./rows")


def folder(path: Path) -> Path:
    """Two splits as files of Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (path / "data").mkdir(parents=True)
    for split, rows in (("train", 1500), ("test", 2)):
        fields = [{"question": f"{split} {n}", "answer": str(n)} for n in range(rows)]
        pq.write_table(pa.Table.from_pylist(fields), path / "data" / f"{split}-00000-of-00001.parquet")
    return path


@needs_datasets
def test_a_folder_laid_out_as_on_the_hub_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    name = f"hub:{folder(tmp_path / 'rows')}"
    (stream,) = open_tables(Path(name))
    assert (stream.shape, stream.columns) == ("question/answer", ("question", "answer"))
    rows = list(pickle.loads(pickle.dumps(stream)).rows())
    # 1500 rows are taken from the data set in two portions; the row numbers go on through both.
    assert [(row.origin, row.reference) for row in rows] == [(f"{name}:{n + 1}", str(n)) for n in range(1500)]
    test = open_hub(f"{name}@test")
    assert [row.messages[0].content for row in test.rows()] == ["test 0", "test 1"]
    assert stream.fingerprint() == open_hub(name).fingerprint() != test.fingerprint()
    with pytest.raises(DataError, match=r"cannot be loaded: .*exam.*; expected hub:owner/name"):
        open_hub(f"{name}@exam")
    with pytest.raises(DataError, match="cannot be loaded"):
        open_hub(f"hub:{tmp_path / 'nowhere'}")


@needs_datasets
def test_of_several_splits_without_train_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    data = folder(tmp_path / "rows") / "data"
    (data / "train-00000-of-00001.parquet").rename(data / "validation-00000-of-00001.parquet")
    with pytest.raises(DataError, match=r"found the splits .*; expected one to be named; write hub:.*@"):
        open_hub(f"hub:{tmp_path / 'rows'}")
