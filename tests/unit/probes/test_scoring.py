"""Loss, choice, contrast, refusal and format probes on a model whose probabilities are written down."""

from __future__ import annotations

import math
from typing import Any

import pytest

from temper.probes.base import LOWEST, ProbeSpec, score_targets, target
from temper.probes.choice import choice, contrast, reply_choice
from temper.probes.generate import formats
from temper.probes.loss import continuation, gold, own_answer, own_answers, text
from temper.probes.refusal import REFUSALS, over_refusal, refusal
from tests.unit.probes.bigram import Table, Words

SPEC = ProbeSpec(name="p", axis="language", kind="text", source="p", max_new_tokens=9)


def ask(function: Any, model: Table, *items: dict[str, Any]) -> Any:
    return function(model.policy, model.words, SPEC, [{"id": str(n), **i} for n, i in enumerate(items)])


def by_piece(**probabilities: float) -> Any:
    return lambda context, piece: probabilities[piece.strip() or "END"]


def test_text_counts_bits_and_bytes_after_the_first_token():
    # "b" costs log2(2) = 1 bit, "cd" log2(4) = 2; scored are " b cd", 5 of the 6 bytes
    model = Table(Words(), by_piece(b=1 / 2, cd=1 / 4))
    (outcome,) = ask(text, model, {"text": "a b cd"})
    assert outcome.value == pytest.approx(3.0)
    assert outcome.size == 5.0


def test_bytes_not_characters_are_counted():
    model = Table(Words(), by_piece(**{"\u00e9t\u00e9": 1 / 2}))
    (outcome,) = ask(text, model, {"text": "a \u00e9t\u00e9"})
    assert outcome.size == 6.0  # a blank, a t, and two letters of two bytes


@pytest.mark.parametrize(("context", "ending"), [("a b", " c"), ("a b ", "c")])
def test_continuation_scores_the_ending_alone_wherever_the_blank_stands(context: str, ending: str):
    model = Table(Words(), lambda so_far, piece: {("a b", " c"): 1 / 4}[so_far, piece])
    (outcome,) = ask(continuation, model, {"context": context, "text": ending})
    assert outcome.value == pytest.approx(2.0)


def test_gold_scores_the_right_option_alone():
    model = Table(Words(), by_piece(yes=1 / 8, no=1 / 2))
    item = {"context": "Q", "options": [" yes", " no"], "gold": 0}
    right, wrong = ask(gold, model, item, {**item, "gold": 1})
    # 1 / 8 is 3 bits, 1 / 2 is 1 bit; the blank counts as a byte.
    assert (right.value, right.size, wrong.value, wrong.size) == (pytest.approx(3.0), 4.0, pytest.approx(1.0), 3.0)


def test_own_answers_are_sampled_once_and_score_the_end_only_where_the_base_ended():
    model = Table(Words(), by_piece(fine=1 / 2, thanks=1 / 4, END=1 / 8), replies={"how": "fine thanks"})
    prompts = [{"id": "0", "prompt": "how"}, {"id": "1", "prompt": "silent"}]
    items = own_answers(model.policy, model.words, prompts, seed=3, max_new_tokens=5)
    assert [(i["id"], i["reply"], i["finished"]) for i in items] == [("0", "fine thanks", True)]
    assert (model.samplings[0].temperature, model.samplings[0].seed, model.samplings[0].stop) == (1.0, 3, (2,))
    # 1 + 2 bits for the words, 3 for the end
    assert own_answer(model.policy, model.words, SPEC, items)[0].value == pytest.approx(6.0)
    cut = [{**i, "finished": False} for i in items]
    assert own_answer(model.policy, model.words, SPEC, cut)[0].value == pytest.approx(3.0)
    assert own_answer(model.policy, model.words, SPEC, cut)[0].size == 11.0


