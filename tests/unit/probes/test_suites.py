from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from temper.data import catalog
from temper.errors import DataError
from temper.probes.base import ANSWERS_SHOWN, Probe, ProbeSpec, Where, half, take
from temper.probes.kinds import KINDS, absent
from temper.probes.own import AXES
from temper.probes.suites import PACKAGED, load_items, load_suite, prepare, run_suite
from tests.unit.probes.bigram import Table, Words

BASE = Where(checkpoint="base")
ITEMS = tuple({"id": f"i{n}", "text": f"a w{n}"} for n in range(60))


def text_probe(**sizes: int) -> Probe:
    return Probe(spec=ProbeSpec(name="t", axis="language", kind="text", source="t", **sizes), items=ITEMS)


def test_halves_are_disjoint_and_quick_is_the_beginning_of_selection():
    selection, test, quick = (take(ITEMS, s, n) for s, n in (("selection", 20), ("test", 20), ("quick", 5)))
    assert len(selection) == len(test) == 20
    assert not {i["id"] for i in selection} & {i["id"] for i in test}
    assert quick == selection[:5]
    assert take(ITEMS[::-1], "quick", 5) == quick
    assert len(take(ITEMS, "selection", 0)) + len(take(ITEMS, "test", 0)) == 60


def test_the_half_of_an_item_never_changes():
    """These are promises: results of older runs stay comparable only if an id keeps its half."""
    halves = [half(str(n)) for n in range(8)]
    assert [n for n, side in enumerate(halves) if side == "selection"] == [0, 1, 7]


def test_a_measurement_has_one_value_per_item_in_a_fixed_order():
    model = Table(Words())
    (found,) = run_suite(model.policy, model.words, [text_probe(items=4)], split="test", where=BASE)
    m = found.measurement
    assert (m.checkpoint, m.method, m.split, m.hard, m.metric) == ("base", "loss", "test", (), "bits per byte")
    assert m.ids == tuple(i["id"] for i in take(ITEMS, "test", 4))
    # one scored word of one bit, " w" and one or two digits
    assert m.items == pytest.approx((1.0,) * 4)
    assert m.sizes == tuple(float(len(i.removeprefix("i")) + 2) for i in m.ids)


def test_what_the_cache_knows_is_not_asked_again(tmp_path: Path):
    model, probe = Table(words := Words()), text_probe(items=20, quick=5)

    def run(split) -> tuple[int, float]:
        before = model.scored
        (found,) = run_suite(model.policy, words, [probe], split=split, where=BASE, cache=tmp_path)
        return model.scored - before, found.measurement.seconds

    assert run("quick")[0] == 5
    assert run("selection")[0] == 15  # the five of quick are known
    assert run("selection") == (0, 0.0)
    assert run("quick") == (0, 0.0)


def test_a_cached_measurement_equals_a_fresh_one_and_survives_a_line_cut_off(tmp_path: Path):
    model, probe = Table(words := Words()), text_probe(items=10)
    ask = {"split": "selection", "where": BASE, "cache": tmp_path}
    (fresh,) = run_suite(model.policy, words, [probe], **ask)
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text()[:-20])
    (again,) = run_suite(model.policy, words, [probe], **ask)
    assert model.scored == 11  # the item of the last line is asked again
    assert (again.measurement.ids, again.measurement.items) == (fresh.measurement.ids, fresh.measurement.items)


def test_the_cache_tells_changed_items_apart(tmp_path: Path):
    model, probe = Table(words := Words()), text_probe(items=10)
    changed = Probe(spec=probe.spec, items=tuple({**i, "text": i["text"] + " more"} for i in ITEMS))
    for p in (probe, changed):
        run_suite(model.policy, words, [p], split="test", where=BASE, cache=tmp_path)
    assert model.scored == 20


def test_at_most_twelve_answers_are_kept_and_the_cache_keeps_them_too(tmp_path: Path):
    checks = [{"kind": "no_commas"}]
    items = tuple({"id": str(n), "prompt": f"p{n}", "checks": checks} for n in range(60))
    model = Table(words := Words(), replies={f"p{n}": f"reply {n}" for n in range(60)})
    spec = ProbeSpec(name="f", axis="instruction", kind="formats", source="f", items=20, max_new_tokens=8)
    probe, where = Probe(spec=spec, items=items), Where(checkpoint="c", stage="01-sft", step=7)
    runs = [run_suite(model.policy, words, [probe], split="test", where=where, cache=tmp_path) for _ in range(2)]
    assert model.generated == 20
    assert runs[0][0].answers == runs[1][0].answers
    assert len(runs[0][0].answers) == ANSWERS_SHOWN
    answer = runs[0][0].answers[0]
    assert (answer.prompt, answer.reply, answer.step) == (f"p{answer.item}", f"reply {answer.item}", 7)
    assert answer.reference == "Do not use any commas."


