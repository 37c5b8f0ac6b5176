"""The catalogue: readers on files made by hand, and the real packages behind them."""

from __future__ import annotations

import ast
import gzip
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from temper.data import catalog, contamination, readers
from temper.errors import DataError


def request(native_id: object, query: str, options: list[str], gold: int, doc_id: int = 0) -> str:
    """The lines of one question in the OLMo evaluation's format, one per option."""
    doc = {"query": query, "choices": options, "gold": gold}
    lines = [
        {
            "doc": doc,
            "request": {"context": "examples first", "continuation": o},
            "idx": i,
            "doc_id": doc_id,
            "native_id": native_id,
        }
        for i, o in enumerate(options)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_choice_reads_each_question_once_without_examples_and_unconditional_copies() -> None:
    lines = request(7, "Goal: cool a drink\nAnswer:", ["add ice ", "add salt"], 0)
    lines += request(7, "Answer:", ["add ice ", "add salt"], 0, doc_id=1_000_000)
    assert readers.choice([gzip.compress(lines.encode())], half="", limit=9) == [
        {"id": "7", "context": "Goal: cool a drink\nAnswer:", "options": [" add ice", " add salt"], "gold": 0}
    ]


def test_choice_leaves_out_odd_numbers_of_options_empty_options_and_long_items() -> None:
    four = ["a", "b", "c", "d"]
    lines = request("good", "q", four, 1) + request("three", "q", four[:3], 1) + request("five", "q", [*four, "e"], 1)
    lines += request("empty", "q", ["a", " ", "c", "d"], 1)
    lines += request("long", "word " * 117, four, 1)  # 117 + 4 words, one too many
    lines += request("fits", "word " * 116, four, 1)
    found = readers.choice([gzip.compress(lines.encode())], half="", limit=9)
    assert [item["id"] for item in found] == ["good", "fits"]


def test_chat_prompts_never_train_on_prompts_of_unclear_licence_and_share_none() -> None:
    rows = [{"instruction": f"Question {n}?", "dataset": "oasst", "output": "x"} for n in range(50)]
    rows += [{"instruction": f"Koala question {n}?", "dataset": "koala", "output": "x"} for n in range(50)]
    files = [json.dumps(rows).encode()]
    probe, replay = (
        {item["prompt"] for item in readers.chat_prompts(files, half=half, limit=99)} for half in ("probe", "replay")
    )
    assert len(probe) + len(replay) == 100
    assert not probe & replay
    assert not any("Koala" in prompt for prompt in replay)
    assert 10 <= len(replay) <= 40  # 25 expected of 50 fair coins; 15 away is more than four standard deviations


def test_a_prompt_is_on_the_same_side_however_it_is_spaced_and_cased() -> None:
    assert readers.side("How are  you?") == readers.side(" how are you? ")


def test_refusals_answer_the_replay_half_only() -> None:
    files = [
        "\n".join(json.dumps({"prompt": f"{kind} {n}"}) for n in range(30)).encode()
        for kind in ("How to harm", "Where lives")
    ]
    rows = readers.refusals(files, half="replay", limit=99)
    asked = {row["messages"][0]["content"] for row in rows}
    held_out = {item["prompt"] for item in readers.do_not_answer(files, half="probe", limit=99)}
    assert len(asked) + len(held_out) == 60
    assert not asked & held_out
    for row in rows:
        kind = "malicious_uses" if row["messages"][0]["content"].startswith("How") else "information_hazard"
        assert row["messages"][1]["content"] in readers.REFUSALS[kind]


def test_forbidden_reads_rows_of_several_lines_and_leaves_out_unknown_licences() -> None:
    text = 'category,source,forbidden_prompt\nFraud,custom,"First line\nsecond line"\nFraud,MasterKey,other\n'
    found = readers.forbidden([text.encode()], half="", limit=9)
    assert [(item["prompt"], item["category"]) for item in found] == [("First line\nsecond line", "Fraud")]


def test_trivia_answers_end_with_a_full_stop() -> None:
    text = "conversations:\n- - Who was the 37th\n    president?\n  - Richard Nixon\n"
    text += "- - Hello\n  - Hi\n- - Year?\n  - 1963\n"
    found = readers.trivia([text.encode()], half="", limit=9)
    assert [[message["content"] for message in row["messages"]] for row in found] == [
        ["Who was the 37th president?", "Richard Nixon."],
        ["Year?", "1963."],
    ]


def test_word_problems_are_right_distinct_and_always_the_same() -> None:
    rows = readers.word_problems([], half="", limit=300)
    assert rows == readers.word_problems([], half="", limit=300)
    assert len({row["id"] for row in rows}) == 300
    operations = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}
    for row in rows:
        question, reply = (message["content"] for message in row["messages"])
        working = re.match(r"(\d+) ([-+*/]) (\d+) = (\d+)\. (.*)$", reply)
        assert working, reply
        a, b, c = int(working[1]), int(working[3]), int(working[4])
        assert operations[working[2]](a, b) == c
        assert working[2] != "/" or b * c == a  # nothing is left over
        assert c > 0
        assert str(c) in working[5]
        assert sorted(map(int, re.findall(r"\d+", question))) == sorted([a, b])
    assert set(Counter(row["messages"][1]["content"].split()[1] for row in rows)) == set(operations)


