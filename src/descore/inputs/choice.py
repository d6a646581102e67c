"""A choice between two videos: the words of its outcomes, where they stand, and the tokens that tell them apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from descore.answer import END_OF_THINKING

OUTCOMES = ("A", "tie", "B")
"""What a choice can come out as, in the order of its probabilities."""


def outcome_of(preference: float) -> str | None:
    """Return the outcome that a preference is: "A" for +1, "tie" for 0, "B" for -1, None for no usable label.

    >>> outcome_of(-1.0), outcome_of(float("nan"))
    ('B', None)
    """
    return {1.0: "A", 0.0: "tie", -1.0: "B"}.get(preference)


class ChoiceError(ValueError):
    """A text in which no choice stands; the message says what was expected and what was found."""


@dataclass(frozen=True)
class ChoiceSettings:
    """Words of a choice between the first and the second video of a prompt; stored in the exported folder.

    Attributes:
        lead: Text after which the choice stands; in a thought, after the last place where it occurs.
        first: What says that the first video is better.
        second: What says that the second video is better.
        tie: What says that neither is; empty for a model that always chooses.

    Raises:
        ValueError: If the words are empty, or one begins with another.

    >>> ChoiceSettings().context("<think>A moves.</think><answer>Video 2 is better</answer>")
    '<think>A moves.</think><answer>'
    >>> ChoiceSettings().said("<think>A moves.</think><answer>Video 2 is better</answer>")
    'B'
    """

    lead: str = "<answer>"
    first: str = "Video 1 is better"
    second: str = "Video 2 is better"
    tie: str = "Both videos are equally good"

    def __post_init__(self) -> None:
        words = [word.casefold() for word in self.words.values()]
        if "" in words or any(one != two and one.startswith(two) for one in words for two in words):
            raise ValueError(f"choice: expected words of which none begins with another, got {self._shown()}")
        if len(set(words)) < len(words):
            raise ValueError(f"choice: expected different words, got {self._shown()}")

    @property
    def words(self) -> dict[str, str]:
        """The words of each outcome that the model knows, in the order of `OUTCOMES`."""
        known = dict(zip(OUTCOMES, (self.first, self.tie, self.second), strict=True))
        return {outcome: word for outcome, word in known.items() if word or outcome != "tie"}

    def context(self, text: str) -> str:
        """Return a thought up to the place of its choice; of no thought, the lead alone.

        Raises:
            ChoiceError: If the lead is not in the thought.
        """
        if not text:
            return self.lead
        before, found, rest = text.rpartition(self.lead) if self.lead else (text, "", "")
        if self.lead and not found:
            raise ChoiceError(f"the thought has no {self.lead!r}, after which its choice would stand")
        return before + found + rest[: len(rest) - len(rest.lstrip())]

    def said(self, text: str) -> str:
        """Return the outcome whose words stand at the place of the choice, in upper or lower case.

        Raises:
            ChoiceError: If none does.
        """
        rest = text[len(self.context(text)) :].casefold()
        for outcome, word in self.words.items():
            if rest.startswith(word.casefold()):
                return outcome
        raise ChoiceError(f"expected a choice of {self._shown()}; got {rest[:80]!r}")

    def is_whole(self, text: str) -> bool:
        """Return whether a thought closes its `<think>`, and ends with its choice, of which a block may be closed.

        >>> ChoiceSettings().is_whole("<think>A moves.</think><answer>Video 2 is better</answer>")
        True
        >>> ChoiceSettings().is_whole("<think>A moves.</think><answer>Video 2 is better</answer> And so on.")
        False
        """
        reasoning, closed, conclusion = text.rpartition(END_OF_THINKING)
        if not closed or "<think>" not in reasoning or not conclusion:
            return False
        try:
            rest = conclusion[len(self.context(conclusion)) :]
            word = self.words[self.said(conclusion)]
        except ChoiceError:
            return False
        return rest[len(word) :].strip() in {"", "</answer>"}

    def _shown(self) -> str:
        return ", ".join(map(repr, self.words.values()))


@dataclass(frozen=True, slots=True)
class TokenisedChoice:
    """The outcomes at one place, each as the tokens of a branch.

    Attributes:
        token_ids: Tokens of the context and of each outcome, in the order of `ChoiceSettings.words`, up to the first
            token that tells the outcome from all others.

    >>> TokenisedChoice(((5, 6, 1), (5, 6, 2, 3))).start
    2
    """

    token_ids: tuple[tuple[int, ...], ...]

    @property
    def start(self) -> int:
        """Number of first tokens that all have in common; those after it tell the outcomes apart."""
        return min(_shared(self.token_ids[0], row) for row in self.token_ids[1:])


def tokenise_choice(context: str, choice: ChoiceSettings, tokenizer: Any) -> TokenisedChoice:
    """Tokenise the outcomes of a choice after a context.

    Raises:
        ValueError: If the tokens of one outcome begin with those of another.
    """
    rows = [tuple(tokenizer.encode(context + word, add_special_tokens=False)) for word in choice.words.values()]
    ends = []
    for row in rows:
        shared = [_shared(row, other) for other in rows if other is not row]
        if max(shared) == len(row):
            raise ValueError(f"expected words of a choice whose tokens differ, got {', '.join(choice.words.values())}")
        ends.append(max(shared) + 1)
    return TokenisedChoice(tuple(row[:end] for row, end in zip(rows, ends, strict=True)))


def _shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Return the number of first tokens that two rows have in common."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
