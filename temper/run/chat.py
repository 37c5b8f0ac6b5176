"""Chat: a dialogue with one model, answered greedily as in the exam, handed on piece by piece as it is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from temper.data.render import Renderer
from temper.data.rows import Message
from temper.errors import DataError
from temper.model.protocol import Backend, Policy, Sampling, Tokens
from temper.run.subject import Subject

LONGEST_REPLY = 512
SHORTEST_REPLY = 16
UNFINISHED = "\ufffd"
"""What a tokenizer writes for the first bytes of a character whose last bytes are still to come."""
OnText = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class Dialogue:
    """A model and what was said so far."""

    name: str
    policy: Policy
    renderer: Renderer
    context: int | None = None
    """Tokens that the model can read; None when it does not say."""
    said: list[Message] = field(default_factory=list)

    def answer(self, words: str, on_text: OnText) -> str:
        """Answers the user's words, streaming, and remembers both; nothing is remembered of a turn that fails."""
        asked = [*self.said, Message(role="user", content=words)]
        prompt = self.renderer.prompt(asked)
        room = LONGEST_REPLY if self.context is None else min(LONGEST_REPLY, self.context - len(prompt))
        if room < SHORTEST_REPLY:
            raise DataError(
                f"dialogue: {len(prompt)} tokens so far, found room for {max(room, 0)} more of {self.context}; "
                f"expected at least {SHORTEST_REPLY}; begin again with /reset"
            )
        stream = TextStream(self.renderer, on_text)
        sampling = Sampling(max_new_tokens=room, stop=self.renderer.end_tokens)
        (completion,) = self.policy.sampler.generate([prompt], sampling, on_token=lambda _, token: stream.add(token))
        reply = stream.finish(completion.tokens)
        self.said = [*asked, Message(role="assistant", content=reply)]
        return reply

    def reset(self) -> None:
        """Forgets what was said."""
        self.said = []


class TextStream:
    """Turns tokens into text as they come, never half a character."""

    def __init__(self, renderer: Renderer, on_text: OnText) -> None:
        self._renderer = renderer
        self._on_text = on_text
        self._tokens: list[int] = []
        self._shown = ""

    def add(self, token: int) -> None:
        """Shows what the token adds, once its characters are complete."""
        self._tokens.append(token)
        text = self._renderer.decode(self._tokens).lstrip()
        if not text.endswith(UNFINISHED):
            self._show(text)

    def finish(self, tokens: Tokens) -> str:
        """Shows what was held back and gives the whole reply."""
        text = self._renderer.decode(tokens).lstrip()
        self._show(text)
        return text.rstrip()

    def _show(self, text: str) -> None:
        if text.startswith(self._shown) and text != self._shown:
            self._on_text(text[len(self._shown) :])
            self._shown = text


def open_dialogue(subject: Subject, backend: Backend, *, name: str) -> Dialogue:
    """A dialogue with a model, nothing said yet."""
    return Dialogue(
        name=name,
        policy=backend.open(subject.checkpoint),
        renderer=Renderer.load(subject.tokenizer),
        context=backend.shape(subject.base.folder).context,
    )