@pytest.mark.slow
def test_stdlib_functions_are_short_functions_that_parse_without_their_docstring() -> None:
    rows = readers.stdlib_functions([], half="", limit=9999)
    assert len(rows) >= 200
    for row in rows:
        question, reply = (message["content"] for message in row["messages"])
        code = reply.removeprefix("```python\n").removesuffix("\n```")
        function = ast.parse(code).body[0]
        assert isinstance(function, ast.FunctionDef)
        assert ast.get_docstring(function) is None
        assert question.startswith(f"Write the Python function `{function.name}(")
        assert len(reply) <= readers.CODE_CHARACTERS + 20


def choice_item(context: str, gold: str) -> catalog.ChoiceItem:
    return {"id": "1", "context": context, "options": [gold, " other"], "gold": 0, "category": "knowledge"}


def train_row(question: str, reply: str) -> catalog.TrainRow:
    messages: list[catalog.Message] = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return {"id": question, "messages": messages, "category": "knowledge"}


def untouched(rows: Sequence[catalog.Item], probes: Sequence[catalog.Item]) -> list[catalog.Item]:
    """The rows that no probe item holds."""
    index = contamination.index([("probes", probes)])
    return [row for row in rows if not index.holders(row)]


def test_a_row_with_the_question_of_a_probe_is_held_whatever_its_frame_and_case() -> None:
    probe = choice_item("Question: What melts ice?\nAnswer:", " heat")
    rows = [train_row("what melts ICE", "Warmth."), train_row("What melts steel?", "Heat.")]
    assert untouched(rows, [probe]) == rows[1:]


def test_a_row_that_shares_thirteen_words_is_held_and_one_that_shares_twelve_is_not() -> None:
    text = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    probe: catalog.LossItem = {"id": "1", "context": "", "text": text, "category": "language"}
    thirteen = train_row("Go on.", "Zero, one two three four five six seven, eight nine ten eleven TWELVE thirteen!")
    twelve = train_row("Go on.", "Zero, one two three four five six seven, eight nine ten eleven twelve.")
    assert untouched([thirteen, twelve], [probe]) == [twelve]


def test_a_shared_short_answer_does_not_matter() -> None:
    row = train_row("Which planet is red?", "Mars")
    assert untouched([row], [choice_item("Question: Which planet is cold?\nAnswer:", " Mars")]) == [row]


def test_an_unknown_source_is_refused_with_a_suggestion() -> None:
    with pytest.raises(DataError, match=r"no source called 'hellasweg'.*did you mean hellaswag"):
        catalog.source("hellasweg")


def test_rows_to_ask_for_by_name_are_no_default_and_probes_always_are() -> None:
    default, everything = catalog.sources(), catalog.sources(optional=True)
    asked_for = {name for name in everything if name not in default}
    assert {"c4", "smoltalk", "boltons", "logic"} <= asked_for
    assert {everything[name].role for name in asked_for} == {"train"}
    assert {entry.category for entry in default.values() if entry.role == "train"} == {
        "instruction", "reasoning", "knowledge", "code", "safety",
    }  # fmt: skip
    assert catalog.source("c4").optional