def test_a_closer_look_asks_the_items_in_reserve_and_those_before_them_once(tmp_path: Path):
    own, more = tmp_path / "own.jsonl", tmp_path / "more.jsonl"
    for file, names in ((own, range(40)), (more, range(100, 160))):
        file.write_text("".join(json.dumps({"id": f"i{n}", "text": f"a w{n}"}) + "\n" for n in names))
    spec = ProbeSpec(name="t", axis="language", kind="text", source=str(own), items=10, reserve=25, more=str(more))
    model = Table(words := Words())
    (probe,) = prepare(model.policy, words, [spec], cache=None)
    selection = take(load_items(spec), "selection", 0)
    # The source has 16 in its selection half: the 6 that are not asked as a rule come first, then 19 of the other file.
    assert len(selection) == 16 and probe.reserve[:6] == selection[10:]
    assert len(probe.reserve) == 25 and all(int(i["id"][1:]) >= 100 for i in probe.reserve[6:])
    assert {half(i["id"]) for i in probe.reserve} == {"selection"}

    def run(**asked) -> tuple[int, tuple[str, ...]]:
        before = model.scored
        (found,) = run_suite(model.policy, words, [probe], where=BASE, cache=tmp_path / "cache", **asked)
        return model.scored - before, found.measurement.ids

    full, closer = run(split="selection"), run(split="closer")
    assert (full[0], closer[0]) == (10, 25)
    assert closer[1] == (*full[1], *(i["id"] for i in probe.reserve))
    assert run(split="selection") == (0, full[1])
    (whole,) = prepare(model.policy, words, [replace(spec, items=0)], cache=None)
    assert len(whole.reserve) == 25 and not {i["id"] for i in whole.reserve} & {i["id"] for i in whole.items}


