"""`python -m temper.cli` is the command `temper`."""

from __future__ import annotations

from temper.cli import main

if __name__ == "__main__":
    main()
