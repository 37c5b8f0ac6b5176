"""Judging by loss: which text is held out for a stage whose checkpoints are compared by their loss on held-out text.

Where the recipe names such a probe, that one; else a part of the stage's own documents.
"""

from __future__ import annotations

from itertools import chain, count

from temper.data.documents import open_tables
from temper.data.passages import share_to_hold
from temper.recipe.inputs import DomainProbe
from temper.recipe.schema import Recipe, Stage

SUFFIX = "text"
"""Ends the name of a probe that no recipe named."""


def with_held_out(recipe: Recipe) -> Recipe:
    """The recipe with a loss probe for every corpus that needs one; the same recipe where none does.

    What such a probe asks is left out of the training rows like that of any probe with a `split`.

    Raises:
        DataError: A corpus is too small to be judged by a part of itself.
    """
    if any(probe.metric == "loss" for probe in recipe.probes.domain):
        return recipe
    own = tuple(probe for stage in recipe.stages if stage.judged_by == "loss" for probe in _held_out(stage))
    if not own:
        return recipe
    unique = {probe.file: probe for probe in own}.values()
    domain = list(recipe.probes.domain)
    for probe in unique:
        taken = {other.label for other in domain}
        names = chain([probe.name], (f"{probe.name}-{number}" for number in count(2)))
        domain.append(probe.model_copy(update={"name": next(name for name in names if name not in taken)}))
    return recipe.model_copy(update={"probes": recipe.probes.model_copy(update={"domain": tuple(domain)})})


def _held_out(stage: Stage) -> list[DomainProbe]:
    """One probe per source of the stage, of as many rows as its size asks for."""
    probes: list[DomainProbe] = []
    for source in stage.data:
        rows = [row for stream in open_tables(source.file, source.columns) for row in stream.rows()]
        share = share_to_hold(rows, where=str(source.file))
        named = source.file.parent if "*" in source.file.name else source.file
        name = f"{named.name.split('.')[0]}-{SUFFIX}"
        probes.append(DomainProbe(file=source.file, name=name, metric="loss", columns=source.columns, split=share))
    return probes
