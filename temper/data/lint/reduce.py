"""The findings of a set of rows: `conclude` puts together what `inspect` said of each. Imports its own package, numpy.

Every check is a function that yields one `Finding` at most for a code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from temper.data.lint.distribution import answers, lengths
from temper.data.lint.facts import RowFacts
from temper.data.lint.finding import Finding, finding, list_places
from temper.data.lint.gather import NAMED, Flagged, Gathered
from temper.data.lint.knowledge import COMPARED, Knowledge
from temper.data.lint.near import SIMILAR, near_pairs
from temper.data.lint.words import BOILERPLATE, GRAM, PERMUTATIONS

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEWEST: Mapping[str, int] = {"sft": 16, "rft": 100, "dpo": 100}
"""Rows below which a technique has too little: for RFT the managed reference's minimum, the others by rule of thumb."""
FEWEST_CHARS = 20_000
"""The same for plain text, where a row can be a book: some ten pages."""
SHORT_ANSWER = 200
"""Characters up to which two answers to one prompt contradict each other; longer ones may both be right."""
FEWEST_NEAR = 0.005
"""Part of the rows that has to be nearly equal to others: a few such rows are in every large file."""
SENTENCES: Mapping[str, str] = {
    "C001": "have two turns of one speaker in a row",
    "C002": "have a system message that is not the first",
    "C003": "begin with the assistant's turn",
    "C005": "have an answer that repeats the prompt",
    "C006": "have the same text as chosen and as rejected",
    "Q001": "hold text that was decoded wrongly",
    "Q002": "hold a very long repetition",
    "Q003": "hold characters that nobody sees",
    "Q004": "hold HTML",
    "R001": "have no token to learn",
    "R002": "do not learn the end of the turn",
    "R003": "begin with two beginning-of-sequence tokens",
    "R004": "hold a special token of the model, written out",
    "R005": "hold the marks of a chat template",
    "R006": "have a prompt that leaves no room for the answer",
    "S001": "hold a key or a password",
    "S002": "hold personal data",
    "T008": "are items of a general probe",
    "T010": "hold the canary of a benchmark",
}


def conclude(facts: Iterable[RowFacts], knowledge: Knowledge) -> tuple[Finding, ...]:
    """All findings in the order of their codes; a clean data set has none.

    Takes the rows one by one and keeps about 60 bytes of each, and 256 more of those compared for near-duplicates.
    """
    rows = Gathered(facts)
    found = chain(
        _flags(rows),
        _duplicates(rows),
        _conflicts(rows),
        _exam_in_train(rows, knowledge),
        _overlap(rows, knowledge),
        _too_few(rows, knowledge),
        _too_long(rows, knowledge),
        _near(rows),
        lengths(rows),
        answers(rows),
    )
    return tuple(sorted(found, key=lambda f: f.code))


def _flags(rows: Gathered) -> Iterator[Finding]:
    """What was seen in single rows, counted."""
    for code, flagged in rows.flagged.items():
        kinds = ", ".join(kind for kind, _ in flagged.details.most_common(NAMED))
        what = f"{flagged.rows} of {rows.rows} rows {SENTENCES[code]}" + (f" ({kinds})" if kinds else "")
        yield finding(code, rows.where(flagged.first, flagged.rows), what)


def _duplicates(rows: Gathered) -> Iterator[Finding]:
    again = np.setdiff1d(np.arange(rows.rows), first_of_each(rows.columns.id))
    if len(again):
        what = f"{len(again)} of {rows.rows} rows stand in the training data already"
        yield finding("T001", rows.where_all(again), what)


def _conflicts(rows: Gathered) -> Iterator[Finding]:
    columns = rows.columns
    short = columns.answer_chars <= SHORT_ANSWER
    counted = np.flatnonzero(columns.talks & ~columns.paired & (columns.answer != 0) & short)
    pairs = np.stack([columns.prompt[counted], columns.answer[counted]], axis=1)
    _, first = np.unique(pairs, axis=0, return_index=True) if len(pairs) else (None, np.zeros(0, np.int64))
    firsts = counted[np.sort(first)]
    _, where, counts = np.unique(columns.prompt[firsts], return_inverse=True, return_counts=True)
    torn = firsts[counts[where] > 1]
    if len(torn):
        what = f"{len(torn)} rows answer the same prompt differently"
        yield finding("T002", rows.where_all(torn), what)


def _exam_in_train(rows: Gathered, knowledge: Knowledge) -> Iterator[Finding]:
    columns = rows.columns
    exam = [held for held in knowledge.held if held.is_exam]
    texts = np.array([held.whole for held in exam], np.uint64)
    answered = columns.prompt[columns.talks & (columns.answer != 0)]
    wholes = np.isin(texts, columns.whole)
    prompts = np.isin(np.array([held.prompt for held in exam], np.uint64), answered)
    leaked = [held.place for held, met in zip(exam, wholes, strict=True) if met]
    if leaked:
        learnt = np.flatnonzero(np.isin(columns.whole, texts))
        what = f"{len(leaked)} of {len(exam)} exam rows stand in the training data but for case and spaces"
        yield finding("T003", list_places(leaked), f"{what} (there: {rows.where_all(learnt)})")
    asked = [h.place for h, met, same in zip(exam, prompts, wholes, strict=True) if h.prompt and met and not same]
    if asked:
        what = f"{len(asked)} of {len(exam)} exam prompts stand in the training data with another answer"
        yield finding("T007", list_places(asked), what)


