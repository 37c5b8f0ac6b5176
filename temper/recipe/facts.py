"""Facts: what is known of model, data and machine before a stage starts; others measure, `resolve` uses them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known about the model, the data of one stage and the machine before it starts."""

    params: int
    hidden: int
    layers: int
    architecture: str
    """As the model's own configuration names it, e.g. `llama`."""
    train_rows: int
    domain_supervised: int
    """Tokens of the domain rows that carry loss."""
    domain_tokens: int
    """Tokens of the domain rows, prompts included."""
    longest_row: int
    """Tokens of the longest row, domain or replay."""
    available_replay: Mapping[str, int]
    """Category -> supervised tokens that there are."""
    exam_rows: int
    device: str
    cores: int
    context_length: int | None = None
    """Most tokens that the model can read; None when it does not say."""
    tokens_per_second: float | None = None
    """Trained tokens per second, measured on this machine; None when it was not measured."""
    probe_seconds: float = 0.0
    """What the probes of the whole run will take."""
    available_sources: Mapping[str, int] = field(default_factory=dict)
    """Source -> supervised tokens, for recipes that name sources instead of categories."""
    replay_tokens: int | None = None
    """Tokens of all replay rows, prompts included; as long-winded as the domain when None."""
