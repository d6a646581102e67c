"""Instruction templates: parts and chat messages from a prompt, with control tokens in the prompt made harmless."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from reprlib import Repr
from typing import Any, ClassVar, Self

PLACEHOLDER = "{prompt}"
"""Text that stands for the prompt in a template."""

_FOLDER = Path(str(files("descore") / "prompts"))
_MARKER = re.compile(r"\{(video|frames|query)(?::([^{}]*))?\}")
_ONE = "{video}"
_PLACES = ([_ONE], ["{video:1}", "{video:2}"], ["{frames}"], ["{frames:1}", "{frames:2}"])
_SHORT = Repr()  # of any value, however long or deep
_SHORT.maxother = _SHORT.maxstring = 80


@dataclass(frozen=True, slots=True)
class Text:
    """Text of a template, in which `{prompt}` stands for the prompt."""

    text: str


@dataclass(frozen=True, slots=True)
class Video:
    """Place of a video in a template: of the only one (0), or of the first or the second of two."""

    content: ClassVar[str] = "video"
    number: int = 0


@dataclass(frozen=True, slots=True)
class Frames(Video):
    """Place of a video whose frames are shown as loose pictures, one after the other."""

    content: ClassVar[str] = "image"


@dataclass(frozen=True, slots=True)
class Query:
    """Place of a query token in a template: that of a reward, or of all rewards if it has no name."""

    name: str = ""

    @property
    def token(self) -> str:
        """The query token.

        >>> Query().token, Query("motion").token
        ('<Reward>', '<Reward_motion>')
        """
        return f"<Reward_{self.name}>" if self.name else "<Reward>"


Part = Text | Video | Frames | Query


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """Instruction for judging a video, or for choosing between two: a text with one `{prompt}`, their prompt.

    `{video}` is the place of the video, which stands before the text if the text has no such place; `{video:1}` and
    `{video:2}`, in this order, are the places of two videos that are compared. With `{frames}`, or `{frames:1}` and
    `{frames:2}`, their frames are shown as loose pictures, one after the other, without times. `{query}` and
    `{query:NAME}` are places of query tokens; without any, they follow at the end of a branch. Other braces have no
    meaning, so the instruction may contain JSON.

    Attributes:
        text: Text of the instruction.

    Raises:
        ValueError: If the text does not contain `{prompt}` exactly once, contains a video or a query more than once,
            one of two videos without the other, or a query before a video, which it would not see.

    >>> PromptTemplate("Of {prompt}: {video} Score: {query}").parts
    (Text(text='Of {prompt}: '), Video(number=0), Text(text=' Score: '), Query(name=''))
    """

    text: str

    def __post_init__(self) -> None:
        if (count := self.text.count(PLACEHOLDER)) != 1:
            raise ValueError(f"expected {PLACEHOLDER} once in the template, found it {count} times: {self.text[:80]!r}")
        for marker, count in Counter(found.group() for found in _MARKER.finditer(self.text)).items():
            if count > 1:
                raise ValueError(f"expected {marker} at most once in the template, found it {count} times")
        videos = [found.group() for found in _MARKER.finditer(self.text) if found[1] != "query"]
        if videos and videos not in _PLACES:
            raise ValueError(
                "expected {video}, or {video:1} and after it {video:2}, or the same with frames instead of video, in "
                f"the template; got {', '.join(videos)}"
            )
        last = max(index for index, part in enumerate(self.parts) if isinstance(part, Video))
        if blind := [part.token for part in self.parts[:last] if isinstance(part, Query)]:
            video = videos[-1] if videos else _ONE
            raise ValueError(f"expected {video} before every query in the template, found {blind[0]} before it")

    @property
    def parts(self) -> tuple[Part, ...]:
        """Parts of the user turn, in their order."""
        found: list[Part] = []
        end = 0
        for marker in _MARKER.finditer(self.text):
            found += [Text(self.text[end : marker.start()])] if marker.start() > end else []
            found.append(_part(*marker.groups()))
            end = marker.end()
        found += [Text(self.text[end:])] if end < len(self.text) else []
        return tuple(found) if any(isinstance(part, Video) for part in found) else (Video(), *found)

    @property
    def num_videos(self) -> int:
        """Number of videos that are judged in one context: 1, or 2 that are compared."""
        return sum(isinstance(part, Video) for part in self.parts)

    @property
    def is_loose(self) -> bool:
        """Whether the frames of a video are shown as loose pictures, instead of as a video."""
        return any(isinstance(part, Frames) for part in self.parts)

    @property
    def queries(self) -> tuple[str, ...]:
        """Query tokens that stand in the text, in their order."""
        return tuple(part.token for part in self.parts if isinstance(part, Query))

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

    def messages(self, prompt: str, num_pictures: Sequence[int] = ()) -> list[dict[str, Any]]:
        """Return the user turn in the form that transformers' `apply_chat_template` takes.

        Args:
            prompt: Text that the video was generated from, after `neutralise`.
            num_pictures: Number of pictures of each video, which is 1 for a video that is none of loose pictures; not
                given, 1 for each.

        >>> PromptTemplate("Does it show {prompt}?").messages("a cat")
        [{'role': 'user', 'content': [{'type': 'video'}, {'type': 'text', 'text': 'Does it show a cat?'}]}]
        >>> PromptTemplate("{prompt}{frames}").messages("a cat", [2])[0]["content"]
        [{'type': 'text', 'text': 'a cat'}, {'type': 'image'}, {'type': 'image'}]
        """
        content: list[dict[str, str]] = []
        counts = iter(num_pictures or [1] * self.num_videos)
        for part in self.parts:
            if isinstance(part, Video):
                content += [{"type": part.content}] * next(counts)
                continue
            text = part.token if isinstance(part, Query) else part.text.replace(PLACEHOLDER, prompt)
            if content and content[-1]["type"] == "text":
                content[-1]["text"] += text
            else:
                content.append({"type": "text", "text": text})
        return [{"role": "user", "content": content}]


def _part(kind: str, name: str | None) -> Part:
    """Return the part that a marker stands for; the number of a video was not checked."""
    if kind == "query":
        return Query(name or "")
    return (Frames if kind == "frames" else Video)(int(name) if name in ("1", "2") else 0)


def find_prompt_file(name: str | Path, suffix: str) -> Path:
    """Return the path of a file that ships with the package, or that of a file of the user's own.

    Args:
        name: Name in the package without its suffix, or a path.
        suffix: Suffix of the file in the package, such as ".txt".

    Raises:
        FileNotFoundError: If it is neither; the message lists the names in the package.

    >>> find_prompt_file("rendered", ".txt").name
    'rendered.txt'
    """
    shipped = {path.stem: path for path in sorted(_FOLDER.glob(f"*{suffix}"))}
    if str(name) in shipped:
        return shipped[str(name)]
    if not (path := Path(name)).is_file():
        raise FileNotFoundError(f"{name}: expected {', '.join(shipped)}, or the path of a {suffix} file; found neither")
    return path


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
