"""A graded reward of JSON answers: from 0 to 1, and 1 only where the answer is the reference's value.

The parts are `validity` (it is JSON), `schema` (it keeps the schema, where one is given), `key` (one field is right,
where one is named) and `field_f1` (how many fields are right). Reading is as strict as that of the probe `json`: a
reward that forgives a code fence the exam does not forgive teaches the fence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from temper.errors import MissingExtra, RecipeError
from temper.probes.domain import UNPARSABLE, field_f1, parse, same
from temper.rollout.score import Rule, Score, unparsable
from temper.rollout.task import Task


def _json_schema(
    task: Task,
    reply: str,
    *,
    schema: dict[str, Any] | None = None,
    valid: float = 0.1,
    key: str = "",
    key_share: float = 0.4,
) -> Score:
    """`valid` for JSON that keeps the schema, `key_share` for the named field, the rest by the F1 of the fields.

    Without a reference the schema alone decides, 0 or 1.

    Args:
        task: Has the reference, a JSON object, or none where a schema is given.
        reply: What the model wrote.
        schema: JSON schema that the answer has to keep.
        valid: What valid JSON earns by itself; small, since a constant answer earns it too.
        key: A field that matters most, such as `intent`.
        key_share: What that field earns.
    """
    value = parse(reply.strip())
    if value is UNPARSABLE:
        return unparsable("no JSON", parts={"validity": 0.0})
    parts = {"validity": 1.0}
    kept = 1.0
    if schema is not None:
        kept = parts["schema"] = float(_keeps(value, schema))
    if not task.reference:
        if schema is None:
            raise ValueError("the task has no reference and the recipe no schema; expected one of the two; add it")
        return Score(value=kept, parts=parts)
    wanted = parse(task.reference)
    if wanted is UNPARSABLE:
        raise ValueError(f"the reference {task.reference!r} is no JSON; expected an object; correct the row")
    right = same(value, wanted)
    f1 = field_f1(value, wanted)
    parts["field_f1"] = 1.0 if right else f1 if f1 < 1.0 else 0.0  # a slash in a key can make paths coincide
    share = 0.0
    if key:
        if _field(wanted, key) is UNPARSABLE:
            raise ValueError(f"the reference has no field {key!r}; expected it in every reference; correct the row")
        share = key_share
        parts["key"] = float(_field(value, key) is not UNPARSABLE and same(_field(value, key), _field(wanted, key)))
    if right and kept:
        return Score(value=1.0, parts=parts)  # exactly, whatever the shares round to
    earned = valid * kept + share * parts.get("key", 0.0) + (1.0 - valid - share) * parts["field_f1"]
    return Score(value=earned, parts=parts)


def _field(value: Any, key: str) -> Any:
    return value.get(key, UNPARSABLE) if isinstance(value, dict) else UNPARSABLE


def _keeps(value: Any, schema: Mapping[str, Any]) -> bool:
    from jsonschema.validators import validator_for  # pyright: ignore[reportMissingModuleSource]

    return validator_for(schema)(schema).is_valid(value)


def _fits(params: Mapping[str, Any]) -> None:
    valid, share = params.get("valid", 0.1), params.get("key_share", 0.4) if params.get("key") else 0.0
    if valid < 0 or share < 0 or valid + share > 1:
        raise RecipeError(
            f"reward json_schema: found valid {valid:g} and key_share {share:g}; expected shares that sum to 1 at most;"
            " lower them"
        )
    schema = params.get("schema")
    if schema is None:
        return
    try:
        from jsonschema import SchemaError  # pyright: ignore[reportMissingModuleSource]
        from jsonschema.validators import validator_for  # pyright: ignore[reportMissingModuleSource]
    except ModuleNotFoundError:
        raise MissingExtra("jsonschema", "json") from None
    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        raise RecipeError(
            f"reward json_schema: schema is no JSON schema ({error.message}); expected one; correct it"
        ) from None


def _needs(params: Mapping[str, Any]) -> tuple[str, ...]:
    return () if params.get("schema") is not None else ("reference",)


json_schema = Rule(function=_json_schema, check=_fits, further=_needs)
