"""Tasks and rewards of two collections (extra `envs`): reasoning_gym's generators, and verifiers' single-turn tasksets.

A task carries what its reward needs to be scored in another process: the name it was made by and the entry itself. Of
verifiers, tasksets that need tools, a container, a runtime or several turns are refused; their own loop runs those.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal

from temper.data.row import Message
from temper.errors import MissingExtra, RecipeError
from temper.rollout.score import Rule, Score, unparsable
from temper.rollout.task import Task

TAG = re.compile(r"<answer>\s*(.*?)\s*</answer>", re.DOTALL)


def reasoning_gym_tasks(
    name: str, *, size: int, seed: int = 0, config: Mapping[str, Any] | None = None, system: str = ""
) -> tuple[Task, ...]:
    """Tasks of one of reasoning_gym's generators; the same arguments give the same tasks.

    Args:
        name: Such as `chain_sum`.
        size: How many; entries with the same question count once.
        seed: Another one gives other tasks, for the exam.
        config: The generator's own settings, e.g. {"max_terms": 2}.
        system: A system prompt, such as the form an answer should have.

    Raises:
        RecipeError: there is no such generator, or it refuses the settings.
    """
    gym = _gym()
    settings = json.dumps(dict(config or {}), sort_keys=True)
    known = sorted(gym.factory.DATASETS)
    if name not in known:
        from temper import registry

        raise RecipeError(
            f"reasoning_gym: {name!r} is not known; {registry.hint(name, known)}expected one of its {len(known)}"
            f" generators, such as {', '.join(known[:5])}; write one of them"
        )
    try:
        entries = list(gym.create_dataset(name, size=size, seed=seed, **json.loads(settings)))
    except (TypeError, ValueError, AssertionError) as error:
        raise RecipeError(
            f"reasoning_gym: {name} refuses {settings} ({error}); expected settings of that generator; correct them"
        ) from None
    opening = (Message(role="system", content=system),) if system else ()
    made = [
        Task(
            id=_id("reasoning_gym", name, entry["question"], entry["answer"]),
            messages=(*opening, Message(role="user", content=entry["question"])),
            reference="" if entry["answer"] is None else str(entry["answer"]),
            origin=f"reasoning_gym/{name}:{number}",
            fields={"generator": name, "settings": settings, "entry": entry},
        )
        for number, entry in enumerate(entries, start=1)
    ]
    return tuple({task.id: task for task in made}.values())


def verifiers_tasks(taskset: str, *, size: int, config: Mapping[str, Any] | None = None) -> tuple[Task, ...]:
    """The first tasks of an installed taskset of verifiers.

    Args:
        taskset: Its id, such as `gsm8k`.
        size: How many at most.
        config: The taskset's own settings.

    Raises:
        RecipeError: there is no such taskset, or it needs more than one reply to one prompt.
    """
    loaders = _verifiers()
    settings = json.dumps(dict(config or {}), sort_keys=True)
    try:
        cls = loaders.taskset_class(taskset)
        loaded = cls(_config(cls, taskset, settings))
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise RecipeError(
            f"verifiers: taskset {taskset!r} cannot be loaded ({error}); expected an installed one of verifiers 0.4;"
            " install its package, or correct the settings"
        ) from None
    made: list[Task] = []
    for number, found in enumerate(itertools.islice(iter(loaded), size), start=1):
        _check_single_turn(found, taskset, loaders)
        data = found.data.model_dump(mode="json", exclude_defaults=True)
        made.append(
            Task(
                id=_id("verifiers", taskset, found.key),
                messages=_opening(found.data),
                origin=f"verifiers/{taskset}:{number}",
                fields={"taskset": taskset, "settings": settings, "data": data},
            )
        )
    return tuple(made)


def _score_gym(task: Task, reply: str, *, answer: Literal["whole", "tag"] = "whole") -> Score:
    """The generator's own score of the answer, 0 to 1; some give 0.01 for any answer.

    Args:
        task: Made by `reasoning_gym_tasks`.
        reply: What the model wrote.
        answer: The whole reply, or what stands in its last <answer> tag.
    """
    said: str = reply.strip()
    if answer == "tag":
        tagged = TAG.findall(reply)
        if not tagged:
            return unparsable("no <answer> tag")
        said = tagged[-1]
    return Score(value=float(_generator(task["generator"], task["settings"]).score_answer(said, task["entry"])))


def _score_verifiers(task: Task, reply: str) -> Score:
    """The sum of the taskset's weighted rewards; its rewards and metrics are the parts."""
    import asyncio

    import verifiers.v1 as vf  # pyright: ignore[reportMissingImports]

    cls = _verifiers().taskset_class(task["taskset"])
    kind = cls.task_type()
    settings = _config(cls, task["taskset"], task["settings"])
    found = kind(kind.data_type().model_validate(task["data"]), settings.task)
    said = [*map(_foreign, task.messages), vf.AssistantMessage(content=reply)]
    nodes = [
        vf.MessageNode(message=m, parent=n - 1 if n else None, sampled=n == len(said) - 1) for n, m in enumerate(said)
    ]
    about = vf.TraceTask(type=kind.__name__, data=found.data, key=found.key, hash=found.hash)
    state = importlib.import_module("verifiers.v1.state").state_cls(kind)()
    trace = vf.Trace(task=about, agent=vf.AgentInfo(config=vf.AgentConfig()), state=state, nodes=nodes)
    asyncio.run(found.score(trace))
    missing = [name for name, value in trace.rewards.items() if value is None]
    if missing or not trace.rewards:
        raise ValueError(f"the taskset gave no {', '.join(missing) or 'reward'}; expected rewards without a runtime")
    rewards = {name: float(r.score) for name, r in trace.rewards.items() if r is not None}
    metrics = {name: float(value) for name, value in trace.metrics.items() if value is not None}
    return Score(value=float(trace.reward), parts=metrics | rewards)