def test_what_the_base_writes_beforehand_is_not_held_in_reserve(tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_text('[[probe]]\nname = "n"\naxis = "behaviour"\nkind = "own-answers"\nsource = "x"\nreserve = 4\n')
    with pytest.raises(DataError, match=r"probe\[0\].reserve: found 4; expected none"):
        load_suite(file)


def test_the_reserve_of_core_comes_from_elsewhere_only_where_the_source_is_too_small():
    known = catalog.sources()
    for spec in (s for s in load_suite("core") if s.more):
        assert spec.reserve == 2 * spec.items
        assert spec.more in PACKAGED or known[spec.more].beyond == spec.source
    assert not any(s.reserve for s in load_suite("quick"))


def test_core_covers_its_axes_and_quick_is_contained_in_it():
    core, quick = load_suite("core"), load_suite("quick")
    axes = {"language", "knowledge", "reasoning", "instruction", "behaviour", "safety"}
    assert {s.axis for s in core} == axes
    assert "formats" not in {s.name for s in quick}  # pass or fail says too little about few items
    for small, large in zip(quick, (s for s in core if s.quick != 0), strict=True):
        assert (small.name, small.source, small.kind) == (large.name, large.source, large.kind)
        assert small.items == large.quick == small.size("quick") < large.items


def test_every_built_in_suite_asks_the_catalogue_for_probes_alone_and_full_has_every_axis():
    known = catalog.sources()
    for name in ("quick", "core", "full"):
        specs = load_suite(name)
        assert len({s.name for s in specs}) == len(specs)
        for spec in specs:
            assert spec.source in PACKAGED or known[spec.source].role == "probe", spec.source
            if spec.source in known:
                licence, archive = known[spec.source].licence, known[spec.source].archive
                assert licence and archive and len(archive.sha256) == 64, f"{spec.source} is not pinned"
    assert {s.axis for s in load_suite("full")} == set(AXES)
    kinds = {s.kind for s in load_suite("full")}
    assert {"code", "numeric", "instructions", "spoken-choice", "formats", "refusal", "over-refusal"} <= kinds


def test_what_is_written_is_not_asked_during_training_and_full_contains_core():
    core, full = ({s.name: s for s in load_suite(name)} for name in ("core", "full"))
    assert core.keys() <= full.keys()
    for name, spec in full.items():
        writes = KINDS[spec.kind].method == "generate" and spec.max_new_tokens > 0
        assert (spec.quick == 0) == writes, name
        assert spec.quick >= 0 and spec.items > 0
        if name in core:
            assert (spec.source, spec.kind, spec.axis) == (core[name].source, core[name].kind, core[name].axis)
            assert spec.items >= core[name].items


@pytest.mark.network
@pytest.mark.slow
def test_every_probe_of_full_has_the_items_it_says_and_they_fit_its_kind():
    for spec in load_suite("full"):
        items = load_items(spec)
        assert not [absent(KINDS[spec.kind].needs, i) for i in items if absent(KINDS[spec.kind].needs, i)], spec.name
        for split in ("selection", "test"):
            assert len(take(items, split, spec.items)) == spec.items, (spec.name, split)


def test_packaged_items_are_distinct_complete_and_fill_both_halves_of_core():
    for spec in (s for s in load_suite("core") if s.source in PACKAGED):
        items = load_items(spec)
        assert len({i["id"] for i in items}) == len(items)
        assert all(name in i for i in items for name in KINDS[spec.kind].needs)
        for split in ("selection", "test"):
            assert len(take(items, split, spec.items)) == spec.items, (spec.name, split)
    assert len(load_items(ProbeSpec(name="b", axis="safety", kind="over-refusal", source="benign"))) >= 60


def test_own_answers_are_prepared_once_with_the_base(tmp_path: Path):
    source = tmp_path / "chat.jsonl"
    source.write_text("".join(json.dumps({"id": str(n), "prompt": f"p{n}"}) + "\n" for n in range(40)))
    spec = ProbeSpec(name="own", axis="behaviour", kind="own-answers", source=str(source), items=6, max_new_tokens=4)
    model = Table(words := Words(), replies={f"p{n}": f"said {n}" for n in range(40)})
    first = prepare(model.policy, words, [spec], cache=tmp_path / "base")
    again = prepare(model.policy, words, [spec], cache=tmp_path / "base")
    assert model.generated == 12
    assert first == again
    (found,) = run_suite(model.policy, words, first, split="selection", where=BASE)
    assert found.measurement.items == pytest.approx((3.0,) * 6)  # "said", a number and the end, one bit each


def test_a_suite_file_takes_items_beside_it(tmp_path: Path):
    (tmp_path / "own.jsonl").write_text('{"text": "a b"}\n')
    (tmp_path / "mine.toml").write_text(
        '[[probe]]\nname = "x"\naxis = "language"\nkind = "text"\nsource = "own.jsonl"\n'
    )
    (spec,) = load_suite(tmp_path / "mine.toml")
    assert [i["text"] for i in load_items(spec)] == ["a b"]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ('{"context": "q", "options": [" a", " b"], "gold": 0}', "choice"),
        ('{"prompt": "q", "options": ["a", "b"], "gold": 1}', "reply-choice"),
        ('{"prompt": "q", "checks": [{"kind": "quoted"}]}', "formats"),
        ('{"context": "q", "text": " a"}', "continuation"),
        ('{"text": "a b"}', "text"),
    ],
)
def test_a_file_of_items_tells_its_kind(tmp_path: Path, line: str, kind: str):
    path = tmp_path / "own.jsonl"
    path.write_text(line + "\n")
    (spec,) = load_suite(path)
    assert (spec.kind, spec.name) == (kind, "own")
    assert len(load_items(spec)) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "own.jsonl: an empty file"),
        ('{"text": "a"}\n{"text": ', r"own.jsonl:2: not JSON"),
        ('{"text": "a"}\n{"words": "b"}', r"own.jsonl:2: found no text; expected text"),
        ('{"body": "a"}', r"own.jsonl:1: found the fields body; expected context"),
        ('{"context": "q", "options": ["a"], "gold": 0}', r"own.jsonl:1: found gold 0; expected the number"),
        ('{"context": "q", "options": ["a", "b"], "gold": 2}', r"own.jsonl:1: found gold 2"),
    ],
)
def test_items_that_cannot_be_used_are_named(tmp_path: Path, content: str, message: str):
    path = tmp_path / "own.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        load_items(load_suite(path)[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[[probe]", "mine.toml: not TOML"),
        ("", "found no .*probe"),
        ('[[probe]]\nname = "x"\naxis = "a"\nkind = "txt"\nsource = "s"', r"probe\[0\]\.kind: .*did you mean 'text'"),
        ('[[probe]]\nname = "x"\nitms = 3', r"probe\[0\]\.itms: unknown key.*did you mean 'items'"),
        ('[[probe]]\nname = "x"\nitems = -3', r"probe\[0\]\.items: found -3; expected a count"),
        ('[[probe]]\nname = "x"', r"probe\[0\]: found no axis"),
    ],
)
def test_a_suite_file_that_cannot_be_used_is_named(tmp_path: Path, content: str, message: str):
    path = tmp_path / "mine.toml"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        load_suite(path)


def test_an_unknown_suite_is_refused_with_a_suggestion():
    with pytest.raises(DataError, match="did you mean 'core'"):
        load_suite("cor")


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"none\.jsonl: no such file"):
        load_suite(tmp_path / "none.jsonl")