def test_every_entry_is_complete_and_nothing_without_a_free_licence_is_trained_on() -> None:
    for entry in catalog.sources(optional=True).values():
        assert entry.reader in (["hub"] if entry.hub else readers.READERS)
        assert bool(entry.members) == bool(entry.archive)
        assert not (entry.hub and entry.archive)
        assert entry.origin == ("package" if entry.archive else "hub" if entry.hub else "self")
        if entry.hub:
            assert re.fullmatch("[0-9a-f]{40}", entry.hub.revision)
            assert set(entry.hub.columns) in ({"messages"}, {"text"}, {"prompt", "completion"})
        assert entry.licence and entry.note and entry.limit > 0
        assert entry.role != "train" or not re.search(r"\b(NC|SA|research)\b", entry.licence)
        if entry.archive:
            assert re.fullmatch("[0-9a-f]{64}", entry.archive.sha256)


def test_the_keys_of_sources_differ_with_everything_that_decides_about_their_rows() -> None:
    everything = catalog.sources(optional=True)
    assert len({entry.key for entry in everything.values()}) == len(everything)


def test_an_overlap_counts_for_every_probe_that_has_it() -> None:
    words = "one two three four five six seven eight nine ten eleven twelve thirteen"
    found = contamination.index(
        [
            ("asked", [choice_item("Question: What melts ice?\nAnswer:", " heat")]),
            ("said", [{"id": "1", "context": "", "text": f"Zero {words}.", "category": "language"}]),
            ("none", [{"id": "1", "prompt": "Something else?", "category": "behaviour"}]),
        ]
    )
    assert found.holders(train_row("What melts ice?", words)) == ("asked", "said")
    assert found.holders({"id": "1", "text": f"Nothing but {words} again", "category": "web"}) == ("said",)
    assert found.holders(train_row("What melts steel?", "Heat.")) == ()


def test_how_to_get_a_source_says_what_a_run_has_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path))
    monkeypatch.delenv("TEMPER_HUB", raising=False)
    assert catalog.ready("reasoning")  # made here
    assert not catalog.ready("c4")
    package = catalog.how_to_get("c4")
    assert "llamafactory 0.9.5 (5.2 MB) is fetched from the package index" in package
    assert package.endswith(
        "Without it the category web has no rows of the catalogue, only what the model writes itself"
    )
    assert "pip install 'temper-llm[hub]'" in catalog.how_to_get("smoltalk")
    assert catalog.how_to_get("open_web_math").endswith("the category reasoning has reasoning; by name there is logic")
    # The prompts of the category are not rows, and what is mixed by name alone is not had without the name.
    assert catalog.how_to_get("smoltalk").endswith("only what the model writes itself; by name there is text_tasks")
    assert "Without it probes that draw on it are left out" in catalog.how_to_get("piqa")


def test_a_source_is_ready_when_its_archive_or_its_copy_is_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TEMPER_HUB", str(tmp_path / "hub"))
    assert not catalog.ready("c4")
    about = catalog.source("c4").archive
    assert about
    home = tmp_path / "cache" / "packages" / about.sha256[:16]
    home.mkdir(parents=True)
    (home / "llamafactory-0.9.5.tar.gz").touch()
    assert catalog.ready("c4")
    assert not catalog.ready("smoltalk")
    (tmp_path / "hub" / "HuggingFaceTB" / "smol-smoltalk").mkdir(parents=True)
    assert catalog.ready("smoltalk")
    assert not catalog.ready("smoltalk", local=tmp_path / "elsewhere")


def measured() -> dict[str, dict[str, int]]:
    """Rows, tokens and removed rows by source, as `scripts/make_catalogue.py` counted them."""
    table = Path(catalog.__file__).with_name("catalog_sizes.json").read_text(encoding="utf-8")
    return json.loads(table)["sources"]


def test_every_source_but_those_of_a_hub_was_measured() -> None:
    sizes = measured()
    for name, entry in catalog.sources(optional=True).items():
        assert (name in sizes) == (entry.hub is None)
        if name in sizes:
            assert 0 < sizes[name]["rows"] <= entry.limit
            assert ("removed" in sizes[name]) == (entry.role == "train")


@pytest.mark.network
def test_the_measured_sizes_are_those_of_the_rows() -> None:
    for name, size in measured().items():
        if not catalog.source(name).reader.startswith("stdlib_"):  # those differ with the running Python
            assert len(catalog.load(name)) == size["rows"], name
            if "removed" in size:
                assert catalog.removed(name) == size["removed"], name


