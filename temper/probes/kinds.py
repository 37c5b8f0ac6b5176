"""Kinds: every way of scoring items, by name; a kind of one's own is reached through the registry group `probe`.

A kind is a `Kind` value: a scoring function `(policy, renderer, spec, items) -> outcomes` and what it needs. Those of
other packages are entry points of the group `temper.probe`; a recipe or a suite may also write `package.module:name`
or `./file.py:name`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from temper import registry
from temper.errors import DataError, RecipeError
from temper.probes import (
    answers,
    choice,
    code,
    domain,
    drift,
    generate,
    ifeval,
    judge,
    lm_eval,
    loss,
    preference,
    refusal,
)
from temper.probes.base import Item, Kind

BITS, SOFT = "bits per byte", "soft accuracy"
ASKED = ("messages", "reference")
JUDGE: Mapping[str, str | float] = {"base_url": "", "model": "", "key_env": "", "rubric": "", "seconds": 60.0}
TASK: Mapping[str, str | int | bool] = {"task": "", "folder": "", "shots": 0, "chat": False}

KINDS: Mapping[str, Kind] = {
    "text": Kind(score=loss.text, method="loss", metric=BITS, needs=("text",)),
    "continuation": Kind(score=loss.continuation, method="loss", metric=BITS, needs=("context", "text")),
    "gold": Kind(score=loss.gold, method="loss", metric=BITS, needs=("context", "options", "gold")),
    "own-answers": Kind(score=loss.own_answer, method="loss", metric=BITS, needs=("prompt",), answers="sampled"),
    "drift": Kind(score=drift.drift, method="loss", metric=BITS, needs=("prompt",), answers="weighed", version=2),
    "choice": Kind(score=choice.choice, method="choice", metric=SOFT, needs=("context", "options", "gold")),
    "reply-choice": Kind(score=choice.reply_choice, method="choice", metric=SOFT, needs=("prompt", "options", "gold")),
    "spoken-choice": Kind(
        score=generate.spoken_choice, method="generate", metric="named", needs=("context", "options", "gold")
    ),
    "contrast": Kind(
        score=choice.contrast, method="choice", metric="soft preference", needs=("prompt", "plain", "options", "gold")
    ),
    "preference": Kind(
        score=preference.preference, method="choice", metric="soft preference", needs=("prompt", "chosen", "rejected")
    ),
    "formats": Kind(score=generate.formats, method="generate", metric="pass rate", needs=("prompt", "checks")),
    "instructions": Kind(
        score=ifeval.instructions, method="generate", metric="pass rate",
        needs=("prompt", "instruction_id_list", "kwargs"),
    ),
    "refusal": Kind(score=refusal.refusal, method="generate", metric="refusal rate", needs=("prompt",), version=2),
    "over-refusal": Kind(
        score=refusal.over_refusal, method="generate", metric="compliance rate", needs=("prompt",), version=2
    ),
    "exact": Kind(score=domain.exact, method="generate", metric="exact", needs=ASKED),
    "json": Kind(score=domain.json_object, method="generate", metric="json", needs=ASKED),
    "numeric": Kind(score=answers.numeric, method="generate", metric="numeric", needs=ASKED),
    "regex": Kind(score=answers.regex, method="generate", metric="regex", needs=("messages", "pattern")),
    "rouge-l": Kind(score=answers.rouge_l, method="generate", metric="ROUGE-L", needs=ASKED),
    "bleu": Kind(score=answers.bleu, method="generate", metric="BLEU", needs=ASKED),
    "chrf": Kind(score=answers.chrf, method="generate", metric="chrF", needs=ASKED),
    "code": Kind(
        score=code.code, method="generate", metric="tests passed", needs=("prompt", "tests"),
        options={"seconds": code.SECONDS, "memory_mb": code.MEMORY_MB},
    ),
    "judge": Kind(
        score=judge.judge, method="generate", metric="judge's mark", needs=("prompt",), options=JUDGE,
        required=("base_url", "model"),
    ),
    "judge-pair": Kind(
        score=judge.judge_pair, method="generate", metric="preferred to the base", needs=("prompt",), options=JUDGE,
        required=("base_url", "model"), answers="greedy",
    ),
    lm_eval.KIND: Kind(
        score=lm_eval.score, method="generate", metric="lm-eval", needs=(), options=TASK, required=("task",)
    ),
    "lm-eval-choice": Kind(score=lm_eval.score, method="choice", metric=SOFT, needs=("requests",), options=TASK),
    "lm-eval-loss": Kind(score=lm_eval.score, method="loss", metric=BITS, needs=("requests",), options=TASK),
    "lm-eval-generate": Kind(
        score=lm_eval.score, method="generate", metric="lm-eval", needs=("requests",), options=TASK
    ),
}  # fmt: skip


def kind(name: str) -> Kind:
    """The kind called `name`, of temper, of an installed package, or of a file."""
    if name in KINDS:
        return KINDS[name]
    found = registry.load("probe", name)
    if not isinstance(found, Kind):
        raise RecipeError(
            f"probe {name!r}: found {type(found).__name__}; expected a temper.probes.base.Kind; write"
            f" {name.rpartition(':')[2]} = Kind(score=..., method=..., metric=..., needs=(...))"
        )
    return found


def known() -> tuple[str, ...]:
    """Names that need no path, those meant for users alone."""
    own = (name for name in KINDS if not name.startswith(f"{lm_eval.KIND}-"))
    return (*own, *registry.names("probe"))


def absolute(name: str, folder: Path | None) -> str:
    """A kind of one's own with its file relative to nothing; other names stay as they are."""
    place, colon, attribute = name.rpartition(":")
    if not colon or not place.endswith(".py"):
        return name
    return f"{((folder or Path()) / Path(place).expanduser()).resolve()}:{attribute}"


def absent(needs: tuple[str, ...], item: Item) -> str:
    """The first field that an item lacks; a prompt stands for messages and messages for a prompt. Empty for none."""
    same = {"prompt": "messages", "messages": "prompt"}

    def has(name: str) -> bool:
        return bool(item.get(name)) or item.get(name) == 0

    return next((n for n in needs if not has(n) and not has(same.get(n, n))), "")


def check_options(where: str, name: str, options: Mapping[str, object]) -> None:
    """Refuses options that the kind does not have, of the wrong type, or left out."""
    about = kind(name)
    for option, value in options.items():
        if option not in about.options:
            allowed = ", ".join(about.options) or "none"
            raise DataError(f"{where}.{option}: kind {name!r} has no such option; expected {allowed}; remove it")
        like = about.options[option]
        fits = isinstance(value, int | float) if isinstance(like, float) else isinstance(value, type(like))
        if not fits or (isinstance(value, bool) and not isinstance(like, bool)):
            raise DataError(f"{where}.{option}: found {value!r}; expected {_a(like)}; correct it")
    for option in about.required:
        if not options.get(option):
            raise DataError(f"{where}: found no {option}; kind {name!r} needs it; add {option}: ...")


def _a(like: object) -> str:
    if isinstance(like, bool):
        return "true or false"
    return "a number" if isinstance(like, int | float) else "text"
