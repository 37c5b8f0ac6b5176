from __future__ import annotations

from temper.decide.drop import general_drop
from temper.events import Answer, Measurement
from temper.probes.collapse import find_collapse, shapes

JSON = ['{"call": "on", "room": "hall"}', '{"call": "off", "room": "attic"}'] * 10
PROSE = "Dogs are loyal animals that love to play in the garden with children every day."


def replies(texts: list[str], *, checkpoint: str = "c", probe: str = "formats", score: float = 1.0) -> list[Answer]:
    return [
        Answer(checkpoint=checkpoint, probe=probe, split="test", item=str(n), prompt=f"p{n}", reference="", reply=t,
               score=score)
        for n, t in enumerate(texts)
    ]  # fmt: skip


def test_general_replies_in_the_domains_json_are_named_with_an_example():
    before = replies([PROSE] * 12)
    now = replies([PROSE] * 6 + ['{"call": "on", "room": "dogs"}'] * 6)
    (sign,) = find_collapse(before, now, domain=JSON)
    assert (sign.sign, sign.probe, sign.before, sign.now) == ("shape", "formats", 0.0, 0.5)
    assert str(sign) == (
        'Format collapse: 50 % of the replies to formats are the domain\'s JSON; before, 0 % were so. To "p6" it now'
        ' replies "{\\"call\\": \\"on\\", \\"room\\": \\"dogs\\"}", where the base replied "' + PROSE + '".'
    )


def test_a_reply_that_was_json_before_is_no_sign():
    asked_for = replies(['{"fact": 1}'] * 12)
    assert find_collapse(asked_for, asked_for, domain=JSON) == ()


def test_a_few_replies_of_that_shape_are_no_sign():
    # 3 of 12: the interval of 3 / 12 begins at 9 %, that of 0 / 12 ends at 24 %
    now = replies([PROSE] * 9 + ['{"call": "on"}'] * 3)
    assert find_collapse(replies([PROSE] * 12), now, domain=JSON) == ()


def test_opening_labels_and_length_of_a_domain_are_shapes_too():
    base = [PROSE] * 12
    names = [s.name for s in shapes(["Order no. 17 is late because of rain and wind today"] * 9 + ["Sorry"], base)]
    assert names == ["begin like the domain's answers ('Order no.')", "are one of the domain's answers"]
    labels = ["late", "lost", "broken"] * 5
    assert [s.name for s in shapes(labels, base)] == [
        "are one of the domain's answers",
        "are as short as the domain's (1 word or fewer)",
    ]
    assert [s.name for s in shapes([f"{n} {n}" for n in range(40)], ["yes"] * 12)] == []  # the base is brief itself
    (sign,) = find_collapse(replies(base), replies(["Late"] * 12), domain=labels)
    assert sign.now == 1.0
    assert "are one of the domain's answers" in sign.text


def test_replies_to_other_items_are_not_compared():
    before = replies([PROSE] * 12, probe="other")
    assert find_collapse(before, replies(['{"a": 1}'] * 12), domain=JSON) == ()


def measured(probe: str, method: str, values: list[float]) -> Measurement:
    return Measurement(
        checkpoint="c", probe=probe, axis="instruction", role="general", method=method, metric="m", split="test",  # pyright: ignore[reportArgumentType]
        ids=tuple(map(str, range(len(values)))), items=tuple(values), hard=tuple(float(v > 0.5) for v in values),
        chance=0.0 if method == "generate" else 0.5,
    )  # fmt: skip


def test_likelihoods_that_hold_while_replies_fall_are_named():
    before = [measured("formats", "generate", [1.0] * 40), measured("pairs", "choice", [0.9] * 40)]
    now = [measured("formats", "generate", [0.0, 1.0] * 20), measured("pairs", "choice", [0.9, 0.892] * 20)]
    old = replies(["* a\n* b"] * 12)
    new = replies(["fine"] * 11, score=0.5) + replies(["no"] * 12, score=0.0)[11:]
    (sign,) = find_collapse(old, new, domain=[], drop=general_drop(before, now), measured=now)
    # 20 of 40 replies fell: 50 %; the choice fell from 0.9 to 0.896, of 0.4 above chance: 1 %
    assert (sign.sign, sign.axis, round(sign.now, 3), round(sign.before, 3)) == (
        "generation",
        "instruction",
        0.5,
        0.01,
    )
    assert "what the model writes (formats) fell by 50 %, while what it finds likely fell by 1 %" in sign.text
    assert (sign.reply, sign.reply_before) == ("no", "* a\n* b")


def test_an_axis_that_is_lost_both_ways_has_been_forgotten_not_collapsed():
    before = [measured("formats", "generate", [1.0] * 40), measured("pairs", "choice", [0.9] * 40)]
    now = [measured("formats", "generate", [0.0, 1.0] * 20), measured("pairs", "choice", [0.7] * 40)]
    answers = replies(["fine"] * 12)
    assert find_collapse(answers, answers, domain=[], drop=general_drop(before, now), measured=now) == ()
