"""What each built-in reward gives, worked out by hand."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from temper import registry
from temper.data.row import Message
from temper.errors import MissingExtra, RecipeError
from temper.rollout.grading import Limits, grade
from temper.rollout.reward import load_reward
from temper.rollout.rewards import checks, json_schema, numbers, text
from temper.rollout.score import Outcome, Rule, Score
from temper.rollout.task import Task


def task(reference: str = "", **fields: Any) -> Task:
    return Task(id="1", messages=(Message(role="user", content="q"),), reference=reference, fields=fields, origin="t:1")


def value(rule: Rule, given: Task, reply: str, **params: Any) -> float:
    returned = rule(given, reply, **params)
    return returned.value if isinstance(returned, Score) else returned


@pytest.mark.parametrize("name", sorted(registry.BUILT_IN["reward"]))
def test_every_built_in_reward_is_a_rule_with_a_range(name: str):
    rule = registry.load("reward", name)
    assert isinstance(rule, Rule) and rule.low < rule.high


@pytest.mark.parametrize(
    ("reply", "params", "worth"),
    [
        ("Paris", {}, 1.0),
        ("  Paris \n", {}, 1.0),
        ("paris", {}, 0.0),
        ("paris", {"ignore_case": True}, 1.0),
        ("Paris.", {}, 0.0),
        ("Paris.", {"ignore_punctuation": True}, 1.0),
        ("I think.\nAnswer: Rome\nAnswer: Paris", {"answer": "Answer: (.*)"}, 1.0),
        ("Answer: Paris\nAnswer: Rome", {"answer": "Answer: (.*)"}, 0.0),
        ("", {}, 0.0),
    ],
)
def test_exact_compares_the_answer(reply: str, params: dict[str, Any], worth: float):
    assert value(text.exact, task("Paris"), reply, **params) == worth


def test_exact_compares_json_by_value_and_cannot_read_what_the_pattern_does_not_find():
    assert value(text.exact, task('{"a": 1, "b": 2}'), '{"b":2,"a":1.0}') == 1.0
    assert text.exact(task("Paris"), "Paris", answer="Answer: (.*)").outcome is Outcome.UNPARSABLE


def test_contains_wants_whole_words():
    assert value(text.contains, task("cat"), "My CAT is fat.") == 1.0
    assert value(text.contains, task("cat"), "concatenate") == 0.0
    assert value(text.contains, task("cat"), "concatenate", whole_words=False) == 1.0
    assert value(text.contains, task("New  York"), "in New\nYork now") == 1.0
    assert value(text.contains, task("a.c"), "abc") == 0.0, "the reference is text, no pattern"


def test_regex_takes_the_pattern_of_the_recipe_or_of_the_task():
    assert value(text.regex, task(), "id 42", pattern=r"\d+") == 1.0
    assert value(text.regex, task(), "id 42", pattern=r"\d+", whole=True) == 0.0
    assert value(text.regex, task(pattern="^no"), "no, never") == 1.0
    with pytest.raises(ValueError, match="the task has no pattern"):
        text.regex(task(), "x")


def test_length_is_free_then_falls_to_minus_one():
    # 10 words are free; at 15 of 10..20 half is lost
    for words, worth in ((0, 0.0), (10, 0.0), (15, -0.5), (20, -1.0), (99, -1.0)):
        assert value(text.length, task(), "w " * words, free=10, limit=20) == worth
    assert value(text.length, task(), "abcd", free=2, limit=6, unit="characters") == -0.5


@pytest.mark.parametrize(
    ("reply", "params", "worth"),
    [
        ("The total is $1,250.00", {}, 1.0),
        ("5 * 250 = 1250", {}, 1.0),
        ("1251", {}, 0.0),
        ("1251", {"tolerance": 0.001}, 1.0),  # 1 of 1251 is 0.08 %
        ("1251", {"absolute": 1.0}, 1.0),
        ("Answer: 1250 (of 3)", {"answer": r"Answer: (\S+)"}, 1.0),
        ("\\boxed{1250}, for 3", {}, 1.0),
    ],
)
def test_numeric_reads_the_number_the_reply_ends_on(reply: str, params: dict[str, Any], worth: float):
    assert value(numbers.numeric, task("1250"), reply, **params) == worth


def test_numeric_says_when_there_is_no_number_and_whose_fault_it_is():
    assert numbers.numeric(task("3"), "three").outcome is Outcome.UNPARSABLE
    with pytest.raises(ValueError, match="the reference 'three' has no number"):
        numbers.numeric(task("three"), "3")


CALL = '{"intent": "TurnOn", "name": "lamp", "level": 5}'


def test_json_is_worth_what_is_right_of_it():
    # three leaves against three; two are shared: F1 = 2 x 2 / 6 = 2/3, so 0.1 + 0.9 x 2/3 = 0.7
    two = '{"intent": "TurnOn", "name": "lamp", "level": 6}'
    score = json_schema.json_schema(task(CALL), two)
    assert score.value == pytest.approx(0.7)
    assert score.parts == {"validity": 1.0, "field_f1": pytest.approx(2 / 3)}
    # with the intent apart: 0.1 + 0.4 + 0.5 x 2/3
    params = {"key": "intent", "key_share": 0.4}
    assert value(json_schema.json_schema, task(CALL), two, **params) == pytest.approx(0.5 + 1 / 3)
    # a wrong intent and the rest right: 0.1 + 0 + 0.5 x 2/3
    wrong = CALL.replace("TurnOn", "TurnOff")
    assert value(json_schema.json_schema, task(CALL), wrong, **params) == pytest.approx(0.1 + 1 / 3)


def test_json_is_worth_one_only_where_it_is_the_reference():
    assert value(json_schema.json_schema, task(CALL), CALL) == 1.0
    assert value(json_schema.json_schema, task(CALL), CALL, valid=0.15, key="intent", key_share=0.35) == 1.0
    # both have one leaf with the path /a/b, and they are not the same
    assert value(json_schema.json_schema, task('{"a/b": 1}'), '{"a": {"b": 1}}') == pytest.approx(0.1)
    assert value(json_schema.json_schema, task(CALL), "{}") == pytest.approx(0.1), "a constant answer earns little"


@pytest.mark.parametrize("reply", ["", "lamp on", f"```json\n{CALL}\n```", CALL[:-1], '{"a": NaN}'])
def test_json_that_the_exam_would_not_read_is_unparsable(reply: str):
    score = json_schema.json_schema(task(CALL), reply)
    assert (score.value, score.outcome) == (0.0, Outcome.UNPARSABLE)


def test_json_rows_that_cannot_be_marked_are_the_rows_fault():
    with pytest.raises(ValueError, match="the reference 'lamp' is no JSON"):
        json_schema.json_schema(task("lamp"), CALL)
    with pytest.raises(ValueError, match="no field 'intent'"):
        json_schema.json_schema(task("{}"), CALL, key="intent")
    with pytest.raises(ValueError, match="no reference and the recipe no schema"):
        json_schema.json_schema(task(), CALL)


def test_a_schema_is_kept_or_not():
    pytest.importorskip("jsonschema", reason="pip install 'temper-llm[json]'")
    schema = {"type": "object", "required": ["intent"], "properties": {"level": {"type": "integer"}}}
    assert value(json_schema.json_schema, task(), CALL, schema=schema) == 1.0
    assert value(json_schema.json_schema, task(), "{}", schema=schema) == 0.0
    # not kept: the share for validity is lost, two of three fields are right
    broken = CALL.replace("5", '"much"')
    assert value(json_schema.json_schema, task(CALL), broken, schema=schema) == pytest.approx(0.6)
    with pytest.raises(RecipeError, match="is no JSON schema"):
        load_reward({"json_schema": {"schema": {"type": "thing"}}})


def test_ifeval_gives_the_share_of_instructions_kept():
    asked = {
        "instruction_id_list": ["punctuation:no_comma", "detectable_format:title"],
        "kwargs": [{}, {}],
    }
    score = checks.ifeval(task(**asked), "<<Cats>> sleep.")
    assert score == Score(value=1.0, parts={"punctuation:no_comma": 1.0, "detectable_format:title": 1.0})
    half = checks.ifeval(task(**asked), "Cats sleep.")
    assert (half.value, half.parts["detectable_format:title"]) == (0.5, 0.0)
    assert value(checks.ifeval, task(**asked), "Cats sleep.", strict=True) == 0.0
    assert value(checks.ifeval, task(**asked), "") == 0.0
    own = {"checks": '[{"kind": "bullets", "n": 2}]'}  # as a cell of a CSV file has it
    assert value(checks.ifeval, task(**own), "* a\n* b") == 1.0


TESTS = ["assert add(1, 2) == 3", "assert add(2, 2) == 4", "assert add(-1, 1) == 0", "assert add('a', 'b') == 'ab'"]


def test_code_is_right_when_its_tests_pass():
    given = task(tests=TESTS)
    assert value(checks.code, given, "```python\ndef add(a, b):\n    return a + b\n```") == 1.0
    half = "def add(a, b):\n    return a + b if isinstance(a, str) else 3"  # right for the first and the last test
    assert value(checks.code, given, half) == 0.0
    assert value(checks.code, given, half, partial=True) == 0.5
    assert checks.code(given, "Just add them!").outcome is Outcome.UNPARSABLE
    with pytest.raises(SyntaxError):
        checks.code(task(tests="assert ("), "x = 1")


@pytest.mark.slow
def test_code_goes_through_the_worker_process_with_its_own_time():
    reward = load_reward({"code": {"seconds": 1}})
    loop, good = "while True: pass", "def add(a, b):\n    return a + b"
    scores = grade(reward, [task(tests=TESTS)] * 2, [loop, good], limits=Limits(workers=1, seconds=5))
    assert [s.value for s in scores] == [0.0, 1.0], "a program that hangs is a wrong answer, no fault of the reward"
    assert all(s.counts for s in scores)


@pytest.mark.slow
def test_math_needs_its_package_and_compares_expressions():
    if importlib.util.find_spec("math_verify") is None:
        with pytest.raises(MissingExtra, match=r"math-verify is not installed; .*\[math\]"):
            load_reward("math")
        pytest.skip("pip install 'temper-llm[math]'")
    reward = load_reward("math")
    replies = ["so it is $\\frac{1}{2}$", "0.5", "\\boxed{0.6}", "no idea"]
    scores = grade(reward, [task("$1/2$")] * 4, replies, limits=Limits(workers=1))
    assert [s.value for s in scores] == [1.0, 1.0, 0.0, 0.0]
    assert scores[3].outcome is Outcome.UNPARSABLE
    assert scores[0].note == "", "the package warned of its time limit, in the note of every rollout"
