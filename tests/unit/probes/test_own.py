from __future__ import annotations

import json
from pathlib import Path

import pytest

from temper.errors import DataError, RecipeError
from temper.probes.base import Probe, Where
from temper.probes.kinds import KINDS, kind
from temper.probes.suites import load_items, load_suite, prepare, run_suite, spec_of
from tests.unit.probes.bigram import Table, Weigher, Words

MINE = """
from temper.probes.base import Kind, Outcome

def length(policy, renderer, spec, items):
    return tuple(Outcome(id=i["id"], value=min(1.0, len(i["prompt"]) / 10)) for i in items)

def nothing(): ...

LENGTH = Kind(score=length, method="generate", metric="length", needs=("prompt",))
"""


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("row", "kind", "axis"),
    [
        ({"kind": "numeric", "prompt": "6 x 7?", "reference": 42}, "numeric", "reasoning"),
        ({"kind": "exact", "prompt": "q", "reference": "a"}, "exact", "knowledge"),
        ({"kind": "exact", "axis": "code", "messages": [{"role": "user", "content": "q"}], "reference": "a"}, "exact",
         "code"),
        ({"kind": "refusal", "prompt": "harm"}, "refusal", "safety"),
        ({"prompt": "q", "tests": "assert f()"}, "code", "code"),
        ({"prompt": "q", "pattern": "^a$"}, "regex", "instruction"),
        ({"prompt": "q", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}, "instructions",
         "instruction"),
    ],
)  # fmt: skip
def test_a_line_names_its_kind_or_shows_it(tmp_path: Path, row: dict, kind: str, axis: str):
    (spec,) = load_suite(write(tmp_path / "own.jsonl", row))
    assert (spec.kind, spec.axis, spec.name) == (kind, axis, "own")
    (item,) = load_items(spec)
    assert "kind" not in item and "axis" not in item


def test_a_file_with_several_kinds_is_several_probes(tmp_path: Path):
    path = write(
        tmp_path / "own.jsonl",
        {"text": "plain prose"},
        {"kind": "numeric", "prompt": "6 x 7?", "reference": 42},
        {"kind": "numeric", "prompt": "6 x 8?", "reference": 48},
    )
    specs = load_suite(path)
    assert [(s.name, s.axis, len(load_items(s))) for s in specs] == [
        ("own-text", "language", 1),
        ("own-numeric", "reasoning", 2),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"kind": "numerc", "prompt": "q"}, r"own.jsonl:1: found kind 'numerc'; .*did you mean 'numeric'"),
        ({"kind": 3, "prompt": "q"}, r"own.jsonl:1: found kind 3; expected one of text, "),
        ({"kind": "numeric", "prompt": "q"}, r"own.jsonl:1: found no reference; expected messages, reference"),
        ({"kind": "exact", "axis": "maths", "prompt": "q", "reference": "a"}, r"own.jsonl:1: found axis 'maths'; exp"),
        ({"kind": "judge", "prompt": "q"}, r"own.jsonl:1: kind 'judge' needs base_url, model, .*suite file \(.toml\)"),
        ({"kind": "exact", "messages": [{"role": "assistant", "content": "a"}], "reference": "a"}, "own.jsonl:1: found "
         "other messages; expected a list"),
        ({"prompt": "q", "pattern": "("}, r"own.jsonl:1: pattern is no regular expression"),
        ({"prompt": "q", "checks": [{"kind": "rhyme"}]}, r"own.jsonl:1: found the check .*rhyme.*expected kinds of"),
        ({"prompt": 3, "checks": [{"kind": "quoted"}]}, r"own.jsonl:1: found int in prompt; expected text"),
        ({"prompt": "q", "instruction_id_list": ["punctuation:no_coma"], "kwargs": [{}]}, r"own.jsonl:1: found the "
         "instruction 'punctuation:no_coma'; did you mean 'punctuation:no_comma'"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, row: dict, message: str):
    with pytest.raises(DataError, match=message):
        for spec in load_suite(write(tmp_path / "own.jsonl", row)):
            load_items(spec)


def test_two_axes_for_one_kind_are_refused(tmp_path: Path):
    rows = [{"kind": "exact", "axis": axis, "prompt": axis, "reference": "a"} for axis in ("code", "safety")]
    with pytest.raises(DataError, match=r"own.jsonl:2: found axis 'safety' for kind 'exact', which had 'code'"):
        load_suite(write(tmp_path / "own.jsonl", *rows))


