"""Judge: another model, behind an OpenAI-compatible endpoint, gives each reply a mark; 0 to 1.

The question, the reading of the mark, the retries and the cache are those of the probe `judge`. A mark that cannot be
read is an errored reply: the fault is the judge's, and a middling value in its place would be learnt from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from temper.probes.endpoint import SECONDS, Endpoint
from temper.probes.judge import MARK, RUBRIC, read_mark
from temper.probes.web import check_address, check_seconds, secret_of
from temper.rollout.score import Rule, Score, errored
from temper.rollout.task import Task


def _judge(
    tasks: Sequence[Task], replies: Sequence[str], *, base_url: str, model: str, key_env: str = "",
    rubric: str = RUBRIC, seconds: float = SECONDS,
) -> list[Score]:  # fmt: skip
    """The judge's mark from 1 to 10 as 0 to 1; a task's own `rubric` comes first."""
    key = secret_of(key_env, "reward judge: key_env")
    endpoint = Endpoint(
        where="reward judge", base_url=base_url.rstrip("/"), model=model, key=key, seconds=seconds
    )  # fmt: skip
    asked = [question(task, reply, rubric=rubric) for task, reply in zip(tasks, replies, strict=True)]
    return [_score(answer) for answer in endpoint.ask(asked)]


def question(task: Task, reply: str, *, rubric: str) -> str:
    """What the judge is asked about one reply."""
    turns = "\n\n".join(f"[{message.role}]\n{message.content}" for message in task.messages)
    reference = f"\nA reference answer:\n{task.reference}\n" if task.reference else ""
    own = task["rubric"] if task.has("rubric") else rubric
    return MARK.format(rubric=own, conversation=turns, reference=reference, reply=reply)


def _score(answer: str) -> Score:
    mark = read_mark(answer)
    if not mark.read:
        return errored(f"the judge's answer holds no mark such as [[5]]: {answer[:100]!r}")
    return Score(value=mark.value)


def _is_reachable(params: Mapping[str, Any]) -> None:
    check_address(params["base_url"], "reward judge: base_url")
    secret_of(params.get("key_env", ""), "reward judge: key_env")
    check_seconds(params.get("seconds", SECONDS), "reward judge: seconds")


judge = Rule(function=_judge, check=_is_reachable, batch=True)
