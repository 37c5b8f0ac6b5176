"""Who may import whom. The order is one line; see AGENTS.md."""

from __future__ import annotations

import ast

import pytest

from tests.arch.source import LAYERS, Source, imports, layer_of, package, parse

ONLY = {
    "report": {"errors", "events", "stats", "report"},
    "decide": {"errors", "events", "stats", "decide"},
}
"""Layers that see less than everything to their left."""

PROTOCOL = "temper.model.protocol"

TORCHLIKE = {"torch", "transformers", "peft", "accelerate", "gguf", "safetensors", "tokenizers"}
"""What only temper/model/ may import."""

TOKENIZER_FILES = {"temper/data/render.py": "reads a tokenizer, which needs no weights"}
"""May import transformers or tokenizers inside a function, and why."""

HEAVY = {"plotly", "pyarrow", "datasets", "trl", "pandas", "huggingface_hub"}
"""Imported inside the function that needs it, so that a command that does not need it starts at once."""

PURE = ("temper.losses", "temper.stats", "temper.decide", "temper.data.mixture", "temper.data.mixers")
"""Functions of their arguments: no torch, no files, no network, no clock."""

OUTSIDE_WORLD = {
    "os", "io", "pathlib", "shutil", "subprocess", "socket", "urllib", "http", "tempfile", "time", "requests", "httpx",
    "threading", "multiprocessing", "glob",
}  # fmt: skip

NETWORK = {"socket", "urllib", "http", "requests", "httpx", "subprocess"}


def layer_faults(source: Source) -> list[str]:
    """Imports of temper that the order forbids."""
    faults = []
    for found in imports(source):
        if found.target.split(".")[0] != "temper":
            continue
        target = layer_of(found.target)
        where = f"{source.path}:{found.line}: imports {found.target}"
        if not source.layer or source.layer.startswith("__"):
            if source.module == "temper":
                faults.append(f"{where}; the package itself imports nothing, so that `import temper` is instant")
        elif target and LAYERS.index(target) > LAYERS.index(source.layer):
            faults.append(f"{where}; {source.layer} stands left of {target}")
        elif target and source.layer in ONLY and target not in ONLY[source.layer]:
            faults.append(f"{where}; {source.layer} sees only {', '.join(sorted(ONLY[source.layer]))}")
        elif target == "model" != source.layer and not found.target.startswith(PROTOCOL):
            faults.append(f"{where}; right of model only {PROTOCOL} is seen, a backend is reached through a registry")
    return faults


def torch_faults(source: Source) -> list[str]:
    """Imports of torch and its kin where they do not belong."""
    faults = []
    for found in imports(source):
        top = found.target.split(".")[0]
        where = f"{source.path}:{found.line}: imports {found.target}"
        if top in TORCHLIKE and source.layer != "model":
            allowed = top in {"transformers", "tokenizers"} and source.path in TOKENIZER_FILES and found.lazy
            if not allowed:
                faults.append(f"{where}; only temper/model/ may")
        elif top in TORCHLIKE and source.module in (PROTOCOL, "temper.model", "temper.model.fake"):
            faults.append(f"{where}; the protocol and the fake are for machines without torch")
        elif top in HEAVY and not found.lazy:
            faults.append(f"{where} at the top; import it inside the function that needs it")
    return faults


def purity_faults(source: Source) -> list[str]:
    """Imports that reach outside from a module that promises to be a function of its arguments."""
    forbidden: set[str] = set()
    if source.module.startswith(PURE):
        forbidden = OUTSIDE_WORLD
    elif source.layer == "report":
        forbidden = NETWORK
    return [
        f"{source.path}:{found.line}: imports {found.target}; this module is a pure function of its arguments"
        for found in imports(source)
        if found.target.split(".")[0] in forbidden
    ]


def test_every_module_has_its_place_in_the_order() -> None:
    strangers = {s.path for s in package() if s.layer and not s.layer.startswith("__") and s.layer not in LAYERS}
    assert not strangers, f"{strangers}: not in the order of AGENTS.md; put the code where it belongs"


def test_imports_go_from_right_to_left_only() -> None:
    assert [fault for source in package() for fault in layer_faults(source)] == []


def test_torch_is_imported_in_the_model_part_alone_and_heavy_packages_inside_functions() -> None:
    assert [fault for source in package() for fault in torch_faults(source)] == []


def test_pure_modules_do_not_reach_outside() -> None:
    assert [fault for source in package() for fault in purity_faults(source)] == []


def test_one_file_runs_backward() -> None:
    def calls_backward(source: Source) -> bool:
        calls = (node.func for node in ast.walk(source.tree) if isinstance(node, ast.Call))
        return any(isinstance(f, ast.Attribute) and f.attr == "backward" for f in calls)

    assert [s.path for s in package() if calls_backward(s)] == ["temper/model/torch_learner.py"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("temper/data/x.py", "from temper.recipe import schema"),
        ("temper/losses.py", "def f():\n    from temper.decide.guard import guard"),
        ("temper/report/html.py", "from temper.data.datum import Datum"),
        ("temper/decide/guard.py", "import temper.budget"),
        ("temper/probes/choice.py", "from temper.model.torch_learner import TorchLearner"),
        ("temper/__init__.py", "from temper.errors import TemperError"),
    ],
)
def test_the_order_rule_notices_a_wrong_arrow(path: str, text: str) -> None:
    assert len(layer_faults(parse(text, path))) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("temper/probes/choice.py", "def f():\n    import torch"),
        ("temper/data/render.py", "from transformers import AutoTokenizer"),
        ("temper/model/protocol.py", "from torch import Tensor"),
        ("temper/data/rows.py", "import pyarrow.parquet as pq"),
    ],
)
def test_the_torch_rule_notices_a_heavy_import(path: str, text: str) -> None:
    assert len(torch_faults(parse(text, path))) == 1


def test_the_rules_let_the_intended_arrows_pass() -> None:
    lazy = parse("def f():\n    from transformers import AutoTokenizer", "temper/data/render.py")
    seen = parse("from temper.model.protocol import Policy\nfrom temper.data.datum import Datum", "temper/probes/x.py")
    assert torch_faults(lazy) == layer_faults(seen) == purity_faults(seen) == []


def test_the_purity_rule_notices_a_file_read() -> None:
    assert len(purity_faults(parse("from pathlib import Path", "temper/decide/guard.py"))) == 1
