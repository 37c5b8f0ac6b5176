"""Writes the replay file that ships for the built-in model: its own answers to general prompts, at temperature 1.

Run: python scripts/make_replay.py            (resumes where it was interrupted; the same result every time)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from temper.data import replay
from temper.data.render import Renderer
from temper.model.protocol import Completion, Sampling, Tokens
from temper.model.torch_backend import TorchBackend

NAME = "smollm2-135m-instruct"
PROMPTS = {"instruction": 440, "reasoning": 170, "knowledge": 190, "code": 90}
"""Prompts per category, about in the proportions of the default mix. None of safety: this model complies with most
harmful prompts, and that is not to be rehearsed; the catalogue has refusals instead."""
MAX_NEW_TOKENS = 72


def main() -> None:
    """Generates, filters and writes the file."""
    backend = TorchBackend()
    base = backend.locate(NAME)
    policy, renderer = backend.open(base.checkpoint), Renderer.load(base.folder)

    def complete(prompts: Sequence[Tokens], seed: int) -> Sequence[Completion]:
        sampling = Sampling(max_new_tokens=MAX_NEW_TOKENS, temperature=1.0, seed=seed, stop=renderer.end_tokens)
        return policy.sampler.generate(prompts, sampling)

    asked = [p for category, n in PROMPTS.items() for p in replay.prompts(category, n)]
    to = Path(replay.__file__).parent / "replay" / f"{NAME}.jsonl.gz"
    origin = replay.Origin(base=base.sha256, max_new_tokens=MAX_NEW_TOKENS)
    replay.generate(
        complete,
        renderer,
        asked,
        origin=origin,
        to=to,
        progress=lambda n, of: print(n, of, file=sys.stderr, flush=True),
    )
    answers = replay.read(to)
    print(f"{len(answers)} answers of {len(asked)} prompts, {to.stat().st_size} bytes")


if __name__ == "__main__":
    main()
