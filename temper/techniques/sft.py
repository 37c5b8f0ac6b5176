"""Supervised fine-tuning: domain rows and replay in one mixture, cross-entropy on the answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from temper.recipe.facts import Facts
from temper.recipe.resolve import ResolvedStage, extend, plain
from temper.recipe.schema import Stage
from temper.recipe.sheet import Sheet
from temper.techniques.base import Plan
from temper.techniques.inventory import Inventory
from temper.techniques.mixing import mixture, plan_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedSFT(ResolvedStage):
    """A supervised fine-tuning stage with nothing left open."""

    train_on: Literal["all", "last"]


class SFT(Stage):
    """Supervised fine-tuning on prompts and answers."""

    technique: Literal["sft"] = "sft"  # pyright: ignore[reportIncompatibleVariableOverride]
    train_on: Literal["all", "last"] = "all"
    """Which assistant turns of a dialogue are learnt."""

    def settle(self, common: ResolvedStage, facts: Facts, sheet: Sheet) -> ResolvedSFT:
        """Adds which turns are learnt."""
        del facts
        said = self.train_on if "train_on" in self.model_fields_set else None
        turns = sheet.take("train_on", said, plain(self.train_on, "every assistant turn is learnt"))
        return extend(common, ResolvedSFT, train_on=turns)

    def plan(self, stage: ResolvedSFT, inventory: Inventory, *, seed: int) -> Plan:
        """What the stage trains on, how long, and at which rates."""
        return plan_rows(stage, mixture(stage, inventory, seed=seed))
