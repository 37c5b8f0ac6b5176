from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from temper.data.render import Renderer
from temper.data.rows import Message, Row, ToolCall
from temper.errors import DataError
from temper.probes.base import ProbeSpec, half, messages_of, prompt_tokens
from temper.probes.domain import document_probe, domain_probe, exact, field_f1, json_object, matches
from tests.tiny import tiny_tokenizer
from tests.unit.data.test_templates import load
from tests.unit.probes.bigram import Table, Words

SPEC = ProbeSpec(name="exam", axis="domain", kind="json", source="exam", role="domain", max_new_tokens=20)


def row(number: int, reference: str, **fields: Any) -> Row:
    turns = (Message(role="user", content=f"q{number}"), Message(role="assistant", content=reference))
    return Row(id=f"r{number}", messages=turns, origin=f"exam.jsonl:{number}", reference=reference, fields=fields)


def rows(*references: str, **fields: Any) -> list[Row]:
    return [row(n, r, **fields) for n, r in enumerate(references, start=1)]


@pytest.mark.parametrize(
    ("reply", "reference", "equal"),
    [
        ("a  b\n", "a b", True),
        ("A b", "a b", False),
        ('{"b": 2, "a": 1.0}', '{"a":1,"b":2}', True),
        ('{"a": true}', '{"a": 1}', False),
        ('{"a": 1} ok', '{"a": 1}', False),
        ("[1, 2]", "[2, 1]", False),
        ("null", "null", True),
        ("null", "none", False),
    ],
)
def test_answers_match_by_json_value_or_by_text_up_to_blanks(reply: str, reference: str, equal: bool):
    assert matches(reply, reference) is equal


def test_field_f1_counts_leaves_with_their_paths():
    # reply has 2 leaves, reference 3, one is shared: 2 * 1 / (2 + 3)
    assert field_f1({"a": 1.0, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}, "d": []}) == pytest.approx(0.4)
    assert field_f1({}, {}) == 1.0


def test_json_probe_scores_the_value_and_shows_validity_and_fields_beside():
    gold = '{"call": "on", "room": "hall"}'
    replies = {"q1": '{"room":"hall","call":"on"}', "q2": '{"call": "on"}', "q3": "lights on"}
    model = Table(Words(), replies=replies)
    probe = domain_probe("exam", rows(*[gold] * 40), model.words)
    items = sorted(probe.items, key=lambda i: int(i["id"][1:]))[:3]
    outcomes = json_object(model.policy, model.words, probe.spec, items)
    assert [o.value for o in outcomes] == [1.0, 0.0, 0.0]
    # the second has 1 of 2 leaves: 2 * 1 / (1 + 2)
    assert [dict(o.parts) for o in outcomes] == [
        {"validity": 1.0, "field_f1": 1.0},
        {"validity": 1.0, "field_f1": pytest.approx(2 / 3)},
        {"validity": 0.0, "field_f1": 0.0},
    ]
    assert (outcomes[1].prompt, outcomes[1].reference, outcomes[1].reply) == ("q2", gold, '{"call": "on"}')


def test_the_sampler_is_told_the_right_answers_to_the_end_of_turn():
    model = Table(Words())
    items = [{"id": "1", "prompt": "two and two", "reference": "4"}, {"id": "2", "prompt": "why", "reference": ""}]
    exact(model.policy, model.words, SPEC, items)
    assert [model.words.decode(draft) for draft in model.drafts] == ["4", ""]
    assert model.drafts[0] == (*model.words.text("4"), *model.words.end_tokens)


def test_metric_follows_from_the_rows():
    words = Words()
    assert domain_probe("e", rows(*['{"a": 1}'] * 40), words).spec.kind == "json"
    assert domain_probe("e", rows(*['{"a": 1}'] * 39, "plain"), words).spec.kind == "exact"
    assert domain_probe("e", rows(*["b"] * 40, options=["a", "b"]), words).spec.kind == "reply-choice"


def test_replies_may_be_a_quarter_longer_than_the_longest_reference_and_never_under_eight_tokens():
    words = Words()
    # 19 words and the end of turn are 20 tokens, a quarter more 25
    long = domain_probe("e", rows(*["one"] * 40, " ".join(["word"] * 19)), words)
    assert long.spec.max_new_tokens == 25
    assert domain_probe("e", rows(*["one"] * 40), words).spec.max_new_tokens == 8


@pytest.mark.parametrize(("answer", "gold"), [("b", 1), ("A", 0), (1, 1)])
def test_the_answer_of_a_choice_row_is_text_letter_or_number(answer: Any, gold: int):
    probe = domain_probe("e", rows(*["b"] * 40, options=["a", "b"], answer=answer), Words())
    assert {i["gold"] for i in probe.items} == {gold}


def test_a_choice_row_whose_answer_is_no_option_is_named():
    with pytest.raises(DataError, match=r"exam\.jsonl:1: .*'z'.*expected"):
        domain_probe("e", rows(*["z"] * 40, options=["a", "b"]), Words())


def test_too_few_rows_for_two_halves_are_refused():
    alone = next(n for n in range(1, 99) if half(f"r{n}") == "selection")
    with pytest.raises(DataError, match="leave the test half empty"):
        domain_probe("exam.jsonl", [row(alone, "x")], Words())


