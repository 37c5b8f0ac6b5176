"""What the documentation shows is what the program accepts."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from tests.arch.source import ROOT

Method = Literal["loss", "choice", "generate"]

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def recipes() -> Iterator[tuple[str, str]]:
    """Every YAML block that is a whole recipe, with the place where it stands."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.finditer(r"^```yaml\n(base:.*?)^```", text, re.MULTILINE | re.DOTALL):
            line = text[: block.start()].count("\n") + 1
            yield f"{page.name}:{line}", block.group(1)


@pytest.mark.parametrize(("place", "text"), list(recipes()), ids=[place for place, _ in recipes()])
def test_every_recipe_in_the_docs_is_a_valid_recipe(tmp_path: Path, place: str, text: str) -> None:
    from temper.recipe.load import load

    for name in re.findall(r"[\w./-]+\.(?:jsonl|csv)", text):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
    recipe = tmp_path / "temper.yaml"
    recipe.write_text(text, encoding="utf-8")
    assert load(recipe).stages, place


def test_the_recipe_reference_names_every_field() -> None:
    from temper import registry
    from temper.recipe import schema

    reference = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    techniques = [schema.stage_class(name) for name in registry.names("technique")]
    models = (schema.Recipe, schema.Probes, schema.DomainProbe, schema.Budget, schema.Replay, *techniques)
    fields = {field.alias or name for model in models for name, field in model.model_fields.items()}
    missing = {name for name in fields if not re.search(rf"[`.]{name}\b", reference)}
    assert missing == set()


def test_every_built_in_reward_and_its_parameters_are_explained() -> None:
    """None of them was: a reader had to find them in the code."""
    from temper import registry

    rows = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8").splitlines()
    for name in registry.BUILT_IN["reward"]:
        row = next((line for line in rows if line.startswith(f"| `{name}` | ") and line.count(" | ") == 2), "")
        parameters = inspect.signature(registry.load("reward", name).function).parameters.values()
        missing = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY and f"`{p.name}`" not in row}
        assert row and missing == set(), name


def test_links_between_pages_lead_somewhere() -> None:
    dead = [
        f"{page.name}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert dead == []


def test_the_worked_example_of_the_general_drop_is_right() -> None:
    """The page says 1.7 %; the code that counts drops says the same of the same figures."""
    from temper.decide.drop import general_drop
    from temper.events import Measurement

    def two(probe: str, axis: str, method: Method, value: float, chance: float = 0.0) -> Measurement:
        sizes = (1.0, 1.0) if method == "loss" else ()
        return Measurement(
            probe=probe, axis=axis, role="general", method=method, metric="", split="selection", checkpoint="x",
            chance=chance, ids=("a", "b"), items=(value, value), sizes=sizes,
        )  # fmt: skip

    rows: tuple[tuple[str, str, Method, float, float, float], ...] = (
        ("text", "language", "loss", 1.0, 1.01, 0.0),
        ("two", "reasoning", "choice", 0.70, 0.69, 0.5),
        ("four", "reasoning", "choice", 0.45, 0.444, 0.25),
        ("format", "instruction", "generate", 0.40, 0.40, 0.0),
        ("hard", "knowledge", "choice", 0.27, 0.30, 0.25),
    )
    before = [two(probe, axis, method, base, chance) for probe, axis, method, base, _, chance in rows]
    now = [two(probe, axis, method, then, chance) for probe, axis, method, _, then, chance in rows]
    drop = general_drop(before, now)
    # (1 % + (5 % + 3 %) / 2 + 0 %) / 3 = 5 / 300
    assert drop.drop == pytest.approx(5 / 300)
    assert [name for name, probe in drop.probes.items() if not probe.counted] == ["hard"]
    assert "**1.7 %**" in (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
