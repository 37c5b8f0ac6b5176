"""Data of every kind become a recipe that loads, with the stages that they call for."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from temper import registry
from temper.data.rows import read_rows
from temper.errors import DataError
from temper.recipe.init import propose
from temper.recipe.load import load
from temper.recipe.look import beside

TARGETS = {
    "sft": "temper.techniques.sft:SFT",
    "cpt": "temper.techniques.cpt:CPT",
    "dpo": "temper.techniques.dpo:DPO",
    "rft": "temper.techniques.rft:RFT",
}
LONG = "The pump shall be primed before it is started, and stopped before it is opened. " * 20
"""1,620 bytes; with its chapter some 379 tokens of 4.3 bytes."""


@pytest.fixture(name="with_techniques")
def _with_techniques(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """An installation that has these techniques and no others."""

    def only(*names: str) -> None:
        monkeypatch.setattr(registry, "BUILT_IN", {**registry.BUILT_IN, "technique": {n: TARGETS[n] for n in names}})

    return only


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pairs(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"prompt": f"What does part {n} do?", "completion": f"It is valve {n}."} for n in range(start, start + count)
    ]


def tasks(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"{n} + {n}?", "reference": 2 * n, "level": n % 3} for n in range(count)]


def preferences(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Say {n}.", "chosen": f"{n}", "rejected": f"not {n}"} for n in range(count)]


def manuals(folder: Path, count: int) -> Path:
    folder.mkdir()
    for n in range(count):
        (folder / f"{n}.md").write_text(f"Chapter {n}. {LONG}", encoding="utf-8")
    return folder


def chain(text: str) -> list[str]:
    return [line.split(": ")[1] for line in text.splitlines() if "- technique:" in line]


def test_documents_and_pairs_become_a_chain(tmp_path: Path, with_techniques: Callable[..., None]) -> None:
    with_techniques("sft", "cpt")
    paths = [manuals(tmp_path / "manuals", 300), write(tmp_path / "qa.jsonl", pairs(300))]  # 300 x 379 tokens: 113k
    result = propose(tmp_path, paths)
    assert chain(result.path.read_text(encoding="utf-8")) == ["cpt", "sft"]
    recipe = load(result.path)
    assert [stage.data[0].file.name for stage in recipe.stages] == ["manuals", "train.jsonl"]
    assert recipe.probes.domain[0].file.name == "exam.jsonl"
    assert any(r.startswith("manuals: 300 rows, raw text (recognised as documents)") for r in result.remarks)


def test_too_little_text_is_left_out_with_what_to_do_instead(
    tmp_path: Path, with_techniques: Callable[..., None]
) -> None:
    with_techniques("sft", "cpt")
    paths = [manuals(tmp_path / "manuals", 30), write(tmp_path / "qa.jsonl", pairs(300))]  # 30 x 379 tokens: 11k
    result = propose(tmp_path, paths)
    assert chain(result.path.read_text(encoding="utf-8")) == ["sft"]
    left = "cpt: 11k tokens of raw text are too few; put them into the prompts of SFT rows as context"
    assert f"manuals is left out: {left}" in result.remarks
    assert "# no cpt: 11k tokens" in result.path.read_text(encoding="utf-8")


def test_tasks_are_reinforced_on_where_that_can_be_done(tmp_path: Path, with_techniques: Callable[..., None]) -> None:
    with_techniques("sft", "rft")
    result = propose(tmp_path, [write(tmp_path / "sums.jsonl", tasks(200))])
    assert chain(result.path.read_text(encoding="utf-8")) == ["rft"]
    assert "reward: numeric" in result.path.read_text(encoding="utf-8")
    asked, learnt = read_rows(tmp_path / "exam.jsonl"), read_rows(tmp_path / "train.jsonl")
    assert (len(asked), len(learnt)) == (32, 168)  # 15 % of 200 are fewer than 32
    assert {row.fields["level"] for row in learnt} == {0, 1, 2}  # further fields are the reward's
    assert load(result.path).stages[0].technique == "rft"


def test_tasks_become_examples_where_only_sft_is_installed(
    tmp_path: Path, with_techniques: Callable[..., None]
) -> None:
    with_techniques("sft")
    result = propose(tmp_path, [write(tmp_path / "sums.jsonl", tasks(200))])
    assert chain(result.path.read_text(encoding="utf-8")) == ["sft"]
    learnt = read_rows(load(result.path).stages[0].data[0].file)
    assert len(learnt) == 168
    assert {(row.messages[0].content, row.messages[1].content) for row in learnt} <= {
        (f"{n} + {n}?", str(2 * n)) for n in range(200)
    }
    assert any("tasks with a reference become prompts with answers" in remark for remark in result.remarks)


def test_a_base_model_learns_the_chosen_answers_before_the_preference(
    tmp_path: Path, with_techniques: Callable[..., None]
) -> None:
    with_techniques("sft", "dpo")
    result = propose(tmp_path, [write(tmp_path / "likes.jsonl", preferences(200))], base="acme/m-base")
    assert chain(result.path.read_text(encoding="utf-8")) == ["sft", "dpo"]
    first, second = (read_rows(stage.data[0].file) for stage in load(result.path).stages)
    assert {row.messages[-1].content for row in first} == {row.messages[-1].content for row in second}
    assert all(row.rejected for row in second) and not any(row.rejected for row in first)
    asked = {row.messages[0].content for row in read_rows(tmp_path / "exam.jsonl")}
    assert asked.isdisjoint(row.messages[0].content for row in (*first, *second))
    assert "acme/m-base is a base model" in result.path.read_text(encoding="utf-8")


def test_an_instruct_model_takes_preferences_at_once(tmp_path: Path, with_techniques: Callable[..., None]) -> None:
    with_techniques("sft", "dpo")
    result = propose(tmp_path, [write(tmp_path / "likes.jsonl", preferences(200))])
    assert chain(result.path.read_text(encoding="utf-8")) == ["dpo"]


def test_an_exam_of_any_kind_keeps_its_rows_out_of_every_stage(
    tmp_path: Path, with_techniques: Callable[..., None]
) -> None:
    with_techniques("sft", "rft")
    both = [{"prompt": t["prompt"], "completion": str(t["reference"])} for t in tasks(100)]
    data = tmp_path / "data"
    data.mkdir()
    write(data / "sums.jsonl", tasks(100))
    write(data / "worked.jsonl", both)
    write(data / "exam.jsonl", tasks(20))
    result = propose(tmp_path)
    assert chain(result.path.read_text(encoding="utf-8")) == ["sft", "rft"]
    for stage in load(result.path).stages:
        (source,) = stage.data
        assert len(read_rows(source.file)) == 80
    assert any("exam.jsonl is the exam, as its name says (20 rows)" in remark for remark in result.remarks)


def test_compressed_and_columnar_files_are_taken_as_they_are(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with gzip.open(tmp_path / "a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in pairs(200))
    pq.write_table(pa.Table.from_pylist(pairs(150, start=1000)), tmp_path / "b.parquet")
    result = propose(tmp_path)
    assert len(read_rows(tmp_path / "exam.jsonl")) + len(read_rows(tmp_path / "train.jsonl")) == 350
    one = propose(tmp_path / "one", [tmp_path / "b.parquet"])
    assert "{file: ../b.parquet, split:" in one.path.read_text(encoding="utf-8")
    assert load(result.path).stages and load(one.path).stages


def test_tool_calls_and_reasoning_survive_being_written_anew(tmp_path: Path) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "open", "arguments": '{"valve": 3}'}}
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    thinking = {"role": "assistant", "content": "done", "reasoning_content": "Hm."}
    chats = [
        {"messages": [{"role": "user", "content": f"open {n}"}, turns[1], {"role": "tool", "content": "ok"}, thinking]}
        for n in range(40)
    ]
    files = [write(tmp_path / "a.jsonl", pairs(60)), write(tmp_path / "b.jsonl", chats)]
    propose(tmp_path, files)
    rows = [r for name in ("exam", "train") for r in read_rows(tmp_path / f"{name}.jsonl")]
    assert {r.id for r in rows} == {r.id for f in files for r in read_rows(f)}


def test_an_exam_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found only exam\.jsonl, by the name held back for the exam; expected rows"):
        propose(tmp_path, [write(tmp_path / "exam.jsonl", pairs(50))])


def test_prompts_alone_are_refused_with_what_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "asks.jsonl", [{"prompt": f"p {n}"} for n in range(50)])
    with pytest.raises(DataError, match=r"found asks\.jsonl \(50 rows, prompts without answers\), nothing of which"):
        propose(tmp_path, [path])


def test_text_alone_needs_a_technique_for_text(tmp_path: Path, with_techniques: Callable[..., None]) -> None:
    with_techniques("sft")
    with pytest.raises(DataError, match=r"cpt: no technique of this name is installed here; there are 113k tokens"):
        propose(tmp_path, [manuals(tmp_path / "manuals", 300)])
    assert not (tmp_path / "temper.yaml").exists()


def test_a_folder_without_anything_readable_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "pictures"
    data.mkdir()
    with pytest.raises(DataError, match=r"pictures: no files; expected a folder with files to read"):
        propose(tmp_path, [data])
    (data / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"a\.png: a kind of file temper does not read"):
        propose(tmp_path, [data])


def test_rows_of_several_shapes_in_one_file_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "all.jsonl", [*pairs(1), {"text": "t"}])
    with pytest.raises(DataError, match=r"all\.jsonl:1: found rows of several shapes, prompt/completion \(row 1\)"):
        propose(tmp_path, [path])


def test_a_bad_row_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", pairs(40))
    path.write_text(path.read_text(encoding="utf-8") + '{"prompt": "x", "completion": \n', encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl:41: "):
        propose(tmp_path, [path])
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_what_a_folder_holds_beside_is_told(tmp_path: Path, with_techniques: Callable[..., None]) -> None:
    with_techniques("sft", "cpt")
    folder = manuals(tmp_path / "manuals", 300)
    (folder / "plan.docx").write_bytes(b"x")
    write(folder / "qa.jsonl", pairs(100))
    result = propose(tmp_path, [folder])
    left = "files of manuals are left out, of kinds that temper does not read: plan.docx; convert what matters"
    assert left in result.remarks
    assert chain(result.path.read_text(encoding="utf-8")) == ["cpt", "sft"]
    texts = load(result.path).stages[0].data[0].file
    assert str(texts).endswith("manuals/**/*.md")  # the folder itself would stand for qa.jsonl as well


def test_a_base_that_is_a_folder_here_is_found_from_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    result = propose(Path("new"), [write(tmp_path / "a.jsonl", pairs(100))], base="model")
    assert "base: ../model" in result.path.read_text(encoding="utf-8")
    assert load(result.path).base == str(tmp_path / "model")


def test_of_many_strange_files_the_first_are_named(tmp_path: Path) -> None:
    for n in range(7):
        (tmp_path / f"{n}.docx").write_bytes(b"x")
    assert beside(tmp_path).endswith(": 0.docx, 1.docx, 2.docx, 3.docx, 4.docx and 2 more; convert what matters")
    assert beside(tmp_path / "0.docx") == ""
