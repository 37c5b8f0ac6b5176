"""Graders of short answers: a number, a pattern, and overlap with a reference text.

`numeric` and `regex` say right or wrong; `rouge_l`, `bleu` and `chrf` give a share. BLEU and chrF are sacrebleu's
(extra `text`); ROUGE-L is the F1 of the longest common subsequence of words, as `rouge_score` computes it unstemmed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from temper.errors import DataError, MissingExtra
from temper.probes.base import Item, Outcome, ProbeSpec
from temper.probes.generate import Grade, graded

if TYPE_CHECKING:
    from temper.data.render import Renderer
    from temper.model.protocol import Policy

RELATIVE = 1e-6
"""How far a number may be off: 0.3333333 for 1/3, but not 0.33."""
NUMBER = re.compile(
    r"(?P<currency>[$\u20ac\u00a3])?(?P<sign>(?<![\w.])[-\u2212])?(?P<currency2>[$\u20ac\u00a3])?"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|(?<!\d)\.\d+)(?P<power>[eE][-+]?\d+)?"
    r"(?:\s*/\s*(?P<below>\d+(?:\.\d+)?)(?![\d/]))?"
)
FINAL = re.compile(r"(?:####|\\boxed\{|answer(?:\s+is\b|\s*[:=])[:\s]*)\s*(?P<rest>[^\n]*)", re.IGNORECASE)


def numeric(policy: Policy, renderer: Renderer, spec: ProbeSpec, items: Sequence[Item]) -> tuple[Outcome, ...]:
    """1 where the number that the reply ends on is the reference's, however either of them is written."""

    def grade(reply: str, item: Item) -> Grade:
        wanted, found = final_number(str(item["reference"])), final_number(reply)
        if wanted is None:
            raise DataError(
                f"item {item['id']}: found no number in the reference {item['reference']!r}; expected one, such as 42;"
                " correct the reference, or mark the probe as exact"
            )
        right = float(found is not None and math.isclose(found, wanted, rel_tol=RELATIVE, abs_tol=1e-9))
        reference = str(item["reference"])
        return Grade(value=right, hard=right, reference=reference, parts={"number": float(found is not None)})

    return graded(policy, renderer, spec, items, grade)


def regex(policy: Policy, renderer: Renderer, spec: ProbeSpec, items: Sequence[Item]) -> tuple[Outcome, ...]:
    """1 where the item's `pattern` is found in the reply; write ^ and $ to match all of it."""

    def grade(reply: str, item: Item) -> Grade:
        try:
            right = float(re.search(item["pattern"], reply) is not None)
        except re.error as error:
            raise DataError(
                f"item {item['id']}: pattern {item['pattern']!r} is no regular expression ({error}); correct it"
            ) from None
        return Grade(value=right, hard=right, reference=item["pattern"])

    return graded(policy, renderer, spec, items, grade)


def rouge_l(policy: Policy, renderer: Renderer, spec: ProbeSpec, items: Sequence[Item]) -> tuple[Outcome, ...]:
    """ROUGE-L F1 of the reply and the reference."""
    return graded(policy, renderer, spec, items, lambda r, i: _soft(subsequence_f1(r, i["reference"]), i))


def bleu(policy: Policy, renderer: Renderer, spec: ProbeSpec, items: Sequence[Item]) -> tuple[Outcome, ...]:
    """Sentence BLEU of sacrebleu, from 0 to 1."""
    sacrebleu = _sacrebleu()
    metric = sacrebleu.BLEU(effective_order=True)
    return graded(
        policy, renderer, spec, items,
        lambda r, i: _soft(metric.sentence_score(r, [i["reference"]]).score / 100, i),
    )  # fmt: skip


def chrf(policy: Policy, renderer: Renderer, spec: ProbeSpec, items: Sequence[Item]) -> tuple[Outcome, ...]:
    """Sentence chrF of sacrebleu, from 0 to 1."""
    metric = _sacrebleu().CHRF()
    return graded(
        policy, renderer, spec, items,
        lambda r, i: _soft(metric.sentence_score(r, [i["reference"]]).score / 100, i),
    )  # fmt: skip


def final_number(text: str) -> float | None:
    """The number that a text gives as its answer: after ####, \\boxed or "answer is" where written, else the last.

    Thousands may have commas, fractions a slash; currency signs and units are passed over, 25 % is 25.
    """
    for told in reversed(list(FINAL.finditer(text))):
        first = next(NUMBER.finditer(told.group("rest")), None)
        if first is not None:
            return _value(first)
    found = list(NUMBER.finditer(text))
    return _value(found[-1]) if found else None


def subsequence_f1(reply: str, reference: str) -> float:
    """F1 of the longest common subsequence of lower-cased words of letters and digits."""
    left, right = (re.findall(r"[a-z0-9]+", t.lower()) or t.lower().split() for t in (reply, reference))
    if not left or not right:
        return 0.0
    row = [0] * (len(right) + 1)
    for word in left:
        diagonal = 0
        for place, other in enumerate(right, start=1):
            diagonal, row[place] = row[place], diagonal + 1 if word == other else max(row[place], row[place - 1])
    return 2 * row[-1] / (len(left) + len(right))


def _value(found: re.Match[str]) -> float | None:
    digits = found.group("digits").replace(",", "") + (found.group("power") or "")
    try:
        value = float(Decimal(digits))
    except InvalidOperation:
        return None
    below = float(found.group("below") or 1)
    value = value / below if below else value
    return -value if found.group("sign") else value


def _soft(value: float, item: Item) -> Grade:
    return Grade(value=value, reference=item["reference"])


def _sacrebleu() -> Any:
    try:
        import sacrebleu.metrics  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise MissingExtra("sacrebleu", "text") from None
    return sacrebleu.metrics
