"""Format collapse: the ability is still there, but what the model writes no longer shows it.

Two ways to see it, both from what has been measured anyway. `shape`: replies to general prompts take the shape of the
domain's answers (its JSON, its opening words, one of its labels, its length), which before they did not. `generation`:
on one axis the probes that compare likelihoods kept their level, those that read replies lost theirs. A published
tuned model scored 0.4 % on four-way questions, far below chance: it had not forgotten the answers, it wrote something
else. Pure functions of events; the caller makes a notice of what they find.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from temper.stats import wilson

if TYPE_CHECKING:
    from temper.decide.drop import Drop, ProbeDrop
    from temper.events import Answer, Measurement

LEAST_RISE = 0.25
"""Share of replies that must have taken the shape, beyond chance (the two 95 % intervals do not touch)."""
TYPICAL = 0.9
"""Share of the domain's references that make a shape the domain's own."""
OPENING_WORDS = 2
LABELS = 30
"""Different answers up to which a domain is a choice of labels."""
SHORT_WORDS, SHORTER = 12, 3.0
"""Length that can be a collapse: at most so many words, and at least so many times shorter than the base's replies."""
GENERATION_LOST, KEPT_SHARE = 0.10, 1 / 3
"""A fall of what is generated that is surely above the first, while likelihoods fell by less than this part of it."""
SHOWN = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Collapse:
    """One sign of collapse, with an example."""

    sign: Literal["shape", "generation"]
    probe: str
    axis: str
    before: float
    """Share of replies of that shape before; for `generation` the fall of what likelihoods say."""
    now: float
    """The same now; for `generation` the fall of what replies say."""
    text: str
    """One sentence that says what was seen."""
    prompt: str = ""
    """An example, empty where no reply was kept."""
    reply: str = ""
    reply_before: str = ""

    def __str__(self) -> str:
        if not self.reply:
            return self.text
        told = f"{self.text} To {_shown(self.prompt)} it now replies {_shown(self.reply)}"
        return told + (f", where the base replied {_shown(self.reply_before)}." if self.reply_before else ".")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Something that all answers of the domain have in common."""

    name: str
    fits: Callable[[str], bool]


def find_collapse(
    before: Sequence[Answer], now: Sequence[Answer], *, domain: Sequence[str], drop: Drop | None = None,
    measured: Sequence[Measurement] = (),
) -> tuple[Collapse, ...]:  # fmt: skip
    """Every sign that general replies have collapsed into the domain's form.

    Args:
        before: Replies of the base to the prompts of general probes (`Answer` events of these probes).
        now: Replies of the model, to the same prompts.
        domain: Reference answers of the domain.
        drop: The general drop of the model, for the comparison of likelihoods with replies.
        measured: General measurements of the model, whose metrics tell which probes generate; needed with `drop`.
    """
    return (*_shapes(before, now, domain), *(_generation(drop, measured, before, now) if drop else ()))


def shapes(domain: Sequence[str], base_replies: Sequence[str]) -> tuple[Shape, ...]:
    """What the answers of a domain have in common and the base's general replies have not."""
    texts = [t.strip() for t in domain if t.strip()]
    if not texts:
        return ()
    found: list[Shape] = []
    if _share(texts, _is_json) >= TYPICAL:
        found.append(Shape(name="are the domain's JSON", fits=_is_json))
    openings = Counter(_opening(t) for t in texts)
    opening, count = openings.most_common(1)[0]
    if count >= TYPICAL * len(texts) and opening:
        name = f"begin like the domain's answers ({opening!r})"
        found.append(Shape(name=name, fits=lambda t: _opening(t) == opening))
    labels = {t.lower() for t in texts}
    if len(labels) <= LABELS and len(texts) >= 2 * len(labels):
        found.append(Shape(name="are one of the domain's answers", fits=lambda t: t.strip().lower() in labels))
    lengths = sorted(len(t.split()) for t in texts)
    longest = lengths[int(TYPICAL * (len(lengths) - 1))]
    usual = sorted(len(t.split()) for t in base_replies)
    if longest <= SHORT_WORDS and usual and usual[len(usual) // 2] >= SHORTER * longest:
        words = "word" if longest == 1 else "words"
        found.append(Shape(name=f"are as short as the domain's ({longest} {words} or fewer)",
                           fits=lambda t: len(t.split()) <= longest))  # fmt: skip
    return tuple(found)


def _shapes(before: Sequence[Answer], now: Sequence[Answer], domain: Sequence[str]) -> list[Collapse]:
    """The most telling shape per probe that general replies have taken."""
    known = {(a.probe, a.item): a for a in before}
    by_probe: dict[str, list[Answer]] = {}
    for answer in now:
        if (answer.probe, answer.item) in known:
            by_probe.setdefault(answer.probe, []).append(answer)
    found: list[Collapse] = []
    for probe, answers in by_probe.items():
        old = [known[a.probe, a.item].reply for a in answers]
        for shape in shapes(domain, old):
            was, now_is = _share(old, shape.fits), _share([a.reply for a in answers], shape.fits)
            apart = _low(now_is, len(answers)) > _high(was, len(answers))
            if now_is - was < LEAST_RISE or not apart:
                continue
            example = next(a for a in answers if shape.fits(a.reply) and not shape.fits(known[a.probe, a.item].reply))
            text = (
                f"Format collapse: {_percent(now_is)} of the replies to {probe} {shape.name}; before, {_percent(was)}"
                " were so."
            )
            found.append(Collapse(sign="shape", probe=probe, axis="", before=was, now=now_is, text=text,
                                  prompt=example.prompt, reply=example.reply,
                                  reply_before=known[example.probe, example.item].reply))  # fmt: skip
            break
    return found


def _generation(
    drop: Drop, measured: Sequence[Measurement], before: Sequence[Answer], now: Sequence[Answer]
) -> list[Collapse]:
    """Axes whose likelihoods kept their level and whose replies did not."""
    said = {a.probe for a in now}  # `refusal` is of the method `generate`, but reads no reply
    methods = {m.probe: m.method for m in measured}
    by_axis: dict[str, list[str]] = {}
    for name, probe in drop.probes.items():
        if probe.counted:
            by_axis.setdefault(probe.axis, []).append(name)
    found: list[Collapse] = []
    for axis, names in by_axis.items():
        silent = [drop.probes[n] for n in names if methods.get(n) in ("loss", "choice")]
        for name in names:
            probe = drop.probes[name]
            if name not in said or not silent or not _collapsed(probe, silent):
                continue
            kept = sum(p.drop or 0.0 for p in silent) / len(silent)
            text = (
                f"Format collapse: on the axis {axis}, what the model writes ({name}) fell by"
                f" {_percent(probe.drop or 0.0)}, while what it finds likely fell by {_percent(kept)}: the ability is"
                " there and no longer shows."
            )
            example = _worse(before, now, name)
            found.append(Collapse(sign="generation", probe=name, axis=axis, before=kept, now=probe.drop or 0.0,
                                  text=text, **example))  # fmt: skip
    return found


def _collapsed(spoken: ProbeDrop, silent: Sequence[ProbeDrop]) -> bool:
    if spoken.drop is None or spoken.lcb95 is None or spoken.lcb95 <= GENERATION_LOST:
        return False
    bounds = [p.ucb95 for p in silent if p.ucb95 is not None]
    kept = sum(p.drop or 0.0 for p in silent) / len(silent)
    return kept < KEPT_SHARE * spoken.drop and bool(bounds) and sum(bounds) / len(bounds) < spoken.lcb95


def _worse(before: Sequence[Answer], now: Sequence[Answer], probe: str) -> Mapping[str, str]:
    """The reply of a probe that lost most, as fields of an example."""
    known = {a.item: a for a in before if a.probe == probe}
    pairs = [(known[a.item], a) for a in now if a.probe == probe and a.item in known]
    if not pairs:
        return {}
    old, new = max(pairs, key=lambda pair: pair[0].score - pair[1].score)
    return {"prompt": new.prompt, "reply": new.reply, "reply_before": old.reply}


def _is_json(text: str) -> bool:
    bare = text.strip()
    if not bare.startswith(("{", "[")):
        return False
    try:
        return isinstance(json.loads(bare), dict | list)
    except (ValueError, RecursionError):
        # A general prompt leads to a longer object than the reply may have tokens for.
        return bare.startswith(('{"', "[{"))


def _opening(text: str) -> str:
    return " ".join(text.split()[:OPENING_WORDS])


def _share(texts: Sequence[str], fits: Callable[[str], bool]) -> float:
    return sum(fits(t) for t in texts) / len(texts) if texts else 0.0


def _low(share: float, items: int) -> float:
    return wilson(share * items, items).low


def _high(share: float, items: int) -> float:
    return wilson(share * items, items).high


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _shown(text: str) -> str:
    """A text in quotation marks on one line, cut where it is long."""
    flat = " ".join(text.split())
    return json.dumps(flat if len(flat) <= SHOWN else flat[: SHOWN - 3] + "...", ensure_ascii=False)
