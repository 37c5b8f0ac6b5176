"""Writes a corpus, held-out pages and closed-book questions from the PostgreSQL 15 manual, as Debian packages it.

    python examples/cpt-postgres/make_data.py [--html FOLDER]

The manual (PostgreSQL licence) is read from the installed package `postgresql-doc-15`, from a folder that is named, or
from the package fetched with apt and unpacked beside; nothing of it is kept in this repository. `data/manual/` holds
the chapter on server configuration and the short pages of the SQL command reference, one text per page;
`data/held-out/` some of its longer pages, which nobody learns; `data/train.jsonl` and `data/exam.jsonl` questions whose
answers stand in `data/manual/`. A parameter or command is asked about in train or in exam, never in both, so that what
the questions of train teach is no answer of the exam.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import json
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from temper.data.documents import readable_text

PACKAGE = "postgresql-doc-15"
INSTALLED = Path("/usr/share/doc") / PACKAGE / "html"
TESTED = "15.20"
"""Release of the manual that the figures of the README are from; a later one differs by a few sentences."""
LONGEST = 8_000
"""Characters of a page of the command reference that is learnt; longer ones are held out."""
HELD_OUT = 16
"""Pages that nobody learns."""
HELD_OUT_LONGEST = 16_000
OPTIONS = 4
EXAM_SHARE = 0.5
REPLY = {
    "parameter": "The parameter is {}.", "default": "Its default value is {}.", "command": "The command is {}.",
}  # fmt: skip
"""A chat model answers in sentences; one that learnt bare names here lost more of its general abilities (README)."""
SENTENCE = re.compile(r"(?<=[.])\s+(?=[A-Z])")
PARAMETER = re.compile(
    r'<dt id="GUC-[^"]*">.*?<code class="varname">(\w+)</code> \(<code class="type">([\w ]+)</code>\).*?</dt><dd>', re.S
)
DEFAULT = re.compile(
    r"The default (?:value )?(?:for this parameter )?is (?:typically |normally |usually )?(?P<words>.+?)"
    r"(?: \(`(?P<in_brackets>[^`]+)`\)|(?=[.;,] |\.$| \(| but | which | to | on ))"
)
VERBS = (
    "Sets", "Specifies", "Controls", "Enables", "Determines", "Causes", "Allows", "Defines", "Selects", "Indicates",
    "Configures", "Turns", "Limits", "Reports", "Shows", "Forces", "Prints", "Generates", "Writes", "Emits", "Logs",
    "Gives", "Disables", "Prevents", "Provides", "Records", "Requires", "Starts", "Stores",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Something that the manual says about one parameter or command, as a question."""

    subject: str
    """What is asked about; decides about the side."""
    kind: str
    """`parameter`, `default` or `command`."""
    question: str
    answer: str
    page: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of the manual."""

    name: str
    title: str
    body: str
    """HTML without the navigation."""

    @property
    def text(self) -> str:
        """What a reader sees."""
        return readable_text(self.body).strip() + "\n"


def main() -> None:
    """Reads the manual and writes the four parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--html", type=Path, help=f"folder of the manual's pages; by default those of {PACKAGE}")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("data"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as beside:
        folder = arguments.html or (INSTALLED if INSTALLED.is_dir() else _fetched(Path(beside)))
        write(folder, arguments.out)


def write(folder: Path, out: Path) -> None:
    """Writes everything that is made from the pages of a folder."""
    config, commands = pages(folder, "runtime-config-*.html"), pages(folder, "sql-*.html")
    short = [page for page in commands if len(page.text) <= LONGEST]
    long = [page for page in commands if LONGEST < len(page.text) <= HELD_OUT_LONGEST]
    held_out = sorted(long, key=lambda page: _digest(page.name))[:HELD_OUT]
    found = [fact for page in config for fact in parameters(page)] + [fact for page in short for fact in command(page)]
    rows = questions(found, seed=0)
    for name, those in (("manual", [*config, *short]), ("held-out", held_out)):
        shutil.rmtree(out / name, ignore_errors=True)
        (out / name).mkdir(parents=True)
        for page in those:
            (out / name / f"{page.name}.txt").write_text(page.text, encoding="utf-8")
    for side in ("train", "exam"):
        lines = [json.dumps(row, ensure_ascii=False) for row in rows if row["side"] == side]
        (out / f"{side}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{side}.jsonl: {len(lines)} questions")
    version = release(folder)
    print(f"manual/: {len(config) + len(short)} pages, held-out/: {len(held_out)}; PostgreSQL {version}")
    if version != TESTED:
        print(f"note: the figures of the README are from {TESTED}")


def pages(folder: Path, pattern: str) -> list[Page]:
    """The pages of a folder with text of their own, by name."""
    found = [_page(path) for path in sorted(folder.glob(pattern))]
    if not found:
        raise SystemExit(f"{folder}: no {pattern}; expected the HTML pages of the PostgreSQL manual; name their folder")
    return found


def release(folder: Path) -> str:
    """Which release of PostgreSQL the manual is about."""
    named = re.search(r"PostgreSQL (\d+(?:\.\d+)?) Documentation", (folder / "sql-select.html").read_text("utf-8"))
    return named[1] if named else "of unknown release"


