"""Tasks of lm-eval (extra `lm-eval`) as probes, per item.

lm-eval brings the task: its rows, prompts, few-shot examples, filters and marks. temper asks the model and pairs the
items, so a task counts for the general drop like any other probe. Output types become methods: multiple choice is
scored as soft accuracy (beside it lm-eval's own acc, acc_norm, ...), log-likelihood and rolling log-likelihood as bits
per byte, generation by the task's first mark. `PolicyLM` is what lm-eval calls a model, for whoever wants to call
`lm_eval.simple_evaluate` with a policy of temper.

Rows come from where the task says; a task of a hub data set needs that data set in the local cache, or a network.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from temper.data.rows import Message
from temper.errors import DataError, MissingExtra
from temper.model.protocol import Sampling
from temper.probes.base import Item, Outcome, ProbeSpec, digest, reply_target, score_targets, softmax, target
from temper.probes.choice import normalised
from temper.probes.loss import encode_pair

if TYPE_CHECKING:
    from temper.data.render import Renderer
    from temper.model.protocol import Policy, Tokens

KIND = "lm-eval"
NEW_TOKENS = 256
WINDOW = 1024
"""Tokens of a rolling window, unless the model reads fewer."""
METHODS: Mapping[str, str] = {
    "multiple_choice": "lm-eval-choice", "loglikelihood": "lm-eval-loss", "loglikelihood_rolling": "lm-eval-loss",
    "generate_until": "lm-eval-generate",
}  # fmt: skip
"""Output type of a task -> kind of the probe it becomes."""


class PolicyLM:
    """A policy as lm-eval wants to see a model; registered as a virtual subclass of `lm_eval.api.model.LM`."""

    rank = 0
    world_size = 1
    tokenizer_name = "temper"

    def __init__(self, policy: Policy, renderer: Renderer, *, chat: bool = False, max_new_tokens: int = 0) -> None:
        self._policy = policy
        self._renderer = renderer
        self._chat = chat
        self._longest = max_new_tokens
        self.task_dict: dict[str, Any] = {}

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihood of every continuation in nats, and whether greedy decoding would have written it."""
        datums = [self._datum(*request.args[:2]) for request in requests]
        rows = score_targets(self._policy, datums)
        likely = [all(logp > math.log(0.5) for logp in row) for row in rows]
        open_ = [i for i, (row, sure) in enumerate(zip(rows, likely, strict=True)) if not sure and row]
        counts = [len(rows[i]) for i in open_]
        starts = [datums[i].tokens[: -n or None] for i, n in zip(open_, counts, strict=True)]
        if starts:
            written = self._policy.sampler.generate(starts, Sampling(max_new_tokens=max(counts)))
            for i, n, reply in zip(open_, counts, written, strict=True):
                likely[i] = reply.tokens[:n] == datums[i].tokens[-n:]
        return [(sum(row), sure) for row, sure in zip(rows, likely, strict=True)]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows that do not overlap; the first token follows the prefix token."""
        from lm_eval.utils import (  # pyright: ignore[reportMissingImports]
            get_rolling_token_windows,
            make_disjoint_window,
        )

        size = min(WINDOW, getattr(self._renderer.tokenizer, "model_max_length", WINDOW))
        datums, ends = [], [0]
        for request in requests:
            tokens = list(self._renderer.text(request.args[0]))
            windows = get_rolling_token_windows(tokens, self._prefix, max_seq_len=size, context_len=1)
            datums += [target(tuple(c), tuple(t)) for c, t in map(make_disjoint_window, windows)]
            ends.append(len(datums))
        rows = [sum(row) for row in score_targets(self._policy, datums)]
        return [sum(rows[a:b]) for a, b in itertools.pairwise(ends)]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Replies, greedy or at the temperature the task asks for, cut before the first of its stop texts."""
        wanted = [dict(request.args[1]) for request in requests]
        replies = [""] * len(requests)
        # Prompts of one task share their settings; another setting is another batch.
        for key in dict.fromkeys(json.dumps(w, sort_keys=True) for w in wanted):
            places = [i for i, w in enumerate(wanted) if json.dumps(w, sort_keys=True) == key]
            sampling = self._sampling(json.loads(key))
            prompts = [self._prompt(requests[i].args[0]) for i in places]
            for i, reply in zip(places, self._policy.sampler.generate(prompts, sampling), strict=True):
                replies[i] = _cut(self._renderer.decode(reply.tokens), wanted[i].get("until") or [])
        return replies

    def get_model_info(self) -> dict[str, str]:
        """What lm-eval writes beside its results."""
        return {}

    def set_cache_hook(self, cache_hook: object) -> None:
        """The results of probes are kept elsewhere."""

    def _sampling(self, told: Mapping[str, Any]) -> Sampling:
        longest = int(told.get("max_gen_toks") or told.get("max_new_tokens") or self._longest or NEW_TOKENS)
        warm = float(told.get("temperature") or 0.0) if told.get("do_sample") else 0.0
        longest = min(longest, self._longest or longest)
        return Sampling(max_new_tokens=longest, temperature=warm, stop=self._renderer.end_tokens)

    @property
    def _prefix(self) -> int:
        """What a text without context follows: the beginning of sequence, else its end, as lm-eval's own models do."""
        tokenizer = self._renderer.tokenizer
        return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id

    def _prompt(self, context: str) -> Tokens:
        if self._chat:
            return self._renderer.prompt((Message(role="user", content=context),))
        return self._renderer.text(context) or (self._prefix,)

    def _datum(self, context: str, continuation: str) -> Any:
        if self._chat and context:
            return reply_target(self._renderer, {"prompt": context}, continuation.strip(), end=False)
        if context.strip():
            return target(*encode_pair(self._renderer, context, continuation))
        return target((self._prefix,), self._renderer.text(context + continuation))