def _check_single_turn(found: Any, taskset: str, loaders: Any) -> None:
    several = loaders.environment_class(taskset).__name__ != "SingleAgentEnv"
    needs = {
        "an environment of its own": several,
        "a container": found.NEEDS_CONTAINER or found.data.image is not None,
        "tools": bool(type(found).toolsets(found.config)),
        "a user who begins": found.data.prompt is None,
    }
    wanted = [what for what, needed in needs.items() if needed]
    if wanted:
        raise RecipeError(
            f"verifiers: taskset {taskset!r} needs {' and '.join(wanted)}; expected one prompt and one reply; write the"
            " loop as an environment (reset, step), or train it where verifiers runs"
        )


def _opening(data: Any) -> tuple[Message, ...]:
    system = (Message(role="system", content=data.system_prompt),) if data.system_prompt else ()
    if isinstance(data.prompt, str):
        return (*system, Message(role="user", content=data.prompt))
    text = importlib.import_module("verifiers.v1.types").content_text
    return (*system, *(Message(role=m.role, content=text(m.content)) for m in data.prompt))


def _foreign(message: Message) -> Any:
    import verifiers.v1 as vf  # pyright: ignore[reportMissingImports]

    kinds = {"system": vf.SystemMessage, "user": vf.UserMessage, "assistant": vf.AssistantMessage}
    return kinds[message.role](content=message.content)


def _config(cls: Any, taskset: str, settings: str) -> Any:
    from typing import get_args

    import verifiers.v1 as vf  # pyright: ignore[reportMissingImports]

    found: Iterator[Any] = (
        argument for base in getattr(cls, "__orig_bases__", ()) for argument in get_args(base)
        if isinstance(argument, type) and issubclass(argument, vf.TasksetConfig)
    )  # fmt: skip
    return next(found, vf.TasksetConfig)(id=taskset, **json.loads(settings))


@cache
def _generator(name: str, settings: str) -> Any:
    return _gym().create_dataset(name, size=1, seed=0, **json.loads(settings))


def _gym() -> Any:
    _has_gym({})
    return importlib.import_module("reasoning_gym")


def _verifiers() -> Any:
    _has_verifiers({})
    return importlib.import_module("verifiers.v1.utils.loaders")


def _has_gym(params: Mapping[str, Any]) -> None:
    if importlib.util.find_spec("reasoning_gym") is None:
        raise MissingExtra("reasoning-gym", "envs")


def _has_verifiers(params: Mapping[str, Any]) -> None:
    if importlib.util.find_spec("verifiers") is None:
        raise MissingExtra("verifiers", "envs")


def _id(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _import_gym() -> None:
    _gym()


def _import_verifiers() -> None:
    _verifiers()


reasoning_gym = Rule(function=_score_gym, needs=("entry",), check=_has_gym, prepare=_import_gym)
verifiers = Rule(function=_score_verifiers, needs=("taskset",), check=_has_verifiers, prepare=_import_verifiers)
