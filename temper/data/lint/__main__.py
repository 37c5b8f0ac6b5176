"""Prints `docs/lint.md`: python -m temper.data.lint > docs/lint.md."""

from __future__ import annotations

from temper.data.lint.page import page

if __name__ == "__main__":
    print(page(), end="")
