"""The mixture's shares, held against what there is to draw from. Pure; imports its own package."""

from __future__ import annotations

from collections.abc import Mapping

from temper.data.lint.finding import Finding, finding


def mix_findings(asked: Mapping[str, float], available: Mapping[str, int], *, where: str) -> tuple[Finding, ...]:
    """What a mixture has nothing of, where that was probably not meant.

    Args:
        asked: Category or source -> share; a share of 0 says that it is meant.
        available: Category -> supervised tokens there are.
        where: Dotted recipe path of the shares.
    """
    unasked = [f"{name} ({tokens:,} tokens)" for name, tokens in available.items() if tokens and name not in asked]
    return (finding("M002", where, f"no share for {', '.join(unasked)}"),) if unasked else ()
