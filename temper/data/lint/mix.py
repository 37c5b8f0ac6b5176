"""The mixture's shares, held against what there is to draw from. Pure; imports its own package."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from temper.data.lint.finding import Finding, finding


def mix_findings(
    asked: Mapping[str, float],
    available: Mapping[str, int],
    *,
    eval_only: Collection[str] = (),
    where: str = "replay.from",
) -> tuple[Finding, ...]:
    """What is probably not meant in the shares of a mixture.

    Args:
        asked: Category or source -> share; a share of 0 says that it is meant.
        available: Category or source -> supervised tokens there are.
        eval_only: Those that exist to be measured on.
        where: Dotted recipe path of the shares.
    """
    return tuple(_findings(asked, available, eval_only, where))


def _findings(
    asked: Mapping[str, float], available: Mapping[str, int], eval_only: Collection[str], where: str
) -> Iterator[Finding]:
    for name, share in asked.items():
        if share > 0 and not available.get(name) and name not in eval_only:
            have = ", ".join(sorted(n for n, tokens in available.items() if tokens)) or "none"
            yield finding("M001", f"{where}.{name}", f"a share of {share:g}, and no rows; there are rows for: {have}")
    left = {n: tokens for n, tokens in available.items() if tokens and n not in asked and n not in eval_only}
    if left:
        listed = ", ".join(f"{name} ({tokens} supervised tokens)" for name, tokens in left.items())
        yield finding("M002", ", ".join(f"{where}.{name}" for name in left), f"no share is given for {listed}")
    for name, share in asked.items():
        if share > 0 and name in eval_only:
            yield finding("M003", f"{where}.{name}", f"a share of {share:g} of a source whose role is eval-only")
