"""Filters: which rows of a file are left out, by name, counted, each with its reason. Nothing is left out unasked.

A recipe writes `filters: [quality, dedup, {name: length, min_words: 5}]`; `parse` makes values of it. Filters of one
row at a time run where the row is read (`Screen`, one per process). Those that compare rows decide over the prints of
all rows at the end, on what the others left, whatever the order in the recipe (`repeats`). `apply` does all of it for
rows in memory. Pure but for the language filter, which reads its model from its package. Imports rows,
quality, repeats, lint, registry and errors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from temper import registry
from temper.data import quality
from temper.data.lint.secrets import find_key
from temper.data.quality import Count, Share
from temper.data.repeats import Dedup, NearDedup, Prints, Repeat, joined, prints, repeats
from temper.data.rows import Row
from temper.data.split import is_held_out
from temper.errors import DataError, MissingExtra, RecipeError

__all__ = (
    "FILTERS", "Dedup", "Dropped", "FilterSpec", "Filtered", "GopherFilter", "HeldOut", "Language", "Length",
    "NearDedup", "Prints", "QualityFilter", "Repeat", "Screen", "Secrets", "apply", "joined", "notices", "parse",
    "prints", "repeats", "said", "tally",
)  # fmt: skip

ALARMING = 0.5
"""Part of the rows left out by one filter from which it is said that this was probably not meant."""
FEWEST_LETTERS = 20
"""A shorter text has no sure language and stays."""
JUDGED = 2000
"""Characters of a text whose language is looked at."""

Rule = Callable[[Row], str]
"""Why a row is left out; an empty text if it stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityFilter(quality.Quality):
    """Leaves out text that crawlers and generators spoil: links, symbols, repetition, wrong decoding, too little of it.

    In a conversation each turn but the system's is judged alone, if it has as many characters as a text must have: a
    short answer is no bad one, and one that repeats the prompt may be right.
    """

    name: ClassVar[str] = "quality"

    def rule(self) -> Rule:
        """The filter, ready to judge rows."""
        return self._reason

    def _reason(self, row: Row) -> str:
        if not row.messages:
            return self.reason(row.text)
        long = (turn for turn in _turns(row) if len(turn) >= self.characters)
        return next(filter(None, (self.reason(turn, lines=False) for turn in long)), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class GopherFilter(quality.Gopher):
    """Leaves out what is no English prose, by the rules of Gopher; for web text, not for conversations or code."""

    name: ClassVar[str] = "gopher"

    def rule(self) -> Rule:
        """The filter, ready to judge rows."""
        return lambda row: self.reason(said(row))


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """Leaves out rows that are too short or too long, everything but system turns counted."""

    name: ClassVar[str] = "length"
    min_words: Count | None = None
    max_words: Count | None = None
    min_characters: Count | None = None
    max_characters: Count | None = None

    def __post_init__(self) -> None:
        """Refuses limits that are missing or exclude each other."""
        limits = {f.name: getattr(self, f.name) for f in fields(self)}
        if all(limit is None for limit in limits.values()):
            raise ValueError(f"found no limit; expected at least one of: {', '.join(limits)}; add `min_words: 5`")
        for unit in ("words", "characters"):
            least, most = limits[f"min_{unit}"], limits[f"max_{unit}"]
            if least is not None and most is not None and least > most:
                found = f"found min_{unit} {least} and max_{unit} {most}"
                raise ValueError(f"{found}; expected min_{unit} <= max_{unit}; correct one of them")

    def rule(self) -> Rule:
        """The filter, ready to judge rows."""
        return self._reason

    def _reason(self, row: Row) -> str:
        text = said(row)
        counts = {"words": len(text.split()), "characters": len(text)}
        for unit, count in counts.items():
            least, most = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            if least is not None and count < least:
                return f"fewer than {least} {unit}"
            if most is not None and count > most:
                return f"more than {most} {unit}"
        return ""


Codes = Annotated[tuple[str, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v), Field(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """Leaves out rows that are surely in none of the languages to keep; short ones and code are not sure.

    py3langid (BSD-3-Clause) knows 139 languages, its model is in its package, nothing is downloaded.
    """

    name: ClassVar[str] = "language"
    keep: Codes
    """ISO 639 codes, e.g. `[en, de]`."""
    surety: Share = 0.5
    """Probability of another language from which a row is left out."""

    def rule(self) -> Rule:
        """The filter with its model loaded (a second, 100 MB), ready to judge rows."""
        try:
            from py3langid.langid import MODEL_FILE, LanguageIdentifier  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise MissingExtra("py3langid", "language") from None
        identifier: Any = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        known = identifier.labels
        for code in self.keep:
            if code not in known:
                raise RecipeError(
                    f"filter language: keep: found {code!r}; expected ISO 639 codes such as en, de, zh; "
                    f"{registry.hint(code, known)}correct it"
                )

        def reason(row: Row) -> str:
            text = said(row)[:JUDGED]
            if sum(map(str.isalpha, text)) < FEWEST_LETTERS:
                return ""
            found, probability = identifier.classify(text)
            # zxx stands for what is no language, such as code.
            foreign = found not in (*self.keep, "zxx") and probability >= self.surety
            return f"in another language ({found})" if foreign else ""

        return reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """Leaves out rows in which the linter sees a key or a password (S001), any turn counted."""

    name: ClassVar[str] = "secrets"

    def rule(self) -> Rule:
        """The filter, ready to judge rows."""
        return self._reason

    def _reason(self, row: Row) -> str:
        calls = [call.arguments for m in row.messages for call in m.tool_calls]
        turns = [text for m in (*row.messages, *row.rejected) for text in (m.content, m.reasoning)]
        text = "\n".join([*turns, *calls, row.text, row.reference])
        return find_key(text, " ".join(text.lower().split()))


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Leaves out what the exam asks, where exam and training rows come from one file; no recipe names it."""

    name: ClassVar[str] = "held-out"
    share: float
    group: str | None = None

    def rule(self) -> Rule:
        """The filter, ready to judge rows."""
        return lambda row: "asked in the exam" if is_held_out(row, share=self.share, group=self.group) else ""


FilterSpec = QualityFilter | GopherFilter | Length | Language | Secrets | HeldOut | Dedup | NearDedup
"""One filter with its parameters; equal ones are equal, picklable, and tell all of themselves by `repr`."""
FILTERS: Mapping[str, type[FilterSpec]] = {
    f.name: f for f in (QualityFilter, GopherFilter, Length, Language, Secrets, Dedup, NearDedup)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """One row that a filter left out; `asdict` is its line in a list of them."""

    origin: str
    """file:row."""
    filter: str
    reason: str
    of: str = ""
    """The earlier row that it repeats, for filters that compare rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filtered:
    """Rows that stay and rows that do not."""

    rows: tuple[Row, ...]
    dropped: tuple[Dropped, ...]
    notices: tuple[str, ...]


def parse(value: Any, *, where: str = "filters") -> tuple[FilterSpec, ...]:
    """The filters that a recipe names.

    Args:
        value: A name, `{name: ..., parameter: ...}`, or a list of them.
        where: Dotted recipe path, for messages.
    """
    entries = value if isinstance(value, list | tuple) else [] if value is None else [value]
    found = tuple(_parsed(entry, f"{where}.{number}") for number, entry in enumerate(entries))
    twice = [name for name, count in Counter(f.name for f in found).items() if count > 1]
    if twice:
        raise RecipeError(f"{where}: found {twice[0]!r} twice; expected each filter once; write its limits together")
    return found


def _parsed(entry: Any, where: str) -> FilterSpec:
    given = dict(entry) if isinstance(entry, Mapping) else {"name": entry}
    name = given.pop("name", None)
    if not isinstance(name, str) or name not in FILTERS:
        known = ", ".join(FILTERS)
        near_name = registry.hint(name, FILTERS) if isinstance(name, str) else ""
        found = repr(name) if name is not None else "no name"
        raise RecipeError(f"{where}: found {found}; expected one of: {known}; {near_name}write one of these")
    spec = FILTERS[name]
    known = [f.name for f in fields(spec)]
    for key in given:
        if key not in known:
            expected = f"one of: {', '.join(known)}" if known else "no parameters"
            raise RecipeError(
                f"{where}.{key}: found a key that {name} does not have; expected {expected}; "
                f"{registry.hint(str(key), known)}correct or remove it"
            )
    try:
        return TypeAdapter(spec).validate_python(given)
    except ValidationError as error:
        raise RecipeError(_sentence(error, where, name)) from None


def _sentence(error: ValidationError, where: str, name: str) -> str:
    fault = error.errors(include_url=False)[0]
    place = f"{where}.{fault['loc'][0]}" if fault["loc"] else where
    if fault["type"] == "missing":
        return f"{place}: found nothing; expected a value; write {{name: {name}, {fault['loc'][0]}: ...}}"
    if fault["type"] == "value_error":
        return f"{place}: {fault.get('ctx', {}).get('error')}"
    expected = fault["msg"].removeprefix("Input should be ")
    return f"{place}: found {fault['input']!r}; expected {expected}; correct it"


class Screen:
    """The filters that judge one row at a time, in the recipe's order; one per process, since some load a model."""

    def __init__(self, filters: Sequence[FilterSpec]) -> None:
        self._rules = tuple((f.name, f.rule()) for f in filters if not isinstance(f, Dedup | NearDedup))

    def __call__(self, row: Row) -> Dropped | None:
        """Why the row is left out; None if it stays."""
        for name, rule in self._rules:
            if reason := rule(row):
                return Dropped(origin=row.origin, filter=name, reason=reason)
        return None


def apply(rows: Sequence[Row], filters: Sequence[FilterSpec], *, where: str = "filters") -> Filtered:
    """The rows that pass all filters, and which did not; refuses to leave none.

    Args:
        rows: Of one source, in their order.
        filters: As `parse` gives them.
        where: Dotted recipe path, for messages.
    """
    screen = Screen(filters)
    verdicts = [screen(row) for row in rows]
    passed = [row for row, verdict in zip(rows, verdicts, strict=True) if verdict is None]
    found = repeats(prints(passed, filters), filters)
    again = {r.index for r in found}
    dropped = [v for v in verdicts if v is not None] + [
        Dropped(origin=passed[r.index].origin, filter=r.filter, reason=r.reason, of=passed[r.of].origin) for r in found
    ]
    place = {row.origin: number for number, row in enumerate(rows)}
    dropped.sort(key=lambda d: place[d.origin])
    kept = tuple(row for number, row in enumerate(passed) if number not in again)
    return Filtered(rows=kept, dropped=tuple(dropped), notices=notices(tally(dropped), len(rows), where=where))


def tally(dropped: Iterable[Dropped | Repeat]) -> dict[str, dict[str, int]]:
    """How many rows were left out: filter -> reason -> rows, the most frequent first."""
    counts = Counter((d.filter, d.reason) for d in dropped)
    result: dict[str, dict[str, int]] = {}
    for (name, reason), count in counts.most_common():
        result.setdefault(name, {})[reason] = count
    return result


def notices(counts: Mapping[str, Mapping[str, int]], rows: int, *, where: str = "filters") -> tuple[str, ...]:
    """What the user should know of what was left out of `rows` rows; refuses if nothing is left."""
    told = []
    for name, reasons in counts.items():
        count = sum(reasons.values())
        why = ", ".join(f"{reason}: {number}" for reason, number in reasons.items())
        told.append((count, f"{where}: {name} left out {count} of {rows} rows ({why})"))
    if rows and sum(count for count, _ in told) >= rows:
        sentences = "; ".join(text for _, text in told)
        raise DataError(f"{sentences}; expected rows that stay; loosen or remove a filter")
    doubt = "; more than half, which is seldom meant: look at the rows left out, loosen or remove the filter"
    return tuple(text + (doubt if count > ALARMING * rows else "") for count, text in told)


def said(row: Row) -> str:
    """What a row says itself: its text, or all turns but the system's, which are the same in many rows."""
    return "\n".join([*_turns(row), row.text]).strip()


def _turns(row: Row) -> list[str]:
    return [m.content for m in row.messages if m.role not in ("system", "developer")]
