from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from temper.data.rows import read_rows
from temper.data.split import is_held_out
from temper.errors import DataError, RecipeError
from temper.recipe.init import InitResult, propose
from temper.recipe.load import load


def write(path: Path, start: int, count: int) -> Path:
    rows = ({"prompt": f"Turn on lamp {n}", "completion": {"call": n}} for n in range(start, start + count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def parts(result: InitResult) -> tuple[list[str], str]:
    """Names of the training files and of the exam, after reading what was written as any command would."""
    recipe = load(result.path)
    return [source.file.name for source in recipe.stages[0].data], recipe.probes.domain[0].file.name


def prompts(path: Path) -> set[str]:
    return {row.messages[0].content for row in read_rows(path)}


def sides(result: InitResult) -> tuple[set[str], set[str]]:
    """Prompts that the exam asks and that are learnt, by the rules that a run follows."""
    recipe = load(result.path)
    (probe,) = recipe.probes.domain
    learnt = {r.id: r for source in recipe.stages[0].data for r in read_rows(source.file, columns=source.columns)}
    asked = {r.id: r for r in read_rows(probe.file)}
    if probe.split is not None:
        asked = {i: r for i, r in asked.items() if is_held_out(r, share=probe.split, group=probe.group)}
        learnt = {i: r for i, r in learnt.items() if i not in asked}
    return ({r.messages[0].content for r in rows.values()} for rows in (asked, learnt))  # pyright: ignore[reportReturnType]


def test_one_file_is_split_where_it_stands_and_nothing_is_lost(tmp_path: Path) -> None:
    own = write(tmp_path / "tickets.jsonl", 0, 400)
    result = propose(tmp_path, [own])
    assert parts(result) == (["tickets.jsonl"], "tickets.jsonl")
    assert result.written == (tmp_path / "temper.yaml",)
    # 60 of 400, give or take the hash
    assert "domain: [{file: tickets.jsonl, split: 15%}]" in result.path.read_text(encoding="utf-8")
    exam, train = sides(result)
    assert exam.isdisjoint(train)
    assert exam | train == prompts(own)
    assert 40 <= len(exam) <= 80
    assert any(f"{len(exam)} of the 400 rows of tickets.jsonl are held back" in remark for remark in result.remarks)
    assert f"{len(exam)} of the 400 rows" in result.path.read_text(encoding="utf-8")


def test_several_files_are_split_the_same_every_time_whatever_their_order(tmp_path: Path) -> None:
    lines = write(tmp_path / "a.jsonl", 0, 200).read_text(encoding="utf-8").splitlines(keepends=True)
    for name, text in (("one", lines), ("two", lines[::-1])):
        (tmp_path / name).mkdir()
        for part, rows in (("a", text[:100]), ("b", text[100:])):
            (tmp_path / name / f"{part}.jsonl").write_text("".join(rows), encoding="utf-8")
        propose(tmp_path / name)
    assert prompts(tmp_path / "one" / "exam.jsonl") == prompts(tmp_path / "two" / "exam.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "exam"), [(24, 8), (60, 20), (120, 32), (400, 60), (5000, 500)])
def test_the_exam_has_a_useful_size(tmp_path: Path, rows: int, exam: int) -> None:
    # A third of very few rows, at least 32, 15 % in between, at most 500; a hash holds back about as many.
    found, _ = sides(propose(tmp_path, [write(tmp_path / "a.jsonl", 0, rows)]))
    assert abs(len(found) - exam) <= max(4, exam // 4)


def test_equal_prompts_stay_on_one_side(tmp_path: Path) -> None:
    rows = [
        {"question": f"What is {n // 3}?" if n % 2 else f"what  is {n // 3}?", "answer": str(n)} for n in range(300)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    propose(tmp_path)
    exam, train = ({p.lower().replace("  ", " ") for p in prompts(tmp_path / f"{n}.jsonl")} for n in ("exam", "train"))
    assert exam.isdisjoint(train)
    assert len(exam) + len(train) == 100


def test_a_file_named_as_the_exam_is_the_exam(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "train.jsonl", 0, 50)
    write(tmp_path / "data" / "home-test.jsonl", 100, 80)
    write(tmp_path / "data" / "val.jsonl", 200, 10)
    result = propose(tmp_path)
    assert parts(result) == (["train.jsonl"], "home-test.jsonl")
    assert result.written == (tmp_path / "temper.yaml",)
    assert "val.jsonl is not used: home-test.jsonl is the exam" in result.remarks
    assert "data: data/train.jsonl" in result.path.read_text(encoding="utf-8")


def test_a_word_inside_another_does_not_make_an_exam(tmp_path: Path) -> None:
    result = propose(tmp_path, [write(tmp_path / "contest-examples.jsonl", 0, 100)])
    assert parts(result) == (["contest-examples.jsonl"], "contest-examples.jsonl")


def test_the_smallest_file_is_the_exam_when_no_name_says_so(tmp_path: Path) -> None:
    files = [
        write(tmp_path / "a.jsonl", 0, 200),
        write(tmp_path / "b.jsonl", 200, 40),
        write(tmp_path / "c.jsonl", 300, 90),
    ]
    result = propose(tmp_path, files)
    assert parts(result) == (["a.jsonl", "c.jsonl"], "b.jsonl")
    assert any("because it is the smallest (40 rows of 330)" in remark for remark in result.remarks)


def test_files_of_like_size_are_split_together(tmp_path: Path) -> None:
    result = propose(tmp_path, [write(tmp_path / "a.jsonl", 0, 100), write(tmp_path / "b.jsonl", 100, 100)])
    assert parts(result) == (["train.jsonl"], "exam.jsonl")
    assert len(prompts(tmp_path / "train.jsonl")) + len(prompts(tmp_path / "exam.jsonl")) == 200


def test_exam_rows_are_taken_out_of_the_training_rows(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", 0, 100)
    write(tmp_path / "exam.jsonl", 90, 20)  # 90..99 stand in both
    result = propose(tmp_path)
    assert parts(result) == (["train.jsonl"], "exam.jsonl")
    assert prompts(tmp_path / "train.jsonl") == {f"Turn on lamp {n}" for n in range(90)}
    assert any("without the 10 rows that the exam asks; 90 stay" in remark for remark in result.remarks)


def test_further_columns_survive_the_split(tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["prompt", "completion", "region"])
        table.writerows([f"q {n // 2}", f"a {n}", "north"] for n in range(40))
    propose(tmp_path)
    assert {row.fields["region"] for row in read_rows(tmp_path / "exam.jsonl")} == {"north"}


def test_nothing_that_is_there_is_overwritten(tmp_path: Path) -> None:
    own = [write(tmp_path / "train.jsonl", 0, 100), write(tmp_path / "more.jsonl", 100, 100)]
    before = own[0].read_bytes()
    result = propose(tmp_path, own)
    assert parts(result) == (["train-split.jsonl"], "exam.jsonl")
    assert own[0].read_bytes() == before
    with pytest.raises(RecipeError, match=r"temper\.yaml: found a recipe already"):
        propose(tmp_path, own)


def test_files_that_cannot_be_learnt_from_are_left_out_or_refused(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", 0, 100)
    (tmp_path / "package.json").write_text('{"name": "x"}', encoding="utf-8")
    (tmp_path / "manual.jsonl").write_text('{"text": "Some prose."}\n', encoding="utf-8")
    result = propose(tmp_path)
    assert [r for r in result.remarks if r.startswith("manual.jsonl is left out: cpt: ")]
    assert [r for r in result.remarks if r.startswith("package.json is left out: ")]
    with pytest.raises(DataError, match=r"package\.json"):
        propose(tmp_path / "new", [tmp_path / "package.json"])
    assert not (tmp_path / "new").exists()


def test_an_empty_folder_and_too_few_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found no data files; expected a file of rows"):
        propose(tmp_path)
    with pytest.raises(DataError, match="5 prompts with answers are too few; write at least 200"):
        propose(tmp_path, [write(tmp_path / "a.jsonl", 0, 5)])
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_names_that_yaml_would_misread_are_quoted(tmp_path: Path) -> None:
    write(tmp_path / "my rows: new.jsonl", 0, 50)
    write(tmp_path / "exam #1.jsonl", 100, 50)
    result = propose(tmp_path, base="1e5")
    assert parts(result) == (["my rows: new.jsonl"], "exam #1.jsonl")
    assert load(result.path).base == "1e5"
