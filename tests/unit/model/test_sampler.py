"""Generation: greedy replies are transformers' own, samples follow the model and their seed alone."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from temper.model.protocol import Sampling
from temper.model.torch_backend import TorchBackend
from temper.model.torch_sampler import PREFILL_TOKENS, ROWS, TorchSampler
from tests.unit.model import plain
from tests.unit.model.plain import CE, SHAPES, plain_logits, plain_model, row

Prompts = list[tuple[int, ...]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return {shape: plain.write_model(tmp_path_factory.mktemp("model"), shape) for shape in SHAPES}


@pytest.fixture(scope="module")
def sampler(models: Mapping[str, Path]) -> TorchSampler:
    return plain.sampler_of(models["llama"])


def unlike() -> Prompts:
    rng = random.Random(1)
    return [tuple(plain.words(rng, n)) for n in (7, 1, 22, 13, 7)]


def shared() -> Prompts:
    """All behind one system prompt of 19 tokens, two of them the same."""
    rng = random.Random(2)
    system = plain.words(rng, 19)
    prompts = [(*system, *plain.words(rng, n)) for n in (3, 11, 1, 6)]
    return [*prompts, prompts[1]]


def partly_shared() -> Prompts:
    return [*shared()[:3], *unlike()[:2]]


def single() -> Prompts:
    """As a document begins: prompts of one token were taken for the continuation of others, and nothing was written."""
    return [(5,), (9,), (5,)]


def greedy(model: Any, prompt: Sequence[int], new: int, stop: Sequence[int] = ()) -> list[int]:
    """What transformers generates, its stop token included."""
    ids = torch.tensor([list(prompt)])
    model.generation_config.eos_token_id = None
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, pad_token_id=0,
        eos_token_id=list(stop) or None,
    )  # fmt: skip
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize(
    "prompts", [unlike(), shared(), partly_shared(), single()], ids=["unlike", "shared", "partly", "one"]
)
@pytest.mark.parametrize("shape", plain.EVERY_SHAPE)
def test_greedy_replies_are_those_of_transformers(models: Mapping[str, Path], shape: str, prompts: Prompts) -> None:
    model = plain_model(models[shape])
    replies = plain.sampler_of(models[shape]).generate(prompts, Sampling(max_new_tokens=12))
    for prompt, reply in zip(prompts, replies, strict=True):
        assert list(reply.tokens) == greedy(model, prompt, 12)
        assert not reply.finished


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("shape", plain.EVERY_SHAPE)
def test_log_probabilities_are_those_of_a_fresh_pass_at_temperature_one(
    models: Mapping[str, Path], shape: str, temperature: float
) -> None:
    model, prompts = plain_model(models[shape]), unlike()
    replies = plain.sampler_of(models[shape]).generate(prompts, Sampling(max_new_tokens=9, temperature=temperature))
    for prompt, reply in zip(prompts, replies, strict=True):
        with torch.no_grad():
            logp = plain_logits(model, prompt + reply.tokens).log_softmax(-1)
        expected = [logp[len(prompt) - 1 + i, t].item() for i, t in enumerate(reply.tokens)]
        assert reply.logprobs == pytest.approx(expected, abs=1e-4)


def test_a_reply_ends_before_its_stop_token_and_its_row_leaves_the_batch(
    models: Mapping[str, Path], sampler: TorchSampler
) -> None:
    model, prompts = plain_model(models["llama"]), unlike()
    free = [greedy(model, p, 10) for p in prompts]
    stop = (free[0][3], free[2][6])
    expected = [greedy(model, p, 10, stop) for p in prompts]
    rows: list[int] = []
    embeddings = sampler.model.get_input_embeddings()
    assert isinstance(embeddings, torch.nn.Module)
    handle = embeddings.register_forward_hook(lambda _module, inputs, _out: rows.append(inputs[0].shape[1]))
    replies = sampler.generate(prompts, Sampling(max_new_tokens=10, stop=stop))
    handle.remove()
    for reply, own in zip(replies, expected, strict=True):
        ended = own[-1] in stop
        assert reply.finished == ended
        assert list(reply.tokens) == (own[:-1] if ended else own)
        assert len(reply.logprobs) == len(own)
        assert not set(reply.tokens) & set(stop)
    assert any(r.finished for r in replies)
    assert not all(r.finished for r in replies)
    # One pass over all prompts, then one token for every row that still has to say something after the k-th.
    assert rows == [sum(map(len, prompts)), *(sum(len(own) > k for own in expected) for k in range(1, 10))]


def test_no_pass_is_made_when_every_row_has_ended(models: Mapping[str, Path], sampler: TorchSampler) -> None:
    prompts = unlike()
    first = [greedy(plain_model(models["llama"]), p, 1)[0] for p in prompts]
    replies = sampler.generate(prompts, Sampling(max_new_tokens=1000, stop=tuple(first)))
    assert [(r.tokens, r.finished, len(r.logprobs)) for r in replies] == [((), True, 1)] * len(prompts)


def counted(
    sampler: TorchSampler, prompts: Prompts, sampling: Sampling, drafts: Prompts | None = None
) -> tuple[list[Any], list[int]]:
    """The replies, and how many tokens each forward pass saw."""
    passes: list[int] = []
    embeddings = sampler.model.get_input_embeddings()
    assert isinstance(embeddings, torch.nn.Module)
    handle = embeddings.register_forward_hook(lambda _module, inputs, _out: passes.append(inputs[0].shape[1]))
    replies = sampler.generate(prompts, sampling, drafts=drafts or ())
    handle.remove()
    return replies, passes


def drafted(own: Prompts, kind: str) -> Prompts:
    """What replies might be, made from what they are."""
    other = [(*reply[:4], (reply[4] + 1) % plain.VOCABULARY, *reply[5:]) for reply in own]
    match kind:
        case "right":
            return own
        case "longer":
            return [(*reply, 3, 4, 5) for reply in own]
        case "half":
            return other
        case "wrong":
            return [((reply[0] + 1) % plain.VOCABULARY, *reply[1:]) for reply in own]
        case _:
            return [own[0], (), other[2], other[3], (1,)]


@pytest.mark.parametrize("kind", ["right", "longer", "half", "wrong", "mixed"])
@pytest.mark.parametrize("prompts", [unlike(), shared()], ids=["unlike", "shared"])
@pytest.mark.parametrize("shape", plain.EVERY_SHAPE)
def test_drafts_do_not_change_what_is_said(models: Mapping[str, Path], shape: str, prompts: Prompts, kind: str) -> None:
    sampler = plain.sampler_of(models[shape])
    free = [reply.tokens for reply in sampler.generate(prompts, Sampling(max_new_tokens=9))]
    for stop in ((), (free[0][3], free[2][6])):
        sampling = Sampling(max_new_tokens=9, stop=stop)
        expected = sampler.generate(prompts, sampling)
        found = sampler.generate(prompts, sampling, drafts=drafted(free, kind))
        for one, own in zip(found, expected, strict=True):
            assert (one.tokens, one.finished) == (own.tokens, own.finished)
            assert one.logprobs == pytest.approx(own.logprobs, abs=1e-4)


def test_a_reply_that_was_foreseen_takes_one_pass(sampler: TorchSampler) -> None:
    """Five replies of six; when the fifth token is another, it and the sixth are written."""
    prompts = unlike()
    sampling = Sampling(max_new_tokens=6)
    own = [reply.tokens for reply in sampler.generate(prompts, sampling)]
    told: list[tuple[int, int]] = []
    _, passes = counted(sampler, prompts, sampling, own)
    assert passes == [sum(map(len, prompts)) + 6 * 5]
    _, passes = counted(sampler, prompts, sampling, drafted(own, "half"))
    assert passes[1:] == [len(prompts)]  # the fifth is known by then; it leads to the sixth
    sampler.generate(prompts, sampling, drafts=own, on_token=lambda at, token: told.append((at, token)))
    assert sorted(told) == sorted((at, token) for at, reply in enumerate(own) for token in reply)


def test_drafts_that_do_not_come_true_are_given_up(sampler: TorchSampler) -> None:
    rng = random.Random(3)
    prompts = [tuple(plain.words(rng, 5)) for _ in range(ROWS + 4)]
    own = [reply.tokens for reply in sampler.generate(prompts, Sampling(max_new_tokens=6))]
    _, passes = counted(sampler, prompts, Sampling(max_new_tokens=6), drafted(own, "wrong"))
    assert passes == [(5 + 6) * ROWS, *[ROWS] * 5, 5 * 4, *[4] * 5]


def test_a_sample_is_drawn_whatever_was_foreseen(sampler: TorchSampler) -> None:
    sampling = Sampling(max_new_tokens=6, temperature=1.0, seed=3)
    expected = sampler.generate(unlike(), sampling)
    assert sampler.generate(unlike(), sampling, drafts=[reply.tokens for reply in expected]) == expected


def test_a_prompt_that_is_answered_eight_times_is_computed_once(sampler: TorchSampler) -> None:
    """Two prompts of 7 and 13 tokens, four and eight times: 20 tokens before the first is drawn, then 12 a pass."""
    first, second = unlike()[0], unlike()[3]
    prompts = [first, second] * 4 + [second] * 4
    replies, passes = counted(sampler, prompts, Sampling(max_new_tokens=3, temperature=1.0, seed=4))
    assert passes == [20, 12, 12]
    assert len({r.tokens for r in replies}) > 6  # each has a random stream of its own
    alone = sampler.generate(prompts[:2], Sampling(max_new_tokens=3, temperature=1.0, seed=4))
    assert [r.tokens for r in alone] == [r.tokens for r in replies[:2]]


def test_waiting_rows_enter_when_others_have_ended(models: Mapping[str, Path], sampler: TorchSampler) -> None:
    """With a quarter of the vocabulary ending a reply, most of the first 64 rows have ended before the last begins."""
    rng = random.Random(9)
    prompts = [tuple(plain.words(rng, 3 + i % 5)) for i in range(ROWS + 40)]
    stop = tuple(range(0, plain.VOCABULARY, 4))
    replies, passes = counted(sampler, prompts, Sampling(max_new_tokens=12, temperature=1.0, stop=stop))
    assert sum(map(len, prompts)) > passes[0] > 3 * ROWS - 1
    entered = [count for count in passes[1:] if count > ROWS]
    assert entered or any(b > a for a, b in itertools.pairwise(passes[1:]))
    model = plain_model(models["llama"])
    for prompt, reply in list(zip(prompts, replies, strict=True))[:: ROWS // 4]:
        tokens = (*prompt, *reply.tokens)
        with torch.no_grad():
            logp = plain_logits(model, tokens).log_softmax(-1)
        expected = [logp[len(prompt) - 1 + i, t].item() for i, t in enumerate(reply.tokens)]
        assert list(reply.logprobs[: len(reply.tokens)]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("new", [0, 1, 4])
def test_no_more_tokens_than_allowed(sampler: TorchSampler, new: int) -> None:
    replies = sampler.generate(unlike(), Sampling(max_new_tokens=new, temperature=1.0))
    assert [(len(r.tokens), len(r.logprobs), r.finished) for r in replies] == [(new, new, False)] * 5


def test_no_prompts_no_replies(sampler: TorchSampler) -> None:
    assert sampler.generate([], Sampling(max_new_tokens=4)) == []


def test_more_rows_than_go_together_and_more_tokens_than_one_pass(
    models: Mapping[str, Path], sampler: TorchSampler
) -> None:
    rng = random.Random(3)
    prompts = [tuple(plain.words(rng, rng.randrange(20, 60))) for _ in range(ROWS + 6)]
    assert sum(map(len, prompts)) > PREFILL_TOKENS
    replies = sampler.generate(prompts, Sampling(max_new_tokens=3))
    model = plain_model(models["llama"])
    for at in (0, 1, 17, ROWS - 1, ROWS, ROWS + 5):
        assert list(replies[at].tokens) == greedy(model, prompts[at], 3)


def test_samples_follow_the_seed(sampler: TorchSampler) -> None:
    def draw(seed: int) -> list[tuple[int, ...]]:
        return [r.tokens for r in sampler.generate(unlike(), Sampling(max_new_tokens=8, temperature=1.0, seed=seed))]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_a_sample_does_not_depend_on_what_else_is_in_the_batch(sampler: TorchSampler) -> None:
    sampling = Sampling(max_new_tokens=8, temperature=1.0, seed=4)
    one, other = unlike(), shared()
    first = sampler.generate([one[0], one[3], one[2]], sampling)
    second = sampler.generate([other[1], one[3], *other], sampling)
    assert first[1].tokens == second[1].tokens
    assert first[1].logprobs == pytest.approx(second[1].logprobs, abs=1e-5)


def test_rows_that_stay_keep_their_own_random_stream_when_others_leave(sampler: TorchSampler) -> None:
    def draw(*stop: int) -> list[tuple[int, ...]]:
        sampling = Sampling(max_new_tokens=8, temperature=1.0, seed=4, stop=stop)
        return [r.tokens for r in sampler.generate(unlike(), sampling)]

    free = draw()
    # Sorted by length, row 1 stands before all others: when it leaves, every other row moves up.
    stop = next(t for t in free[1] if not any(t in free[i] for i in (0, 2, 3, 4)))
    assert draw(stop) == [free[0], free[1][: free[1].index(stop)], *free[2:]]


def test_like_prompts_of_one_batch_get_samples_of_their_own(sampler: TorchSampler) -> None:
    replies = sampler.generate([unlike()[2]] * 8, Sampling(max_new_tokens=6, temperature=1.0))
    assert len({r.tokens for r in replies}) > 4


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_samples_come_as_often_as_the_model_says(
    models: Mapping[str, Path], sampler: TorchSampler, temperature: float
) -> None:
    prompt, count = unlike()[3], 1920
    with torch.no_grad():
        p = (plain_logits(plain_model(models["llama"]), prompt)[-1] / temperature).softmax(-1)
    replies = sampler.generate([prompt] * count, Sampling(max_new_tokens=1, temperature=temperature, seed=3))
    drawn = torch.bincount(torch.tensor([r.tokens[0] for r in replies]), minlength=len(p))
    for token in p.topk(5).indices.tolist():
        chance = float(p[token])
        # a binomial count lies within 4 standard deviations of its mean 9999 times of 10000
        assert abs(int(drawn[token]) - count * chance) < 4 * (count * chance * (1 - chance)) ** 0.5 + 1


def test_tokens_stream_as_they_come_row_by_row(sampler: TorchSampler) -> None:
    heard: list[tuple[int, int]] = []
    prompts = unlike()
    replies = sampler.generate(prompts, Sampling(max_new_tokens=3), on_token=lambda i, t: heard.append((i, t)))
    for i, reply in enumerate(replies):
        assert [t for at, t in heard if at == i] == list(reply.tokens)
    rounds = [heard[at : at + len(prompts)] for at in range(0, len(heard), len(prompts))]
    assert [sorted(i for i, _ in r) for r in rounds] == [[0, 1, 2, 3, 4]] * 3


@pytest.mark.parametrize("rank", [None, 4])
def test_a_sampler_speaks_with_what_its_learner_has_learnt(models: Mapping[str, Path], rank: int | None) -> None:
    from temper.model.protocol import TrainSpec

    policy = TorchBackend().open(plain.untouched(models["llama"]), TrainSpec(rank=rank, alpha=8.0))
    prompt, answer, stop = (5, 9, 200, 31), (77, 12, 150, 8), 2
    sampling = Sampling(max_new_tokens=8, stop=(stop,))
    (before,) = policy.sampler.generate([prompt], sampling)
    tokens = (*prompt, *answer, stop)
    for _ in range(30):
        policy.learner.forward_backward([row(tokens, [0.0] * 3 + [1.0] * 5)], CE)
        policy.learner.optim_step(1e-2)
    (after,) = policy.sampler.generate([prompt], sampling)
    assert before.tokens != answer
    assert after.tokens == answer
    assert after.finished
    assert len(after.logprobs) == 5
