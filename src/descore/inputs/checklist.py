"""Checklists of yes/no questions about a video: reading, right answers, tokens and weights."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from descore.inputs.packaged import find_prompt_file
from descore.types import DIMENSIONS, DimensionScores

COLUMNS = ("dimension", "at_least", "question")
"""Required columns of a checklist file."""


@dataclass(frozen=True, slots=True)
class Question:
    """A yes/no question about a video.

    Attributes:
        dimension: Dimension that the question is about.
        at_least: Lowest score of that dimension for which the right answer is yes: 1 or 2.
        text: Text of the question.
        weight: Weight of a yes in the reward; None until the weights are fitted.
        yes: Word that means yes; choose another one for a model that does not know the default.
        no: Word that means no.

    Raises:
        ValueError: If the dimension is unknown, `at_least` is not 1 or 2, a text is empty, or both words are equal.
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
                f"expected a dimension among {', '.join(DIMENSIONS)}, at_least 1 or 2, and a question; got "
                f"{self.dimension!r}, {self.at_least!r}, {self.text!r}"
            )
        if not self.yes or not self.no or self.yes == self.no:
            raise ValueError(f"expected two different words for yes and no, got {self.yes!r} and {self.no!r}")

    def right_answer(self, scores: DimensionScores) -> bool | None:
        """Return the right answer for a video with these dimension scores; None where the dimension is N/A.

        >>> question = Question("style", 2, "Does the style fit in full?")
        >>> [question.right_answer({"style": score}) for score in (2, 1, None)]
        [True, False, None]
        """
        score = scores[self.dimension]
        return None if score is None else score >= self.at_least


class TokenisedQuestion(NamedTuple):
    """Tokens of a question and of its two answers.

    Attributes:
        token_ids: Token ids of the question, up to the first token in which its answers differ.
        yes: Next token id if the answer is yes.
        no: Next token id if the answer is no.
    """

    token_ids: tuple[int, ...]
    yes: int
    no: int


def read_checklist(path: str | Path) -> tuple[Question, ...]:
    """Read a checklist of the package by its name, or one from a CSV file.

    The columns are dimension, at_least (1 or 2) and question. The optional columns yes and no hold the
    words of the answers.

    Raises:
        FileNotFoundError: If there is neither.
        ValueError: If a column is missing, a row is invalid, or there is no row; the message names file and line.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "checklist.csv")
    ...     _ = path.write_text("dimension,at_least,question" + chr(10) + "style,2,Does the style fit?")
    ...     read_checklist(path)[0].text
    'Does the style fit?'
    """
    with find_prompt_file(path, ".csv").open(newline="", encoding="utf-8-sig") as file:
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


def tokenise_question(question: Question, tokenizer: Any) -> TokenisedQuestion:
    """Tokenise a question, and find the first token in which its answers differ.

    Raises:
        ValueError: If the tokens of one answer begin with those of the other.
    """
    texts = [f"{question.text} {word}" for word in (question.yes, question.no)]
    yes, no = (tuple(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
    for place, (one, other) in enumerate(zip(yes, no, strict=False)):
        if one != other:
            return TokenisedQuestion(yes[:place], one, other)
    raise ValueError(f"expected answers whose tokens differ, got {texts[0]!r} and {texts[1]!r}: choose other words")
