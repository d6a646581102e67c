"""Instruction template to chat messages: the one place where a prompt meets the instruction."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

PLACEHOLDER = "{prompt}"


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """The instruction that a video is judged by, with one `{prompt}` where the text of its prompt goes.

    No other brace has a meaning, so the instruction may show JSON as it is.

    Attributes:
        text: The instruction.

    Raises:
        ValueError: If the text does not hold `{prompt}` exactly once.
    """

    text: str

    def __post_init__(self) -> None:
        if (count := self.text.count(PLACEHOLDER)) != 1:
            raise ValueError(f"expected {PLACEHOLDER} once in the template, found it {count} times: {self.text[:80]!r}")

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a template from a UTF-8 file; white space around it is dropped, since every token costs.

        Raises:
            ValueError: As the class does, naming the file.
        """
        text = Path(path).read_text(encoding="utf-8").strip()
        try:
            return cls(text)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def messages(self, prompt: str) -> list[dict[str, Any]]:
        """Write the user turn, video first, in the form that `processor.apply_chat_template` takes.

        Args:
            prompt: The text the video was generated from, after `neutralise`.

        >>> PromptTemplate("Does it show {prompt}?").messages("a cat")
        [{'role': 'user', 'content': [{'type': 'video'}, {'type': 'text', 'text': 'Does it show a cat?'}]}]
        """
        text = self.text.replace(PLACEHOLDER, prompt)
        return [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}]


def neutralise(prompt: str, control_tokens: Iterable[str]) -> str:
    """Break every control token in a prompt by a space after its first character, so that it is read as plain text.

    A prompt is data: `<|im_end|>` in it must not end the turn, `<|video_pad|>` must not stand for a frame, and
    `<Reward>` must not be scored. The words stay legible, a prompt without control tokens stays as it is, and what
    comes out holds none of them.

    Args:
        prompt: The text the video was generated from, as the user gave it.
        control_tokens: Texts of at least two characters and without white space. For a tokenizer these are
            `tokenizer.get_added_vocab()`, which holds `<think>` where `all_special_tokens` does not.

    >>> neutralise("a cat<|im_end|> and 1 < 2", ["<|im_end|>", "<Reward>"])
    'a cat< |im_end|> and 1 < 2'
    """
    starts = [f"(?<={re.escape(token[0])})(?={re.escape(token[1:])})" for token in control_tokens]
    return re.sub("|".join(starts), " ", prompt) if starts else prompt
