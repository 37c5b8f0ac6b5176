"""Starting is instant, and nothing needs torch before a model is loaded. Each check runs in a fresh interpreter."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.arch.source import ROOT, package

needs_cli = pytest.mark.skipif(importlib.util.find_spec("temper.cli") is None, reason="temper/cli.py is not there yet")

SECONDS = 0.2

HEAVY = ("torch", "transformers", "peft", "numpy", "pydantic", "plotly", "pyarrow", "typer", "rich")


def fresh(code: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a new interpreter that finds the package of this repository."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


def test_importing_temper_is_instant_and_brings_nothing_heavy() -> None:
    code = f"""
from time import perf_counter
start = perf_counter()
import temper
print(perf_counter() - start, [name for name in {HEAVY!r} if name in sys.modules])
"""
    # The least of three: a busy machine makes an import slower, never faster.
    answers = [fresh(code).stdout.split(maxsplit=1) for _ in range(3)]
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
    done = fresh(code)
    assert done.stdout.strip() == "all", done.stderr


CHECK = """
sys.argv[0] = "temper"
from temper.cli import main
try:
    code = main()
except SystemExit as end:
    code = end.code
print("code", code or 0, "torch" in sys.modules, "transformers" in sys.modules)
"""


HEAD = "base: smollm2-135m-instruct\n"
STAGE = "stages:\n  - technique: sft\n    data: rows.jsonl\n"


@needs_cli
@pytest.mark.parametrize(
    ("text", "told"),
    [
        (HEAD + STAGE.replace("rows", "gone"), "gone.jsonl"),
        (HEAD + STAGE + "    learning_rat: 1e-4\n", "learning_rat"),
        (HEAD + "tolerance: 150%\n" + STAGE, "tolerance"),
        ("base: [\n", "recipe.yaml"),
    ],
)
def test_a_broken_recipe_ends_with_2_and_one_message_before_torch_is_imported(
    tmp_path: Path, text: str, told: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text, encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
    done = fresh(CHECK, "check", str(recipe), cwd=tmp_path)
    said = "".join((done.stdout + done.stderr).split())  # the terminal may have wrapped the message
    assert "code 2 False False" in done.stdout, done.stdout + done.stderr
    assert told in said
    assert "Traceback" not in done.stderr


@needs_cli
def test_help_needs_no_torch() -> None:
    done = fresh(CHECK, "--help")
    assert "code 0 False False" in done.stdout, done.stdout + done.stderr