def parameters(page: Page) -> Iterator[Fact]:
    """What a page of the configuration chapter says of its parameters: what each is for, and its default."""
    starts = [(found[1], found[2], found.end()) for found in PARAMETER.finditer(page.body)]
    for name, type_, at in starts:
        paragraphs = [_plain(p) for p in re.findall(r"<p>(.*?)</p>", page.body[at : _end(page.body, at)], re.S)]
        purpose = SENTENCE.split(paragraphs[0])[0].replace("`", "") if paragraphs else ""
        if purpose.startswith(VERBS) and purpose.endswith(".") and name not in purpose and len(purpose) < 240:
            asked = f"Which PostgreSQL configuration parameter {purpose[0].lower()}{purpose[1:-1]}?"
            yield Fact(subject=name, kind="parameter", question=asked, answer=name, page=page.name)
        said = DEFAULT.search(" ".join(paragraphs)) if type_ != "boolean" else None
        value = (said["in_brackets"] or said["words"]).replace("`", "").strip("'\" ") if said else ""
        if value and len(value) <= 24 and not value.startswith(("the ", "not ", "set ")):
            asked = f"What is the default value of the PostgreSQL configuration parameter {name}?"
            yield Fact(subject=name, kind="default", question=asked, answer=value, page=page.name)


def command(page: Page) -> Iterator[Fact]:
    """What a page of the command reference says its command is for."""
    said = re.search(r'<div class="refnamediv">.*?<p>(.*?)</p>', page.body, re.S)
    name, _, purpose = _plain(said[1]).partition(" \u2014 ") if said else ("", "", "")
    if purpose and re.fullmatch(r"[A-Z ]+", name):
        yield Fact(
            subject=name, kind="command", question=f"Which PostgreSQL command is used to {purpose}?", answer=name,
            page=page.name,
        )  # fmt: skip


def questions(facts: Sequence[Fact], *, seed: int) -> list[dict[str, object]]:
    """One row per fact: the question, its answer, and wrong answers of the same kind, the nearest ones first."""
    by_question = {fact.question: fact for fact in facts}
    pools = {kind: [f for f in by_question.values() if f.kind == kind] for kind in ("parameter", "default", "command")}
    subjects = sorted({fact.subject for fact in facts}, key=lambda s: _digest(f"{seed}:{s}"))
    asked = set(subjects[: round(EXAM_SHARE * len(subjects))])
    rows: list[dict[str, object]] = []
    for fact in by_question.values():
        order = random.Random(f"{seed}:{fact.question}")
        wrong = order.sample(_wrong(fact, pools[fact.kind])[: 3 * OPTIONS], OPTIONS - 1)
        said = REPLY[fact.kind].format
        options = [said(answer) for answer in order.sample([fact.answer, *wrong], OPTIONS)]
        rows.append(
            {
                "prompt": fact.question, "completion": said(fact.answer), "options": options, "fact": fact.answer,
                "kind": fact.kind, "subject": fact.subject, "side": "exam" if fact.subject in asked else "train",
            }
        )  # fmt: skip
    return rows


def _wrong(fact: Fact, pool: Sequence[Fact]) -> list[str]:
    """Answers of other questions of the same kind, the nearest ones first."""
    others = {other.answer: other for other in pool if other.answer != fact.answer}
    return sorted(others, key=lambda answer: (-_alike(fact, others[answer]), _digest(fact.question + answer)))


def _alike(fact: Fact, other: Fact) -> int:
    """How near a wrong answer is: words and page that it shares with the right one, digits where that has some."""
    words = set(re.split(r"[_ ]", fact.answer)) & set(re.split(r"[_ ]", other.answer))
    digits = bool(re.search(r"\d", fact.answer)) == bool(re.search(r"\d", other.answer))
    return 2 * len(words) + 2 * digits + (fact.page == other.page)


def _page(path: Path) -> Page:
    whole = path.read_text(encoding="utf-8")
    title = re.search(r"<title>(.*?)</title>", whole, re.S)
    body = whole.partition("<hr /></div>")[2].partition('<div class="navfooter">')[0]
    return Page(name=path.stem, title=html.unescape(title[1]) if title else path.stem, body=body)


def _end(body: str, at: int) -> int:
    """Where the description of a parameter ends: before the next one."""
    following = body.find('<dt id="GUC-', at)
    return following if following >= 0 else len(body)


def _plain(markup: str) -> str:
    """A paragraph as one line, literals in backquotes."""
    marked = re.sub(r'<code class="literal">(.*?)</code>', r"`\1`", markup, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", marked)).split())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _fetched(beside: Path) -> Path:
    """The pages of the package, fetched with apt and unpacked; nothing is installed."""
    remedy = f"install {PACKAGE}, or name the folder of the manual's pages: --html FOLDER"
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise SystemExit(f"make_data.py: {PACKAGE} is not installed and there is no apt here; {remedy}")
    done = subprocess.run(["apt-get", "download", PACKAGE], cwd=beside, capture_output=True, text=True, check=False)
    archives = sorted(beside.glob("*.deb"))
    if done.returncode or not archives:
        raise SystemExit(f"make_data.py: apt could not fetch {PACKAGE} ({done.stderr.strip()}); {remedy}")
    subprocess.run(["dpkg-deb", "-x", archives[0].name, "pages"], cwd=beside, check=True)
    print(f"fetched {archives[0].name}, sha256 {hashlib.sha256(archives[0].read_bytes()).hexdigest()}")
    return beside / "pages" / INSTALLED.relative_to("/")


if __name__ == "__main__":
    main()