def load_items(spec: ProbeSpec) -> tuple[Item, ...]:
    """The rows of the task that `spec.options` names, with everything the model will be asked; ids are row numbers."""
    task = _task(spec)
    with _quiet():
        task.build_all_requests(limit=None, rank=0, world_size=1)
    items: dict[str, dict[str, Any]] = {}
    for instance in task.instances:
        asked = list(instance.args)
        row: dict[str, Any] = {"id": f"{instance.doc_id}", "output": task.OUTPUT_TYPE, "prompt": str(asked[0])}
        items.setdefault(row["id"], {**row, "requests": []})["requests"].append(_as_json(asked))
    for instance in task.instances:
        items[f"{instance.doc_id}"]["wanted"] = digest(_as_json(task.doc_to_target(instance.doc)))
    return tuple(items.values())


def resolved(spec: ProbeSpec, items: Sequence[Item]) -> str:
    """The kind that a task of lm-eval is, once its output type is known."""
    return METHODS[items[0]["output"]]


def score(policy: Policy, renderer: Renderer, spec: ProbeSpec, items: Sequence[Item]) -> tuple[Outcome, ...]:
    """Answers the requests of the items and lets the task mark them."""
    lm = _model(policy, renderer, spec)
    task = _task(spec)
    wanted = {item["id"] for item in items}
    # All rows are built, not only those asked for: few-shot examples are drawn row after row from one generator.
    with _quiet():
        task.build_all_requests(limit=None, rank=0, world_size=1)
    chosen = [instance for instance in task.instances if f"{instance.doc_id}" in wanted]
    task._instances = chosen
    asked: dict[str, list[Any]] = {}
    for instance in chosen:
        asked.setdefault(instance.request_type, []).extend([instance] * (instance.repeats or 1))
    for request_type, instances in asked.items():
        for instance, answer in zip(instances, getattr(lm, request_type)(instances), strict=True):
            instance.resps.append(answer)
    with _quiet():
        task.apply_filters()
    by_row: dict[str, list[Any]] = {}
    for instance in chosen:
        by_row.setdefault(f"{instance.doc_id}", []).append(instance)
    return tuple(_outcome(task, spec, item, sorted(by_row[item["id"]], key=lambda i: i.idx)) for item in items)


def _outcome(task: Any, spec: ProbeSpec, item: Item, instances: Sequence[Any]) -> Outcome:
    """One row's result: the continuous value that is paired, and every mark of the task that is a number."""
    name = next(iter(instances[0].filtered_resps))
    same = [_as_json(list(i.args)) for i in instances] == item["requests"]
    assert same, f"{spec.options['task']}: row {item['id']} is asked in another way than when it was read"
    marks = task.process_results(instances[0].doc, [i.filtered_resps[name] for i in instances])
    numbers = {k: float(v) for k, v in marks.items() if isinstance(v, int | float) and math.isfinite(v)}
    answers = [i.resps[0] for i in instances]
    make = partial(Outcome, id=item["id"])
    if task.OUTPUT_TYPE == "multiple_choice":
        return make(**_chosen(task, instances, answers, numbers), parts=numbers)
    if task.OUTPUT_TYPE == "generate_until":
        value = next((numbers[m] for m in (*_preferred(task), *numbers) if m in numbers), None)
        if value is None or not 0 <= value <= 1:
            raise DataError(
                f"probe {spec.name}: the task {spec.options['task']!r} marks a row with {sorted(marks)}, none of which"
                " is a share; expected a mark from 0 to 1, such as exact_match; name another task"
            )
        hard = value if value in (0.0, 1.0) else None
        prompt, wanted = str(instances[0].args[0]), task.doc_to_target(instances[0].doc)
        return make(
            value=value, hard=hard, parts=numbers, prompt=prompt[-2000:], reference=str(wanted), reply=str(answers[0])
        )
    rolling = task.OUTPUT_TYPE == "loglikelihood_rolling"
    total, greedy = (answers[0], None) if rolling else answers[0]
    text = instances[0].args[0 if rolling else 1]
    hard = None if greedy is None else float(greedy)
    parts = {} if hard is None else {"acc": hard}
    return make(value=-total / math.log(2), size=float(max(len(text.encode()), 1)), hard=hard, parts=parts)


