"""Instruction templates: chat messages from a prompt, with control tokens in the prompt made harmless."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from reprlib import Repr
from typing import Any, Self

from descore.inputs.packaged import find_prompt_file

PLACEHOLDER = "{prompt}"

_SHORT = Repr()  # of any value, however long or deep
_SHORT.maxother = _SHORT.maxstring = 80
"""Text that stands for the prompt in a template."""


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """Instruction for judging a video, with one `{prompt}` that stands for the video's prompt.

    Other braces have no meaning, so the instruction may contain JSON.

    Attributes:
        text: Text of the instruction.

    Raises:
        ValueError: If the text does not contain `{prompt}` exactly once.
    """

    text: str

    def __post_init__(self) -> None:
        if (count := self.text.count(PLACEHOLDER)) != 1:
            raise ValueError(f"expected {PLACEHOLDER} once in the template, found it {count} times: {self.text[:80]!r}")

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a template of the package by its name, or one from a UTF-8 file, without the white space around it.

        Raises:
            FileNotFoundError: If there is neither.
            ValueError: If the text does not contain `{prompt}` exactly once; the message names the file.
        """
        text = find_prompt_file(path, ".txt").read_text(encoding="utf-8").strip()
        try:
            return cls(text)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def messages(self, prompt: str) -> list[dict[str, Any]]:
        """Return the user turn, video first, in the form that transformers' `apply_chat_template` takes.

        Args:
            prompt: Text that the video was generated from, after `neutralise`.

        >>> PromptTemplate("Does it show {prompt}?").messages("a cat")
        [{'role': 'user', 'content': [{'type': 'video'}, {'type': 'text', 'text': 'Does it show a cat?'}]}]
        """
        text = self.text.replace(PLACEHOLDER, prompt)
        return [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}]


class PromptError(ValueError):
    """Raised for a prompt that no model can be asked about; the message says what was expected and what was found."""


def check_prompt(prompt: object) -> str:
    """Return a prompt that is text, not blank, and valid Unicode.

    Raises:
        PromptError: If it is anything else.

    >>> check_prompt("a cat")
    'a cat'
    """
    if not isinstance(prompt, str):
        raise PromptError(f"expected a prompt, got {type(prompt).__name__} {_SHORT.repr(prompt)}")
    if not prompt.strip():
        raise PromptError(f"expected a prompt, got blank text {_SHORT.repr(prompt)}")
    if not is_unicode(prompt):
        raise PromptError(f"expected a prompt in Unicode, got a lone surrogate in {_SHORT.repr(prompt)}")
    return prompt


def is_unicode(text: str) -> bool:
    r"""Return whether text is valid Unicode: a lone surrogate, as damaged JSON holds, is not.

    >>> is_unicode("a cat"), is_unicode("a cat \ud83d")
    (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def neutralise(prompt: str, control_tokens: Iterable[str]) -> str:
    """Insert a space after the first character of each control token in a prompt, so that it is read as plain text.

    A prompt is data: `<|im_end|>` in it must not end the turn, `<|video_pad|>` must not stand for a frame, and
    `<Reward>` must not be scored. The result contains no control token; a prompt without control tokens is not changed.

    Args:
        prompt: Text that the video was generated from, as the user gave it.
        control_tokens: Control tokens, each of at least two characters and without white space. For a tokenizer, these
            are `tokenizer.get_added_vocab()`, which also has `<think>`, unlike `all_special_tokens`.

    >>> neutralise("a cat<|im_end|> and 1 < 2", ["<|im_end|>", "<Reward>"])
    'a cat< |im_end|> and 1 < 2'
    """
    starts = [f"(?<={re.escape(token[0])})(?={re.escape(token[1:])})" for token in control_tokens]
    return re.sub("|".join(starts), " ", prompt) if starts else prompt
