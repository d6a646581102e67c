"""Checklists of yes/no questions about a video: reading, right answers, tokens and weights."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from descore.inputs.prompts import find_prompt_file
from descore.types import DIMENSIONS, DimensionScores

ABOUT = ("dimension", "at_least")
"""Columns of a checklist file that tell the right answer; a file has both or neither."""


@dataclass(frozen=True)
class ProbeSettings:
    """What an answer to a question of the checklist counts; stored in the exported folder.

    Attributes:
        answers: "soft" counts the probability of yes against no alone; "hard" counts +1 if yes is likelier than no, and
            -1 otherwise (VisionReward, arXiv 2412.21059).
        combine: "sum" or "mean" over the questions of weight times answer.
        nonnegative: Whether a question whose fitted weight is negative gets weight 0, and the others are fitted again.

    Raises:
        ValueError: If a value is unknown.
    """

    answers: Literal["soft", "hard"] = "soft"
    combine: Literal["sum", "mean"] = "sum"
    nonnegative: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("answers", ("soft", "hard")), ("combine", ("sum", "mean"))):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"probes.{name} is {value!r}; expected {' or '.join(allowed)}")


@dataclass(frozen=True, slots=True)
class Question:
    """A yes/no question about a video.

    Attributes:
        dimension: Dimension that the question is about; empty if the annotated scores do not tell the right answer.
        at_least: Lowest score of that dimension for which the right answer is yes: 1 or 2; 0 without a dimension.
        text: Text of the question.
        weight: Weight of a yes in the reward; None until the weights are fitted.
        yes: Word that means yes; choose another one for a model that does not know the default.
        no: Word that means no.

    Raises:
        ValueError: If the dimension is unknown, `at_least` is not 1 or 2, a text is empty, or both words are equal.
    """

    dimension: str = ""
    at_least: int = 0
    text: str = ""
    weight: float | None = None
    yes: str = "yes"
    no: str = "no"

    def __post_init__(self) -> None:
        about = (self.dimension, self.at_least)
        legal = about == ("", 0) or (self.dimension in DIMENSIONS and self.at_least in (1, 2))
        if not legal or not self.text.strip():
            raise ValueError(
                f"expected a dimension among {', '.join(DIMENSIONS)} and at_least 1 or 2, or neither, and a question; "
                f"got {self.dimension!r}, {self.at_least!r}, {self.text!r}"
            )
        if not self.yes or not self.no or self.yes == self.no:
            raise ValueError(f"expected two different words for yes and no, got {self.yes!r} and {self.no!r}")

    def right_answer(self, scores: DimensionScores) -> bool | None:
        """Return the right answer for a video with these dimension scores; None where they do not tell it.

        >>> question = Question("style", 2, "Does the style fit in full?")
        >>> [question.right_answer({"style": score}) for score in (2, 1, None)]
        [True, False, None]
        """
        score = scores[self.dimension] if self.dimension else None
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
    """Read a checklist of the package by its name, or one from a file.

    A `.csv` file has the column question; columns dimension and at_least (1 or 2) tell the right answer from annotated
    scores, yes and no hold the words of the answers, and weight the weight of the question. Any other file has one
    question in each line that is not blank.

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
    found = find_prompt_file(path, ".csv")
    if found.suffix != ".csv":
        lines = found.read_text(encoding="utf-8-sig").splitlines()
        questions = [Question(text=line.strip()) for line in lines if line.strip()]
    else:
        questions = _read_rows(found, str(path))
    if not questions:
        raise ValueError(f"{path}: expected at least one question")
    return tuple(questions)


def _read_rows(path: Path, name: str) -> list[Question]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        columns = set(rows.fieldnames or ())
        required = {"question", *(ABOUT if columns & set(ABOUT) else ())}
        if missing := required - columns:
            raise ValueError(
                f"{name}: expected the columns {', '.join(sorted(required))}; {', '.join(sorted(missing))} missing"
            )
        questions = []
        for row in rows:
            try:
                questions.append(_question(row))
            except ValueError as error:
                raise ValueError(f"{name}, line {rows.line_num}: {error}") from error
    return questions


def _question(row: dict[str, str]) -> Question:
    """Return the question of a row; an empty cell stands for the default."""
    cells = {name: cell for name, cell in row.items() if name and (cell or "").strip()}
    return Question(
        dimension=cells.get("dimension", ""),
        at_least=int(cells.get("at_least", 0)),
        text=cells.get("question", ""),
        weight=_finite(cells["weight"]) if "weight" in cells else None,
        yes=cells.get("yes", "yes"),
        no=cells.get("no", "no"),
    )


def _finite(cell: str) -> float:
    if not math.isfinite(number := float(cell)):
        raise ValueError(f"expected a finite weight, got {cell!r}")
    return number


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
