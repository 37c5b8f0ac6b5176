from __future__ import annotations

import pytest

from temper.errors import RecipeError
from temper.recipe.document import override, parse

TEXT = """\
lr: 2e-4
guard: off
share: 25%
stages:
  - data: a.jsonl
    from:
      code: 1
  - data: "0010"
"""


def test_scalars_are_read_as_yaml_1_2() -> None:
    text = "{a: 2e-4, b: 5E-2, c: off, d: yes, e: true, f: null, g: 010, h: 1:30, i: '12', j: -3, k: .5, l: 2026-01-02}"
    assert parse(text, "r").data == {
        "a": 2e-4, "b": 5e-2, "c": "off", "d": "yes", "e": True, "f": None, "g": 10.0, "h": "1:30", "i": "12", "j": -3,
        "k": 0.5, "l": "2026-01-02",
    }  # fmt: skip


def test_every_value_knows_its_line() -> None:
    document = parse(TEXT, "r.yaml")
    assert document.where(("guard",)) == "r.yaml:2: guard"
    assert document.where(("stages", 0, "from", "code")) == "r.yaml:7: stages.0.from.code"
    assert document.where(("stages", 0, "from")) == "r.yaml:6: stages.0.from"  # the key's line, not the value's
    assert document.where(("stages", 1, "lr")) == "r.yaml:8: stages.1.lr"  # nothing there: where its stage stands


def test_a_setting_replaces_a_value_of_any_depth() -> None:
    document = override(parse(TEXT, "r.yaml"), ("lr=5e-2", "stages.1.replay.share=30%", "stages.0.from.safety=2"))
    assert document.data["lr"] == 5e-2
    assert document.data["stages"][1] == {"data": "0010", "replay": {"share": "30%"}}
    assert document.data["stages"][0]["from"] == {"code": 1, "safety": 2}
    assert document.written[("lr",)] == "5e-2"
    assert document.where(("lr",)) == "--set lr=5e-2: lr"


def test_the_text_tells_which_settings_were_made() -> None:
    assert override(parse("a: 1", "r"), ("a=2",)).text == "a: 1\n# --set a=2\n"
    assert parse(override(parse("a: 1", "r"), ("a=2",)).text, "r").data == {"a": 1}


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("lr", "found no `=`"),
        ("stages.2.data=x", "found stages.2; expected an entry of stages, 0 to 1"),
        ("stages.first.data=x", "found stages.first"),
        ("share.high=1", "has no 'high'"),
    ],
)
def test_a_setting_for_a_place_that_is_not_there_is_refused(setting: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        override(parse(TEXT, "r.yaml"), (setting,))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3\n", r"r.yaml:3: a: found twice"),
        ("a: 1\nb: [1, 2\nc: 3\n", r"r.yaml:3: found .*; expected YAML"),
        ("a: 1\n\tb: 2\n", r"r.yaml:2: found .*; expected YAML"),
        ("a: &x [*x]\n", r"r.yaml:1: a.0: found an alias to itself"),
        ("a: 1\n---\na: 2\n", r"r.yaml:\d: found .*; expected YAML"),
    ],
)
def test_broken_yaml_is_refused_with_its_line(text: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        parse(text, "r.yaml")