def test_a_kind_of_ones_own_is_a_name_in_a_file(tmp_path: Path):
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    write(tmp_path / "items.jsonl", *({"prompt": "x" * n} for n in range(1, 21)))
    (tmp_path / "suite.toml").write_text(
        '[[probe]]\nname = "l"\naxis = "behaviour"\nkind = "./mine.py:LENGTH"\nsource = "items.jsonl"\n'
    )
    (spec,) = load_suite(tmp_path / "suite.toml")
    probe = Probe(spec=spec, items=load_items(spec))
    (found,) = run_suite(Table(Words()).policy, Words(), [probe], split="test", where=Where(checkpoint="base"))
    assert found.measurement.metric == "length"
    assert max(found.measurement.items) == 1.0
    with pytest.raises(RecipeError, match=r"found function; expected a temper.probes.base.Kind"):
        kind(f"{tmp_path}/mine.py:nothing")


def test_options_belong_to_the_kind_that_has_them():
    fields = {"name": "c", "axis": "code", "kind": "code", "source": "mbpp", "seconds": 3.0}
    assert dict(spec_of("p", fields, None).options) == {"seconds": 3.0}
    with pytest.raises(DataError, match=r"probes.general.1.memory: unknown key; expected .*memory_mb.*did you mean"):
        spec_of("probes.general.1", {**fields, "memory": 3}, None)
    with pytest.raises(DataError, match=r"p.seconds: found 'long'; expected a number"):
        spec_of("p", {**fields, "seconds": "long"}, None)
    with pytest.raises(DataError, match=r"p: found no base_url; kind 'judge' needs it"):
        spec_of("p", {"name": "j", "axis": "behaviour", "kind": "judge", "source": "chat_probe"}, None)


def test_a_recipe_may_write_a_task_of_lm_eval_in_one_line():
    spec = spec_of("probes.general.0", {"name": "my", "kind": "lm-eval", "task": "arc_easy", "axis": "reasoning"}, None)
    assert (spec.name, spec.axis, dict(spec.options)) == ("my", "reasoning", {"task": "arc_easy"})


def test_options_are_part_of_what_a_cached_result_is_known_by(tmp_path: Path):
    model, words = Table(Words(), replies={f"p{n}": "x = 1" for n in range(40)}), Words()
    items = tuple({"id": str(n), "prompt": f"p{n}", "tests": "assert x == 1"} for n in range(40))
    for seconds in (10.0, 5.0, 5.0):
        fields = {"name": "c", "axis": "code", "kind": "code", "source": "s", "seconds": seconds, "items": 2}
        probe = Probe(spec=spec_of("p", fields, None), items=items)
        (found,) = run_suite(
            model.policy, model.words, [probe], split="test", where=Where(checkpoint="b"), cache=tmp_path
        )
        assert found.measurement.items == (1.0, 1.0)
    assert model.generated == 4  # two settings of two items, the third run knows them
    assert words.pieces[:1] == [""]


def test_the_bases_own_reply_is_written_into_the_items_of_a_pairwise_judge(tmp_path: Path):
    write(tmp_path / "chat.jsonl", *({"id": str(n), "prompt": f"p{n}"} for n in range(40)))
    model = Table(words := Words(), replies={f"p{n}": f"said {n}" for n in range(40)})
    fields = {"name": "j", "axis": "behaviour", "kind": "judge-pair", "source": "chat.jsonl", "items": 3,
              "max_new_tokens": 7, "base_url": "http://127.0.0.1:9/v1", "model": "m"}  # fmt: skip
    spec = spec_of("p", fields, tmp_path)
    first = prepare(model.policy, words, [spec], cache=tmp_path / "cache")
    again = prepare(model.policy, words, [spec], cache=tmp_path / "cache")
    assert first == again
    assert model.generated == 6
    assert (model.samplings[0].temperature, model.samplings[0].max_new_tokens) == (0.0, 7)
    assert all(i["reply"] == f"said {i['id']}" for i in first[0].items)
    (same,) = run_suite(model.policy, words, first, split="test", where=Where(checkpoint="base"))
    assert same.measurement.items == (0.5,) * 3  # equal replies: nobody is asked


def test_sampled_answers_are_shared_by_the_two_kinds_that_read_them(tmp_path: Path):
    write(tmp_path / "chat.jsonl", *({"id": str(n), "prompt": f"p{n}"} for n in range(40)))
    model = Weigher(words := Words(), replies={f"p{n}": f"said {n}" for n in range(40)})
    for name in ("own-answers", "drift"):
        fields = {"name": name, "axis": "behaviour", "kind": name, "source": "chat.jsonl", "items": 3}
        prepare(model.policy, words, [spec_of("p", fields, tmp_path)], cache=tmp_path / "cache")
    assert model.generated == 6


def test_every_kind_has_a_metric_and_a_method_that_the_drop_knows():
    assert {k.method for k in KINDS.values()} == {"loss", "choice", "generate"}
    assert all(k.metric for k in KINDS.values())
