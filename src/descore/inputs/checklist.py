"""A checklist of yes/no questions about a video: read it, know the right answers, fit what they weigh."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from descore.types import DIMENSIONS, DimensionScores

COLUMNS = ("dimension", "at_least", "question")


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a video that is answered by yes or no.

    Attributes:
        dimension: The dimension it is about.
        at_least: The score of that dimension from which the right answer is yes: 1 or 2.
        text: How it is asked.
        weight: What a yes adds to the reward; None until it is fitted.
        yes: The word that says yes; another one for a model that does not know it.
        no: The word that says no.
    """

    dimension: str
    at_least: int
    text: str
    weight: float | None = None
    yes: str = "yes"
    no: str = "no"

    def __post_init__(self) -> None:
        if self.dimension not in DIMENSIONS or self.at_least not in (1, 2) or not self.text.strip():
            raise ValueError(
                f"expected a question about one of {', '.join(DIMENSIONS)} that is right from a score of 1 or 2, got "
                f"{self.dimension!r}, {self.at_least!r}, {self.text!r}"
            )
        if not self.yes or not self.no or self.yes == self.no:
            raise ValueError(f"expected two words that say yes and no, got {self.yes!r} and {self.no!r}")

    def truth(self, scores: DimensionScores) -> bool | None:
        """Return the right answer for a video with these scores; None where the prompt does not ask for the dimension.

        >>> question = Question("style", 2, "Does the style fit in full?")
        >>> [question.truth({"style": score}) for score in (2, 1, None)]
        [True, False, None]
        """
        score = scores[self.dimension]
        return None if score is None else score >= self.at_least


class Asked(NamedTuple):
    """A question as a model reads it, and the tokens that answer it.

    Attributes:
        token_ids: The question, up to where its answers part.
        yes: The token that follows if the answer is yes.
        no: The token that follows if it is no.
    """

    token_ids: tuple[int, ...]
    yes: int
    no: int


def read_checklist(path: str | Path) -> tuple[Question, ...]:
    """Read a checklist from a CSV file with the columns dimension, at_least (1 or 2) and question.

    The columns yes and no may hold the words of the answers.

    Raises:
        ValueError: If a column is missing, a row is not legal, or there is none; it names file and line.
    """
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if missing := set(COLUMNS) - set(rows.fieldnames or ()):
            raise ValueError(f"{path}: expected the columns {', '.join(COLUMNS)}; {', '.join(sorted(missing))} missing")
        questions = []
        for row in rows:
            try:
                about = (row["dimension"], int(row["at_least"]), row["question"])
                questions.append(Question(*about, yes=row.get("yes", "yes"), no=row.get("no", "no")))
            except ValueError as error:
                raise ValueError(f"{path}, line {rows.line_num}: {error}") from error
    if not questions:
        raise ValueError(f"{path}: expected at least one question")
    return tuple(questions)


def ask(question: Question, tokenizer: Any) -> Asked:
    """Tokenise a question followed by each of its answers; what they share is asked, where they part is the answer.

    Raises:
        ValueError: If the tokens of one answer only go on from those of the other.
    """
    texts = [f"{question.text} {word}" for word in (question.yes, question.no)]
    yes, no = (tuple(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
    for place, (one, other) in enumerate(zip(yes, no, strict=False)):
        if one != other:
            return Asked(yes[:place], one, other)
    raise ValueError(f"expected answers whose tokens part somewhere, got {texts[0]!r} and {texts[1]!r}")