def _chosen(
    task: Any, instances: Sequence[Any], answers: Sequence[tuple[float, bool]], numbers: Mapping[str, float]
) -> dict[str, Any]:
    """Soft accuracy as `choice` counts it; right and wrong as the task does, length-normalised where it offers that."""
    doc = instances[0].doc
    options = task.doc_to_choice(doc)
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    golds = {options.index(g) if isinstance(g, str) else g for g in (gold if isinstance(gold, list) else [gold])}
    scores = normalised([total for total, _ in answers[: len(options)]], options)
    shares = softmax(scores)
    best = max(range(len(scores)), key=scores.__getitem__)
    hard = next((numbers[m] for m in ("acc_bytes", "acc_norm", "acc") if m in numbers), float(best in golds))
    chance = len(golds) / len(options)
    return {"value": sum(shares[g] for g in golds), "hard": hard, "chance": chance}


def _preferred(task: Any) -> tuple[str, ...]:
    return tuple(m["metric"] for m in task.config.metric_list or () if isinstance(m.get("metric"), str))


def _model(policy: Policy, renderer: Renderer, spec: ProbeSpec) -> PolicyLM:
    from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]

    LM.register(PolicyLM)
    chat = bool(spec.options.get("chat", False))
    return PolicyLM(policy, renderer, chat=chat, max_new_tokens=spec.max_new_tokens)


def _task(spec: ProbeSpec) -> Any:
    """The task object; its few-shot examples are drawn with a fixed seed."""
    try:
        import lm_eval.tasks  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] != "lm_eval":
            raise
        raise MissingExtra("lm-eval", "lm-eval") from None
    name, folder = str(spec.options["task"]), str(spec.options.get("folder", ""))
    with _quiet():
        manager = lm_eval.tasks.TaskManager(include_path=folder or None, include_defaults=not folder)
        if name not in manager.all_tasks and not folder.endswith(name):
            groups = "it is a group; name one of its tasks" if name in (*manager.all_groups, *manager.all_tags) else ""
            known = f"expected a task of {folder}" if folder else "expected one of `lm-eval ls tasks`"
            raise DataError(f"probe {spec.name}: task {name!r} is not a single task of lm-eval; {groups or known}")
        try:
            task: Any = next(iter(manager.load([name])["tasks"].values()))
        except (OSError, ConnectionError) as error:
            raise DataError(
                f"probe {spec.name}: the rows of task {name!r} cannot be had ({type(error).__name__}: {error});"
                " expected them in the local cache of `datasets`, or a network; load them once where there is one"
            ) from None
    if task.OUTPUT_TYPE not in METHODS:
        raise DataError(
            f"probe {spec.name}: task {name!r} asks for {task.OUTPUT_TYPE}; expected one of {', '.join(METHODS)}"
        )
    if spec.options.get("shots"):
        task.set_config(key="num_fewshot", value=int(spec.options["shots"]))
    task.set_fewshot_seed(seed=1234)
    return task


def _cut(text: str, until: Sequence[str] | str) -> str:
    for stop in [until] if isinstance(until, str) else until:
        text = text.split(stop)[0] if stop else text
    return text


def _as_json(value: Any) -> Any:
    """What an item may hold, whatever a task puts into its requests."""
    return json.loads(json.dumps(value, default=str))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval logs each request it builds and draws a bar for it."""
    from lm_eval.api import task as module  # pyright: ignore[reportMissingImports]

    log, bar = logging.getLogger("lm_eval"), module.tqdm
    level = log.level
    log.setLevel(logging.ERROR)
    module.tqdm = lambda rows, **_: rows
    try:
        yield
    finally:
        log.setLevel(level)
        module.tqdm = bar
