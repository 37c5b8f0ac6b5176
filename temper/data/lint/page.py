"""The page `docs/lint.md`, made of the table of codes. Pure."""

from __future__ import annotations

from temper.data.lint.codes import GROUPS, TABLE

HEAD = """# What the linter finds

<!-- made by `python -m temper.data.lint > docs/lint.md`; change temper/data/lint/codes.py instead -->

`temper check` and `temper run` look at every row before a step is spent. A finding has a code that never changes its
meaning, the rows (`file:row`, counted from 1), what was found, why it matters and how to fix it. An **error** stops the
run, a **warning** does not. `temper check --json` prints findings as objects with the keys `code`, `level`, `where`,
`what`, `why` and `fix`, those of a refused check as well. A key or password is named by its kind and never printed.
The files of a stage are looked over together: a row of one that stands in another is found.

| code | level | what |
|---|---|---|
"""
LIMITS = """
## What it does not see

- Overlap (T004, T009) and near-duplicates (D001) compare runs of words; in languages written without spaces there are
  hardly any, so only whole rows (T001, T003) are compared there.
- Near-duplicates are looked for among 200,000 rows at most, those with the smallest hashes; the finding says when rows
  were left out. Wording that more than one row in twenty shares is left aside, and so are rows with another short
  answer.
- Secrets are found by their form. A password in the middle of a sentence is not.
- Without the model's tokenizer the checks of rendered rows (R001 to R004, R006, T006) do not run.
"""


def page() -> str:
    """The whole page."""
    rows = "".join(f"| [{c.code}](#{c.code.lower()}) | {c.level} | {c.title} |\n" for c in TABLE)
    return HEAD + rows + LIMITS + "".join(_group(letter, title) for letter, title in GROUPS.items())


def _group(letter: str, title: str) -> str:
    parts = [f"\n## {letter}: {title}\n"]
    for code in TABLE:
        if code.code.startswith(letter):
            parts.append(
                f"\n### {code.code}\n\n**{code.title}** ({code.level}), e.g. {_example(code.example)}\n\n"
                f"- Why: {code.why}.\n- Fix: {code.fix}.\n"
            )
    return "".join(parts)


def _example(text: str) -> str:
    """An example as Markdown: what could be taken for markup is code."""
    return f"`{text}`" if set(text) & set("<{[") and "`" not in text else text
