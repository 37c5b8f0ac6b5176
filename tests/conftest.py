"""What every test relies on: no hub traffic, no progress bars, GPU tests only where there is a GPU."""

from __future__ import annotations

import gc
import importlib.util
import os

import pytest

# Read by transformers and tokenizers when they are imported, so set before any test module is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Tiny models gain nothing from a second thread, and lose much where another process holds the second core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Figures worked out by hand, and the oracle, hold in float32.
os.environ.setdefault("ONEDNN_DEFAULT_FPMATH_MODE", "STRICT")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what needs a GPU; torch is imported only when such a test was collected."""
    gc.freeze()  # what is imported by now stays, and need not be looked through again and again
    needy = [item for item in items if item.get_closest_marker("gpu")]
    if needy and not _has_gpu():
        for item in needy:
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))


def _has_gpu() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()