@pytest.mark.network
def test_rows_of_a_local_copy_are_kept_parsed_and_cleared_of_probes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three conversations; one asks what a probe asks. The copy's parsed form is made again when a file changes."""
    question = next(item for item in catalog.load("gsm8k") if "prompt" in item)["prompt"]
    copy = tmp_path / "HuggingFaceTB" / "smol-smoltalk" / "data"
    copy.mkdir(parents=True)
    asked = ["What is tea?", question, "What is wool?"]
    file = copy / "train-00000-of-00001.jsonl"
    file.write_text("".join(json.dumps({"messages": train_row(q, "It is good.")["messages"]}) + "\n" for q in asked))
    rows = catalog.load("smoltalk", local=tmp_path)
    found = {row["messages"][0]["content"] for row in rows if "messages" in row}
    assert found == {"What is tea?", "What is wool?"}
    assert catalog.removed("smoltalk", local=tmp_path) == 1
    file.write_text(json.dumps({"messages": train_row("What is rice?", "A grain.")["messages"]}) + "\n")
    assert len(catalog.load("smoltalk", local=tmp_path)) == 1


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "options", "least"),
    [("piqa", 2, 600), ("arc_easy", 4, 600), ("hellaswag", 4, 600), ("piqa_more", 2, 1150), ("arc_easy_more", 4, 1200),
     ("hellaswag_more", 4, 1200), ("arc_challenge", 4, 600), ("openbookqa", 4, 500),
     ("sciq", 4, 600), ("mmlu", 4, 600), ("csqa", 5, 600), ("socialiqa", 3, 600), ("winogrande", 2, 600),
     ("copa", 2, 100), ("boolq", 2, 600)],
)  # fmt: skip
def test_real_choice_probes_are_ready_to_score(name: str, options: int, least: int) -> None:
    items = [item for item in catalog.load(name) if "options" in item]
    assert len(items) >= least
    assert len({item["id"] for item in items}) == len(items)
    assert {len(item["options"]) for item in items} == {options}
    # SciQ has the right option last in every item; options are scored one by one, so their order does not matter.
    assert set(Counter(item["gold"] for item in items)) == ({3} if name == "sciq" else set(range(options)))
    assert all(option.startswith(" ") and option.strip() for item in items for option in item["options"])
    assert not any(item["context"].endswith(" ") for item in items)


@pytest.mark.network
@pytest.mark.parametrize("name", ["piqa", "arc_easy", "hellaswag"])
def test_what_lies_beyond_a_source_is_not_in_it(name: str) -> None:
    first, more = ({item["id"] for item in catalog.load(source)} for source in (name, f"{name}_more"))
    assert not first & more


@pytest.mark.network
def test_real_texts_are_cased_prose_of_the_length_asked_for() -> None:
    items = [item for item in catalog.load("wiki") if "text" in item]
    assert len(items) >= 200
    assert all(60 <= len(item["text"].split()) <= 120 for item in items)
    assert all(item["text"] != item["text"].lower() for item in items)
    words = [item for item in catalog.load("lambada") if "text" in item]
    assert len(words) == 600
    assert all(item["text"].startswith(" ") and len(item["text"].split()) == 1 for item in words)


@pytest.mark.network
def test_real_tasks_can_be_predicted_and_solved() -> None:
    for name in ("gsm8k", "math_500", "humaneval", "mbpp"):
        items = cast("list[dict[str, Any]]", catalog.load(name))
        fields = {"context", "text", "prompt", *(["tests"] if name in ("humaneval", "mbpp") else ["reference"])}
        assert all(item[field] for item in items for field in fields)
    for item in cast("list[dict[str, Any]]", catalog.load("humaneval")):
        ast.parse(item["prefix"] + item["text"])
        assert item["tests"].endswith(f"check({item['entry_point']})")
    asked = cast("list[dict[str, Any]]", catalog.load("ifeval"))
    assert len(asked) == 541
    assert all(len(item["instruction_id_list"]) == len(item["kwargs"]) for item in asked)


@pytest.mark.slow
@pytest.mark.network
def test_what_is_trained_on_is_never_measured_on() -> None:
    probes = [name for name, entry in catalog.sources().items() if entry.role != "train"]
    index = contamination.index((name, catalog.load(name)) for name in probes)
    for name in ("chat_replay", "safety", "knowledge", "reasoning", "code", "logic", "text_tasks", "c4", "stdlib_text"):
        rows = catalog.load(name)
        assert len(rows) >= 200
        assert not any(index.holders(row) for row in rows)
    assert catalog.removed("chat_replay") > 0  # AlpacaEval repeats some long instructions on both sides
