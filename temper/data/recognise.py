"""Recognise: the shape of a file from its columns and its first records.

The most specific shape wins: one that reads all columns that another one needs. Two meanings that stand side by side
(`text` and `prompt` + `completion`) are refused with the choices. `columns:` of the recipe maps a known name to the
file's own, {completion: Antwort}. When it names every column that a shape needs, only that shape is considered, so
{prompt: prompt, completion: completion} also chooses. Imports shapes, files, errors.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from typing import cast

from temper.data.files import Record
from temper.data.shapes import Shape, known_shapes, renamed, shapes, specific
from temper.errors import DataError

SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "prompt": ("input", "query", "user", "question", "instruction", "source"),
    "completion": ("output", "response", "reply", "assistant", "answer", "target"),
    "text": ("content", "document", "body", "article"),
}
"""Names that are only suggested: what they mean is for the user to confirm."""


def recognise(where: str, sample: Sequence[Record], mapping: Mapping[str, str]) -> Shape:
    """The one shape that the columns of the first records have.

    Args:
        where: The file, for messages.
        sample: Readable records from its start.
        mapping: Known column name -> the file's own.
    """
    names, where = column_names(sample), f"{where}:1"
    if len(sample) == 1 and (rows_inside := _sideways(sample[0].fields)):
        found = f"found one object with {rows_inside} values in each of its fields {', '.join(map(repr, names))}"
        raise DataError(f"{where}: {found}; expected one object per row; write it so (pandas: orient='records')")
    pool = _meant(where, names, mapping)
    rows = [renamed(record.fields, mapping) for record in sample]
    filled = [{name for name, value in fields.items() if value is not None} for fields in rows]
    # A column of nulls has no meaning; but if nothing else is there, its rows shall be told.
    fitting = _fitting(pool, rows, filled) or _fitting(pool, rows, [set(fields) for fields in rows])
    if not fitting:
        raise DataError(f"{where}: {_wrapped(sample) or _unknown(names, mapping)}")
    if len(fitting) > 1:
        raise DataError(f"{where}: {_choices(fitting, sample, filled, mapping)}")
    return next(iter(fitting))


def column_names(sample: Sequence[Record]) -> tuple[str, ...]:
    """All columns of the records, in the order in which they come up."""
    return tuple(dict.fromkeys(name for record in sample for name in record.fields))


def _fitting(
    pool: Sequence[Shape], rows: Sequence[Mapping[str, object]], filled: Sequence[set[str]]
) -> tuple[Shape, ...]:
    found = set().union(*filled)

    def fits(shape: Shape) -> bool:
        needs = set(shape.columns)
        whole = [fields for fields, has in zip(rows, filled, strict=True) if needs <= has]
        return needs <= found and (not whole or shape.fits(whole[0]))

    return specific([shape for shape in pool if fits(shape)])


def _meant(where: str, names: Sequence[str], mapping: Mapping[str, str]) -> tuple[Shape, ...]:
    """The shapes that `columns:` leaves open; refuses names that no file or no shape has."""
    reads = {shape: {*shape.columns, *shape.more} for shape in shapes()}
    for known, own in mapping.items():
        if own not in names:
            expected = ", ".join(map(repr, names)) or "none"
            hint = _near(own, names) or "correct the name"
            raise DataError(f"{where}: columns.{known}: no column {own!r}; expected one of {expected}; {hint}")
        all_known = sorted(set().union(*reads.values()))
        if known not in all_known:
            hint = _near(known, all_known) or "correct the name"
            expected = f"expected one of {', '.join(all_known)}"
            raise DataError(f"{where}: columns.{known}: no shape has a column of this name; {expected}; {hint}")
    allowed = [shape for shape in shapes() if set(mapping) <= reads[shape]]
    if not allowed:
        found = f"columns: {', '.join(mapping)} belong to different shapes"
        raise DataError(f"{where}: {found}; expected those of one; name the columns of one of {known_shapes()}")
    # A prompt alone never chooses: it is the first column of other shapes as well.
    named = [s for s in allowed if mapping and set(s.columns) <= set(mapping) and s.columns != ("prompt",)]
    return specific(named) if named else tuple(allowed)


def _near(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else ""


def _choices(
    fitting: Sequence[Shape], sample: Sequence[Record], filled: Sequence[set[str]], mapping: Mapping[str, str]
) -> str:
    """What to say of a file with several meanings: of each row, or of different rows."""
    needed = [set(shape.columns) for shape in fitting]
    if not any(all(needs <= has for needs in needed) for has in filled):
        first = [next((r.row for r, has in zip(sample, filled, strict=True) if needs <= has), 0) for needs in needed]
        if all(first):
            found = ", ".join(f"{shape.name} (row {row})" for shape, row in zip(fitting, first, strict=True))
            return f"found rows of several shapes, {found}; expected one shape per file; put each into its own file"
    columns = ", ".join(dict.fromkeys(repr(c) for shape in fitting for c in shape.columns))
    ways = " or ".join(f"columns: {_line(shape.columns, mapping)} for {shape.name}" for shape in fitting)
    return f"the columns {columns} have {len(fitting)} meanings; expected one; choose with {ways}"


def _line(columns: Sequence[str], mapping: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{c}: {_name(mapping.get(c, c))}" for c in columns) + "}"


def _name(column: str) -> str:
    """A column's name as the recipe has to write it: in quotes where YAML would read something else."""
    return column if re.fullmatch(r"[^\W\d][\w.-]*( [\w.-]+)*", column) else json.dumps(column, ensure_ascii=False)


def _sideways(fields: Mapping[str, object]) -> int:
    """How many rows a single object holds column by column, as pandas writes them if not told otherwise; mostly 0."""
    columns = list(fields.values())
    if all(isinstance(c, dict) and c and list(c) == [str(n) for n in range(len(c))] for c in columns):
        return len(cast("dict[str, object]", columns[0])) if columns else 0
    lists = [c for c in columns if isinstance(c, list) and len(c) > 1 and not any(isinstance(v, dict) for v in c)]
    return len(lists[0]) if lists and len(lists) == len(columns) and len({len(c) for c in lists}) == 1 else 0


def _wrapped(sample: Sequence[Record]) -> str:
    """What to say of a single object that holds the rows in one of its fields; empty for anything else."""
    fields = sample[0].fields if len(sample) == 1 else {}
    for name, value in fields.items():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            found = f"found one object with {len(value)} objects in its field {name!r}"
            return f"{found}; expected the rows themselves; write that list alone into the file"
    return ""


def _unknown(names: Sequence[str], mapping: Mapping[str, str]) -> str:
    """What to say of columns without a meaning, with a mapping that would give them one."""
    found = [name for name in names if name not in mapping.values()]
    hints = "prompt: ..., completion: ..."
    for shape in shapes():
        guesses = dict(mapping)
        for column in shape.columns:
            free = [name for name in found if name not in guesses.values()]
            near = [column] if column in free else difflib.get_close_matches(column, free, n=1, cutoff=0.75)
            near = near or [name for name in free if name.lower() in (column, *SYNONYMS.get(column, ()))]
            if column not in guesses and near:
                guesses[column] = near[0]
        renamings = [f"{column}: {_name(own)}" for column, own in guesses.items() if column != own]
        if set(shape.columns) <= set(guesses) and renamings and guesses != mapping:
            hints = ", ".join(renamings)
            break
    listed = ", ".join(map(repr, names)) or "none"
    wanted = f"expected one of the shapes {known_shapes()}; rename the columns or map them with columns: {{{hints}}}"
    return f"found the columns {listed}; {wanted}"
