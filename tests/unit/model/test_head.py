"""Log-probabilities of targets against torch's log_softmax over the whole vocabulary."""

from __future__ import annotations

import pytest
import torch

from temper.model.head import CHUNK, Held, divergence, summed, target_logprobs

COUNTS = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3)


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("count", COUNTS)
def test_values_and_gradients_are_those_of_log_softmax(count: int, trains: bool) -> None:
    generator = torch.Generator().manual_seed(count)
    hidden = torch.randn(count, 16, generator=generator)
    weight = torch.randn(97, 16, generator=generator)
    targets = torch.randint(0, 97, (count,), generator=generator)
    outside = torch.randn(count, generator=generator)
    results = []
    for own in (True, False):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_(trains)
        logp = target_logprobs(h, w, targets) if own else (h @ w.T).log_softmax(-1).gather(1, targets[:, None])[:, 0]
        (logp * outside).sum().backward()
        results.append((logp.detach(), h.grad, w.grad))
    (logp, to_hidden, to_weight), (expected, expected_hidden, expected_weight) = results
    torch.testing.assert_close(logp, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(to_hidden, expected_hidden, rtol=1e-4, atol=1e-5)
    if trains:
        torch.testing.assert_close(to_weight, expected_weight, rtol=1e-4, atol=1e-4)
    else:
        assert to_weight is None


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("count", COUNTS)
def test_divergence_and_its_gradients_are_those_of_the_whole_vocabulary(count: int, trains: bool) -> None:
    generator = torch.Generator().manual_seed(count)
    hidden, reference = (torch.randn(count, 16, generator=generator) for _ in range(2))
    weight, frozen = (torch.randn(97, 16, generator=generator) for _ in range(2))
    outside = torch.randn(count, generator=generator)
    results = []
    for own in (True, False):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_(trains)
        model, base = (h @ w.T).log_softmax(-1), (reference @ frozen.T).log_softmax(-1)
        plainly = (base.exp() * (base - model)).sum(-1)
        kl = divergence(h, w, reference, frozen) if own else plainly
        (kl * outside).sum().backward()
        results.append((kl.detach(), h.grad, w.grad))
    (kl, to_hidden, to_weight), (expected, expected_hidden, expected_weight) = results
    torch.testing.assert_close(kl, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(to_hidden, expected_hidden, rtol=1e-4, atol=1e-5)
    if trains:
        torch.testing.assert_close(to_weight, expected_weight, rtol=1e-4, atol=1e-4)


def test_no_gradient_is_prepared_where_none_is_wanted() -> None:
    with torch.inference_mode():
        logp = target_logprobs(torch.zeros(3, 4), torch.zeros(10, 4), torch.tensor([1, 2, 3]))
    # ten equal logits: ln(1/10)
    assert logp.tolist() == pytest.approx([-2.302585] * 3, abs=1e-6)


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("count", COUNTS)
def test_a_sum_and_its_gradients_are_those_of_the_whole_vocabulary(count: int, trains: bool, held: bool) -> None:
    """Every third position is compared with a reference as well; the sum counts twice, so backward has to scale."""
    generator = torch.Generator().manual_seed(count)
    hidden = torch.randn(count, 16, generator=generator)
    weight, frozen = (torch.randn(97, 16, generator=generator) for _ in range(2))
    targets = torch.randint(0, 97, (count,), generator=generator)
    scale = torch.randn(count, generator=generator)
    at = torch.arange(0, count, 3)
    reference, counts_for = torch.randn(len(at), 16, generator=generator), torch.randn(len(at), generator=generator)
    h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_(trains)
    compared = Held(at=at, hidden=reference, head=frozen, scale=counts_for) if held else None
    total, logp, kl = summed(h, w, targets, scale, compared)
    (2 * total).backward()
    assert not logp.requires_grad and not kl.requires_grad

    plain_h, plain_w = hidden.clone().requires_grad_(), weight.clone().requires_grad_(trains)
    model, base = (plain_h @ plain_w.T).log_softmax(-1), (reference @ frozen.T).log_softmax(-1)
    expected_logp = model.gather(1, targets[:, None])[:, 0]
    apart = (base.exp() * (base - model[at])).sum(-1)
    expected = (scale * expected_logp).sum() + ((counts_for * apart).sum() if held else 0.0)
    (2 * expected).backward()
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(logp, expected_logp, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kl[at], apart if held else torch.zeros(len(at)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(h.grad, plain_h.grad, rtol=1e-4, atol=1e-4)
    if trains:
        torch.testing.assert_close(w.grad, plain_w.grad, rtol=1e-4, atol=1e-3)