def test_tools_and_calls_of_a_row_reach_the_prompt(tmp_path: Path):
    call = ToolCall(name="light", arguments='{"room": "hall"}', id="1")
    turns = (
        Message(role="user", content="light on"),
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content="done", tool_call_id="1", name="light"),
        Message(role="assistant", content="It is on."),
    )
    tools = '[{"type": "function", "function": {"name": "light"}}]'
    asked = [Row(id=f"r{n}", messages=turns, origin="e:1", reference="It is on.", tools=tools) for n in range(40)]
    template = (
        "{{ tools | tojson if tools else '' }}{% for m in messages %}{{ '<|' + m['role'] + '|>' }}"
        "{% for c in m['tool_calls'] or [] %}{{ 'call ' + c['function']['name'] }}"
        "{{ c['function']['arguments'] | tojson }}{% endfor %}"
        "{{ m['content'] + eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    renderer = Renderer.load(tiny_tokenizer(tmp_path, template))
    item = domain_probe("e", asked, renderer).items[0]
    assert messages_of(item) == turns[:-1]
    text = renderer.decode(prompt_tokens(renderer, item))
    assert '"name": "light"' in text.split("<|user|>")[0]
    assert 'call light{"room": "hall"}' in text


def test_columns_that_a_kind_of_marking_reads_are_kept():
    (item, *_) = domain_probe("e", rows(*["on"] * 40, pattern="^on$", rubric="Be brief.", note="x"), Words()).items
    assert (item["pattern"], item["rubric"], "note" in item) == ("^on$", "Be brief.", False)


def test_exact_compares_greedy_replies():
    model = Table(Words(), replies={"q1": "yes  sir", "q2": "no"})
    items = domain_probe("e", rows(*["yes sir"] * 40), model.words).items
    asked = sorted(items, key=lambda i: int(i["id"][1:]))[:2]
    assert [o.value for o in exact(model.policy, model.words, SPEC, asked)] == [1.0, 0.0]
    assert model.samplings[0].temperature == 0.0


def page(number: int, size: int = 2400) -> Row:
    text = f"Page {number}. " + "The server writes. " * (size // 19)
    return Row(id=f"{number:016x}", messages=(), origin=f"manual/{number}.txt:1", text=text)


def test_documents_are_asked_as_passages_of_both_halves() -> None:
    probe = document_probe("manual", [page(n) for n in range(40)])
    assert (probe.spec.kind, probe.spec.role, probe.spec.axis) == ("text", "domain", "domain")
    halves = [half(item["id"]) for item in probe.items]
    # The first passage of each page differs by its number, the others are the same text once.
    assert halves.count("selection") + halves.count("test") == len(probe.items) <= 64
    assert min(halves.count("selection"), halves.count("test")) >= 8
    assert max(halves.count("selection"), halves.count("test")) <= 32
    assert all(200 <= len(item["text"]) <= 1200 for item in probe.items)
    assert len({item["text"] for item in probe.items}) == len(probe.items)


def test_the_passages_asked_do_not_depend_on_the_order_of_the_documents() -> None:
    pages = [page(n) for n in range(200)]
    assert document_probe("m", pages).items == document_probe("m", pages[::-1]).items
    assert len(document_probe("m", pages).items) == 64


def test_too_little_held_out_text_is_refused_with_the_way_out() -> None:
    with pytest.raises(DataError, match=r"^manual: \d passages of held-out text.*expected 16 or more; add documents"):
        document_probe("manual", [page(1)])


def test_a_conversation_has_no_passages() -> None:
    with pytest.raises(DataError, match=r"^exam\.jsonl:1: found a conversation; expected plain text"):
        document_probe("exam", rows("yes"))


def test_an_exam_that_was_thought_out_is_asked_with_thinking_on(tmp_path: Path):
    """It was asked with the switch off, and with room for the bare answer."""
    renderer = load("qwen3")
    turns = (Message(role="user", content="hi"), Message(role="assistant", content="yes", reasoning="hello hello no"))
    thinks = [Row(id=f"t{n}", messages=turns, origin=f"e.jsonl:{n}", reference="yes") for n in range(40)]
    probe = domain_probe("exam", thinks, renderer)
    (thought,) = {item["reasoning"] for item in probe.items}
    assert thought == "hello hello no"
    plainly = domain_probe("exam", [replace(r, messages=(turns[0], replace(turns[1], reasoning=""))) for r in thinks],
                           renderer)  # fmt: skip
    said = [renderer.tokenizer.decode(list(prompt_tokens(renderer, p.items[0]))) for p in (probe, plainly)]
    assert said[0].endswith("assistant\n") and said[1].endswith("<think>\n\n</think>\n\n")
    # `<think>`, three words and `</think>` are many tokens of this tokenizer, and all of them need room.
    thought_tokens = len(renderer.text("<think>\nhello hello no\n</think>\n\n"))
    assert probe.spec.max_new_tokens > plainly.spec.max_new_tokens + thought_tokens / 2
    silent = domain_probe("exam", thinks, Renderer.load(tiny_tokenizer(tmp_path)))
    assert silent.items == plainly.items, "a model that thinks none is asked as before"


@pytest.mark.parametrize(
    ("reply", "right"),
    [("<think> no </think> yes", 1.0), ("yes", 1.0), ("<think> yes", 0.0), ("no </think> yes", 1.0)],
)
def test_what_is_said_after_a_thought_is_the_answer(reply: str, right: float):
    policy = Table(words=Words(), replies={"q1": reply})
    probe = replace(SPEC, kind="exact")
    (item,) = [{"id": "r1", "messages": [{"role": "user", "content": "q1"}], "reference": "yes"}]
    (found,) = exact(policy.policy, policy.words, probe, [item])  # pyright: ignore[reportArgumentType]
    assert found.value == right
