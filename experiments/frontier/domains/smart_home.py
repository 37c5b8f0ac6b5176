"""Smart-home commands to JSON calls: the demo's generator with more rows; the exam asks in phrasings never trained."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from experiments.frontier.domains.rows import Domain, Row

SCRIPT = Path(__file__).resolve().parents[3] / "examples" / "smart-home" / "make_data.py"
TRAIN_ROWS, EXAM_ROWS = 640, 240


def make(*, seed: int = 0) -> Domain:
    """Both sides."""
    train, exam = _script().make(train_rows=TRAIN_ROWS, exam_rows=EXAM_ROWS, seed=seed)
    sides = ([Row(prompt=r.prompt, completion=r.call, group=r.template) for r in side] for side in (train, exam))
    learnt, asked = map(tuple, sides)
    return Domain(train=learnt, exam=asked)


def _script() -> ModuleType:
    name = "smart_home_make_data"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, SCRIPT)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    return sys.modules[name]