def _overlap(rows: Gathered, knowledge: Knowledge) -> Iterator[Finding]:
    """Runs of words shared with the exam (its rows are named) and with probes (the training rows are named)."""
    if knowledge.grams is None:
        return
    most = max(2, BOILERPLATE * rows.rows)
    copied = {gram: met for gram, met in rows.grams.items() if met.rows <= most}
    owners = {owner for gram in copied for owner in knowledge.grams.owners[gram]}
    exam = [i for i, held in enumerate(knowledge.held) if held.is_exam]
    learnt = set(np.array(exam, np.int64)[_known(rows, knowledge, exam)].tolist())
    near = [knowledge.held[i].place for i in exam if i in owners and i not in learnt]
    if near:
        what = f"{len(near)} of {len(exam)} exam rows share {GRAM} words in a row with a training row"
        yield finding("T004", list_places(near), what)
    probed = {gram: met for gram, met in copied.items() if _of_probe(knowledge, gram)}
    at = sorted({row for met in probed.values() for row in met.first})
    if at:
        names = sorted({knowledge.held[o].place for gram in probed for o in _of_probe(knowledge, gram)})
        what = f"{_about(probed, at)} share {GRAM} words in a row with items of {', '.join(names[:NAMED])}"
        yield finding("T009", rows.where(at, len(at)), what)


def _known(rows: Gathered, knowledge: Knowledge, exam: list[int]) -> NDArray[np.bool_]:
    return np.isin(np.array([knowledge.held[i].whole for i in exam], np.uint64), rows.columns.whole)


def _of_probe(knowledge: Knowledge, gram: int) -> list[int]:
    assert knowledge.grams is not None
    return [owner for owner in knowledge.grams.owners[gram] if not knowledge.held[owner].is_exam]


def _about(probed: Mapping[int, Flagged], at: list[int]) -> str:
    """How many rows share: of every run only the first rows are remembered."""
    more = any(met.rows > len(met.first) for met in probed.values())
    return f"{'at least ' if more else ''}{len(at)} rows"


def _too_few(rows: Gathered, knowledge: Knowledge) -> Iterator[Finding]:
    where = rows.where(range(rows.rows), rows.rows) or "training data"
    if knowledge.technique == "cpt":
        chars = int(rows.columns.chars.sum(dtype=np.int64))
        if chars < FEWEST_CHARS:
            what = f"{chars} characters of text, fewer than {FEWEST_CHARS}"
            yield finding("T005", where, what, fix="add text; some hundred pages are a usual beginning")
    elif rows.rows < (fewest := FEWEST.get(knowledge.technique, FEWEST["sft"])):
        what = f"{rows.rows} training rows, fewer than {fewest} for {knowledge.technique}"
        yield finding("T005", where, what)


def _too_long(rows: Gathered, knowledge: Knowledge) -> Iterator[Finding]:
    if knowledge.max_length is None:
        return
    tokens = rows.columns.tokens
    unanswered = rows.flagged.get("R006")
    long = np.flatnonzero(tokens > knowledge.max_length)
    if len(long) > (unanswered.rows if unanswered else 0):
        longest = int(tokens.max())
        what = f"{len(long)} of {rows.rows} rows have more than {knowledge.max_length} tokens, the longest {longest}"
        yield finding("T006", rows.where_all(long), what)


def _near(rows: Gathered) -> Iterator[Finding]:
    """Rows that are nearly equal to an earlier one; exact copies are named elsewhere."""
    columns = rows.columns
    firsts = np.zeros(rows.rows, np.bool_)
    firsts[first_of_each(columns.id)] = True
    compared = sorted((row, signature) for _, row, signature in rows.signatures if firsts[row])
    if len(compared) < 2:
        return
    at = np.array([row for row, _ in compared], np.int64)
    matrix = np.frombuffer(b"".join(signature for _, signature in compared), np.uint32).reshape(-1, PERMUTATIONS)
    pairs = near_pairs(matrix)
    one, other = at[pairs.first], at[pairs.second]
    short = (columns.answer_chars[one] <= SHORT_ANSWER) & (columns.answer_chars[other] <= SHORT_ANSWER)
    alike = ~short | (columns.answer[one] == columns.answer[other])  # another label makes another row
    near = np.unique(np.maximum(one, other)[alike])
    if len(near) > FEWEST_NEAR * len(at):
        of = f"{len(at)} rows compared" + (f" (the first {COMPARED} by hash)" if rows.sampled else "")
        what = f"{len(near)} of {of} are nearly equal to an earlier one (similarity {SIMILAR} or more)"
        yield finding("D001", rows.where_all(near), what)


def first_of_each(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The first place of every value."""
    return np.unique(values, return_index=True)[1]