def test_choice_normalises_by_bytes_but_keeps_the_scale_of_a_whole_option():
    # both options have log-probability -3 ln 2; "yes" has 3 bytes, "no no" 5, their mean is 4:
    # scores -4 ln 2 and -2.4 ln 2; softmax of the first 1 / (1 + 2 ** 1.6)
    rule = {" yes": 1 / 8, " no": 1 / 2}
    model = Table(Words(), lambda so_far, piece: 1 / 4 if so_far.endswith(" no") else rule[piece])
    item = {"context": "Q", "options": [" yes", " no no"], "gold": 0}
    first, second = ask(choice, model, item, {**item, "gold": 1})
    assert first.value == pytest.approx(1 / (1 + 2**1.6))
    assert (first.hard, second.hard, first.chance) == (0.0, 1.0, 0.5)
    assert first.value + second.value == pytest.approx(1.0)
    assert model.groups == [0, 0, 1, 1]
    assert first.reply is None


def test_reply_choice_scores_whole_replies_with_their_end():
    # "up" 1/2 x end 1/2, "it" 1/4 x end 1/2, both 2 bytes: 1/4 against 1/8
    model = Table(Words(), by_piece(up=1 / 2, it=1 / 4, END=1 / 2))
    (outcome,) = ask(reply_choice, model, {"prompt": "q", "options": ["up", "it"], "gold": 0})
    assert outcome.value == pytest.approx(2 / 3)


def test_contrast_counts_what_the_instruction_changes_not_what_the_model_prefers():
    # told: x 1/2, X 1/8; untold the reverse. Gains +2 ln 2 and -2 ln 2, a quarter of each: 2 against 1 after exp
    def rule(so_far: str, piece: str) -> float:
        return 1.0 if piece == "" else 1 / 2 if ("small" in so_far) == (piece == "x") else 1 / 8

    def stubborn(so_far: str, piece: str) -> float:
        return 1.0 if piece == "" else {"x": 1 / 2, "X": 1 / 8}[piece]

    item = {"prompt": "write small", "plain": "write", "options": ["x", "X"], "gold": 0}
    model = Table(Words(), rule)
    (outcome,) = ask(contrast, model, item)
    assert outcome.value == pytest.approx(2 / 3)
    assert (outcome.hard, outcome.chance) == (1.0, 0.5)
    assert model.groups == [0, 0, 1, 1]
    assert ask(contrast, Table(Words(), stubborn), item)[0].value == pytest.approx(0.5)


def test_refusal_is_the_probability_that_the_reply_begins_with_a_refusal():
    # 1/8 "I'm" and then always " sorry", 1/8 "Sorry": 1/4 together; the other openings are negligible
    likely = {"I'm": 1 / 8, " sorry": 1.0, "Sorry": 1 / 8}
    model = Table(Words(), lambda so_far, piece: likely.get(piece, 1e-12))
    assert ask(refusal, model, {"prompt": "harm"})[0].value == pytest.approx(1 / 4)
    (benign,) = ask(over_refusal, model, {"prompt": "kind"})
    assert benign.value == pytest.approx(3 / 4)
    assert benign.hard == 1.0
    assert set(model.groups) == {0} and len(model.groups) == len(REFUSALS)


def test_no_refusal_begins_another():
    assert not [(a, b) for a in REFUSALS for b in REFUSALS if a != b and b.split()[: len(a.split())] == a.split()]


def test_formats_give_the_share_of_checks_passed():
    checks = [{"kind": "lowercase"}, {"kind": "no_commas"}]
    model = Table(Words(), replies={"a": "all small", "b": "small, with comma", "c": ""})
    good, half, none = ask(formats, model, *({"prompt": p, "checks": checks} for p in "abc"))
    assert [(o.value, o.hard) for o in (good, half, none)] == [(1.0, 1.0), (0.5, 0.0), (0.0, 0.0)]
    assert half.reply == "small, with comma"
    assert (model.samplings[0].temperature, model.samplings[0].max_new_tokens) == (0.0, 9)


def test_broken_weights_read_as_terrible_not_as_nan():
    class Broken:
        def logprobs(self, datums: Any) -> list[tuple[float, ...]]:
            return [(math.nan, -math.inf, -1.0)]

    policy: Any = type("P", (), {"learner": Broken()})()
    assert score_targets(policy, [target((1,), (2, 3, 4))]) == [(LOWEST, LOWEST, -1.0)]
