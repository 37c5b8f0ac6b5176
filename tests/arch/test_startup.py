"""Starting is instant, and nothing needs torch before a model is loaded. Each check runs in a fresh interpreter."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.arch.source import package
from tests.fresh import commands, interpreter

needs_cli = pytest.mark.skipif(importlib.util.find_spec("temper.cli") is None, reason="temper/cli.py is not there yet")

SECONDS = 0.2

HEAVY = ("torch", "transformers", "peft", "numpy", "pydantic", "plotly", "pyarrow", "typer", "rich")


def test_importing_temper_is_instant_and_brings_nothing_heavy() -> None:
    code = f"""
from time import perf_counter
start = perf_counter()
import temper
print(perf_counter() - start, [name for name in {HEAVY!r} if name in sys.modules])
"""
    # The least of three: a busy machine makes an import slower, never faster.
    answers = [interpreter(code).stdout.split(maxsplit=1) for _ in range(3)]
    assert min(float(seconds) for seconds, _ in answers) < SECONDS
    assert {brought.strip() for _, brought in answers} == {"[]"}


def test_everything_but_the_model_part_works_on_a_machine_without_torch() -> None:
    names = [s.module for s in package() if s.layer != "model" or s.module == "temper.model.protocol"]
    code = f"""
import importlib
for name in ("torch", "transformers", "peft"):
    sys.modules[name] = None  # an import of it now raises ImportError
for name in {[n for n in names if not n.endswith("__main__")]!r}:
    importlib.import_module(name)
print("all")
"""
    done = interpreter(code)
    assert done.stdout.strip() == "all", done.stderr


HEAD = "base: smollm2-135m-instruct\n"
STAGE = "stages:\n  - technique: sft\n    data: rows.jsonl\n"
BROKEN = {
    "gone.jsonl": HEAD + STAGE.replace("rows", "gone"),
    "learning_rat": HEAD + STAGE + "    learning_rat: 1e-4\n",
    "tolerance": HEAD + "tolerance: 150%\n" + STAGE,
    "recipe.yaml": "base: [\n",
}
"""What the message must name -> the recipe."""


@needs_cli
def test_a_broken_recipe_ends_with_2_and_one_message_before_torch_is_imported(tmp_path: Path) -> None:
    for name, text in BROKEN.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "recipe.yaml").write_text(text, encoding="utf-8")
        (folder / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
    answers = commands([(tmp_path / name, ["check", "recipe.yaml"]) for name in BROKEN])
    for told, answer in zip(BROKEN, answers, strict=True):
        assert (answer.code, answer.loaded) == (2, []), answer.err
        assert told in "".join(answer.err.split())  # the message may be wrapped
        assert answer.err.count("error: ") == 1
        assert "Traceback" not in answer.err


@needs_cli
def test_help_needs_no_torch(tmp_path: Path) -> None:
    (answer,) = commands([(tmp_path, ["--help"])])
    assert (answer.code, answer.loaded) == (0, []), answer.err
    assert "check" in answer.out
