"""What a reader or the renderer refused, as findings with a code. Imports errors and its own package.

Readers know no codes: what they say begins with what was found, and from that the code follows. `with_codes` writes it
into the message, as `file:row: [F003] what; expected; remedy`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from temper.data.lint.codes import CODES
from temper.data.lint.finding import Finding, finding, list_places
from temper.errors import DataError

KINDS: tuple[tuple[str, str], ...] = (
    ("T006", r"\d+ tokens up to the last one to learn"),
    ("R006", r"a prompt of \d+ tokens"),
    ("R001", r"no assistant's turn"),
    ("R002", r"the chat template writes no end token"),
    ("R007", r"[^;]*the model's chat template|turn \d+ cannot be found again"),
    ("C004", r"no answer, the last turn|no prompt, only|[^;]*; expected a prompt to be answered"),
    ("C006", r"chosen and rejected are the same"),
    ("F006", r"this row is |found rows of several shapes|the columns .* have \d+ meanings"),
    ("F006", r"found one object with |found columns: "),
    ("F003", r"an empty |no turns, found \[\]|no turns, found ''"),
    ("F002", r"no \w+, the column|no rejected|no pair of answers|found no value of the group column"),
    ("F002", r"found the columns|columns[.:]|.*one column of each"),
    ("F004", r"turn \d+|tools? |no turns, found|chosen begins|rejected |history |toolConfig"),
    ("F004", r"[\w.]+ is (?:not JSON|[{\[])|found bytes|found .*, which holds"),
    ("F005", r"no such file|not UTF-8|not a whole|a kind of file|empty, no rows|cannot be loaded|found the splits"),
    ("F005", r"not the name|Is a directory|Permission denied|no files|found \d+ rows.*holds none back"),
    ("F005", r"no text in the document|not a readable PDF|unknown encoding|not \S+ text"),
)
PATTERNS = tuple((code, re.compile(pattern)) for code, pattern in KINDS)
PLACE = re.compile(r"(?P<where>.+?)(?::(?P<row>\d+))?: (?P<problem>.+)", re.DOTALL)
MORE = re.compile(r"\.\.\. and (\d+) more")
CODED = re.compile(r"\[([A-Z]\d{3})\] ")


def code_of(problem: str) -> str:
    """The code of what a reader or the renderer says is wrong."""
    coded = CODED.match(problem)
    return coded[1] if coded else next((code for code, pattern in PATTERNS if pattern.match(problem)), "F001")


def coded(error: DataError) -> DataError:
    """The same refusal with the code of every row in it."""
    return DataError("\n".join(_with_code(line) for line in str(error).split("\n")))


@contextmanager
def with_codes() -> Iterator[None]:
    """What a reader or the renderer refuses inside is raised with codes."""
    try:
        yield
    except DataError as error:
        raise coded(error) from None


def as_error(errors: Iterable[Finding]) -> DataError:
    """The refusal that findings amount to, one line for each."""
    return DataError("\n".join(f"{f.where}: [{f.code}] {f.what}; {f.why}; {f.fix}" for f in errors))


def findings_in(error: Exception) -> tuple[Finding, ...]:
    """What an error says of data, by its lines with codes; none for another error."""
    lines = str(error).split("\n")
    coded = [line for line in lines if (place := PLACE.fullmatch(line)) and CODED.match(place["problem"])]
    more = [line for line in lines if MORE.match(line)]
    return from_errors([DataError("\n".join([*coded, *more]))]) if coded else ()


def from_errors(errors: Iterable[DataError]) -> tuple[Finding, ...]:
    """What a reader or the renderer refused, one finding per code."""
    found: list[tuple[str, str]] = []
    more = 0
    for line in (line for error in errors for line in str(error).split("\n")):
        place = PLACE.fullmatch(line)
        rest = MORE.match(line)
        if rest:
            more += int(rest[1])
        elif place:
            row = place["row"]
            found.append((f"{place['where']}:{row}" if row else place["where"], place["problem"]))
        else:
            found.append(("data", line))
    return _grouped(found, more=more)


def _with_code(line: str) -> str:
    place = PLACE.fullmatch(line)
    if place is None or MORE.match(line) or CODED.match(place["problem"]):
        return line
    start = place.start("problem")
    return f"{line[:start]}[{code_of(place['problem'])}] {line[start:]}"


def _grouped(found: Iterable[tuple[str, str]], *, more: int = 0) -> tuple[Finding, ...]:
    by_code: dict[str, list[tuple[str, str]]] = {}
    for where, problem in found:
        by_code.setdefault(code_of(problem), []).append((where, problem))
    findings: list[Finding] = []
    for code, members in sorted(by_code.items()):
        what, fix = _parts(CODED.sub("", members[0][1], count=1))
        what = what.removesuffix(f"; {CODES[code].why}")
        count = f"{len(members)} rows; the first: " if len(members) > 1 else ""
        unseen = f" (and {more} more rows of the file are refused)" if more else ""
        where = list_places([where for where, _ in members])
        findings.append(finding(code, where, f"{count}{what}{unseen}", fix=fix))
    return tuple(findings)


def _parts(problem: str) -> tuple[str, str]:
    """What was found and expected, and the remedy, as errors of this project are written."""
    what, _, fix = problem.rpartition("; ")
    return (what, fix) if "; " in what else (problem, "")
