"""In which precision products are computed: who decides, and that it holds where it must be exact."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from temper.model import tuning
from temper.model.protocol import Tuning
from temper.run.context import answers_cache


@pytest.fixture(autouse=True)
def left_as_found() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def test_an_asked_precision_holds_from_then_on() -> None:
    found = tuning.tune(1, "bfloat16")
    assert (found.precision, found.why_precision) == ("bfloat16", "the recipe")
    assert torch.get_float32_matmul_precision() == "medium"
    assert tuning.tune(1, "float32").precision == "float32"
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_environment_can_ask_for_exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "strict")
    assert tuning.tune(1).precision == "float32"
    assert tuning.tune(1, "bfloat16").precision == "bfloat16", "the recipe says it louder"


@pytest.mark.slow
def test_what_is_measured_decides_and_leaves_the_precision_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEDNN_DEFAULT_FPMATH_MODE")
    torch.set_float32_matmul_precision("highest")
    rates = tuning.measure_precisions()
    assert torch.get_float32_matmul_precision() == "highest"
    other = set() if tuning.has_units() else {"float32-onednn"}
    assert set(rates) - {"bfloat16"} == {"float32"} | other
    assert ("bfloat16" in rates) == torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert min(rates.values()) > 0.0


@pytest.mark.parametrize("instruction", ["avx512_bf16", "amx_bf16"])
def test_a_cpu_that_multiplies_bfloat16_is_not_timed(monkeypatch: pytest.MonkeyPatch, instruction: str) -> None:
    """On a busy machine timing found float32 as fast in five starts of 24, and the run was half as fast."""
    monkeypatch.delenv("ONEDNN_DEFAULT_FPMATH_MODE")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, instruction: True}, raising=False)
    found = tuning.tune(1)
    assert (found.precision, found.why_precision) == ("bfloat16", f"the CPU has {instruction}")


@pytest.mark.parametrize("known", [{}, {"avx512_bf16": False, "amx_bf16": False}])
def test_one_of_which_that_is_not_known_is_timed(monkeypatch: pytest.MonkeyPatch, known: dict[str, bool]) -> None:
    monkeypatch.delenv("ONEDNN_DEFAULT_FPMATH_MODE")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert tuning.tune(1).why_precision.startswith("products timed here, GFLOP/s: float32: ")


def test_factors_are_rounded_only_where_that_is_half_as_fast_again() -> None:
    assert tuning.best_precision({"float32": 100.0, "bfloat16": 150.0}) == "bfloat16"
    assert tuning.best_precision({"float32": 100.0, "bfloat16": 149.0}) == "float32"


def test_another_library_multiplies_where_it_is_a_tenth_faster() -> None:
    assert tuning.best_precision({"float32": 100.0, "float32-onednn": 111.0}) == "float32-onednn"
    assert tuning.best_precision({"float32": 100.0, "float32-onednn": 109.0}) == "float32"
    assert tuning.best_precision({"float32": 100.0, "float32-onednn": 111.0, "bfloat16": 150.0}) == "bfloat16"


def test_float32_of_the_other_library_is_not_rounded() -> None:
    """1 + 2^-12 is 1 in bfloat16. A CPU without matrix units keeps it, whoever multiplies."""
    assert tuning.tune(1, "float32-onednn").precision == "float32-onednn"
    assert torch.get_float32_matmul_precision() == "medium"
    if tuning.has_units():
        pytest.skip("this CPU rounds the factors of fast products")
    x = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close((x @ x.T).double(), x.double() @ x.double().T, rtol=1e-5, atol=1e-4)


def test_products_of_few_rows_are_exact_and_leave_the_setting_as_it_was() -> None:
    torch.set_float32_matmul_precision("medium")
    with tuning.for_rows(1):
        assert torch.get_float32_matmul_precision() == "highest"
    with tuning.by_blas():
        assert torch.get_float32_matmul_precision() == ("medium" if tuning.has_units() else "highest")
    with tuning.for_rows(64):
        assert torch.get_float32_matmul_precision() == ("highest" if tuning.has_units() else "medium")
    assert torch.get_float32_matmul_precision() == "medium"


def test_inside_exact_products_are_float32() -> None:
    torch.set_float32_matmul_precision("medium")
    x = torch.linspace(-1.0, 1.0, 128 * 256).reshape(128, 256)
    with tuning.exact():
        inside = x @ x.T
    assert torch.get_float32_matmul_precision() == "medium"
    torch.testing.assert_close(inside.double(), x.double() @ x.double().T, rtol=1e-5, atol=1e-4)


def test_answers_in_one_precision_are_not_compared_with_those_in_another() -> None:
    exact, rounded = (
        answers_cache("a" * 64, Tuning(threads=1, reason="", precision=kind)) for kind in ("float32", "bfloat16")
    )
    assert exact.name == "a" * 16
    assert rounded.name == "a" * 16 + "-bfloat16" and rounded.parent == exact.parent
