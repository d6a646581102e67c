"""Settings that both stages and scoring share: how videos and prompts are read, and where the reward comes from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from descore.frame_tool.settings import FrameTool
from descore.heads.settings import HeadSettings
from descore.inputs.answers import AnswerSettings
from descore.inputs.checklist import ProbeSettings, Question
from descore.inputs.choice import ChoiceSettings
from descore.inputs.prompts import PromptTemplate, Query
from descore.inputs.typed_json import typed
from descore.video.settings import VideoSettings

Dtype = Literal["float32", "bfloat16"]
"""Precision of a backbone's weights in scoring; the head is always float32."""

RewardSource = Literal["head", "overall_score", "expected_score", "top_share", "checklist", "choice", "said_choice"]
FromThought = Literal["overall_score", "expected_score", "top_share"]
MAX_TOKENS = 2**20
"""Largest length limit of a prompt or a thought, in tokens."""
FROM_THOUGHT: tuple[RewardSource, ...] = get_args(FromThought)
"""Reward sources that read the answer in the text of the thought."""
FROM_DIGITS: tuple[RewardSource, ...] = ("expected_score", "top_share")
"""Those that read the model's probabilities of the digits that the answer might have said."""
WITH_TOOL: tuple[RewardSource, ...] = ("head", "overall_score")
"""Sources of a model that asks for frames: what is read once it has ended its last turn."""
PAIRWISE: tuple[RewardSource, ...] = ("choice", "said_choice")
"""Sources of a model that compares two videos in one context: it gives probabilities, and no reward."""


@dataclass(frozen=True)
class ThoughtReading:
    """A reward that is read from the answer of a thought.

    Attributes:
        source: What is read: "overall_score", what the answer says; "expected_score", the expectation over the digits
            that it might have said; "top_share", the likeliest digit times its probability.
        answer: What the answer says, and where.
    """

    source: FromThought = "overall_score"
    answer: AnswerSettings = field(default_factory=AnswerSettings)


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Inputs and rewards of a reward model; stored in the exported folder.

    Attributes:
        backbone: Hub id or folder of the backbone, or "tiny".
        template: Text of the instruction, see `PromptTemplate`.
        video: Frame rate, number of frames and pixel budget.
        reward_names: Names of the rewards, one for each reward dimension.
        head: Form of the head, and the query tokens that it reads.
        max_thought_tokens: Largest number of tokens of a thought; a longer thought is cut.
        max_prompt_tokens: Length limit of a prompt in tokens; a longer one is refused.
        reward_from: Source of the reward: "head", from the hidden state of the query token; "overall_score", what the
            answer of the thought says; "expected_score", the mean of what it might have said, under the model's
            probabilities of the digit; "top_share", the likeliest digit times its probability; "checklist", weighted
            answers to yes/no questions. Of a model that compares two videos: "choice", the model's probabilities of the
            outcomes at the place of its choice; "said_choice", the outcome that the thought says.
        thoughts: Whether the model is trained with thoughts; without, it never samples one.
        checklist: Questions with their weights, for the source "checklist".
        probes: What an answer to a question of the checklist counts.
        answer: What the answer of a thought says, and where, for the sources that read it.
        choice: Words of the outcomes of a comparison, for the sources "choice" and "said_choice".
        tool: Tool by which the model asks for frames that it has not seen; None shows it all frames at once.

    Raises:
        ValueError: If a value is unknown, the names of the rewards are missing or equal, or the source of the reward
            does not fit the other settings.

    >>> from dataclasses import replace
    >>> settings = ModelSettings("tiny", "Does it show {prompt}?", reward_names=("motion", "style"))
    >>> settings.query_tokens
    ('<Reward>',)
    >>> replace(settings, head=HeadSettings(query="each")).query_tokens
    ('<Reward_motion>', '<Reward_style>')
    >>> ModelSettings.from_json(settings.to_json()) == settings
    True
    """

    backbone: str
    template: str
    video: VideoSettings = field(default_factory=VideoSettings)
    reward_names: tuple[str, ...] = ("overall",)
    head: HeadSettings = field(default_factory=HeadSettings)
    max_thought_tokens: int = 4096
    max_prompt_tokens: int = 2048
    reward_from: RewardSource = "head"
    thoughts: bool = True
    checklist: tuple[Question, ...] = ()
    probes: ProbeSettings = field(default_factory=ProbeSettings)
    answer: AnswerSettings = field(default_factory=AnswerSettings)
    choice: ChoiceSettings = field(default_factory=ChoiceSettings)
    tool: FrameTool | None = None

    def __post_init__(self) -> None:
        for name in ("max_thought_tokens", "max_prompt_tokens"):
            limit = getattr(self, name)
            if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= MAX_TOKENS:
                raise ValueError(f"expected a whole number from 1 to {MAX_TOKENS} for {name}, got {limit!r}")
        if self.reward_from not in get_args(RewardSource):
            raise ValueError(
                f"expected reward_from among {', '.join(get_args(RewardSource))}; got {self.reward_from!r}"
            )
        if not self.reward_names or len(set(self.reward_names)) < len(self.reward_names):
            raise ValueError(f"expected one or more different reward_names, got {self.reward_names!r}")
        template = PromptTemplate(self.template)
        if (template.num_videos == 2) != self.is_pairwise:
            expected = "{video:1} and {video:2}" if self.is_pairwise else "one {video}"
            raise ValueError(
                f"reward_from {self.reward_from!r} needs a template with {expected}; it has {template.num_videos}. "
                f"A template with two videos goes with reward_from {' or '.join(PAIRWISE)}"
            )
        places = template.queries
        if places and sorted(places) != sorted(self.query_tokens):
            raise ValueError(
                f"the template has the query tokens {', '.join(places)}; expected each of "
                f"{', '.join(self.query_tokens) or 'none, since head.query is last'}, or none"
            )
        if self.reward_from != "head":
            self._check_source()
        if self.tool is not None:
            self._check_tool()

    @property
    def is_pairwise(self) -> bool:
        """Whether the model compares two videos in one context, instead of scoring one."""
        return self.reward_from in PAIRWISE

    @property
    def query_tokens(self) -> tuple[str, ...]:
        """Query tokens that the head reads, in the order of its states; none if it reads the last token."""
        if self.head.query == "last":
            return ()
        names = ("",) if self.head.query == "shared" else self.reward_names
        return tuple(Query(name).token for name in names)

    @staticmethod
    def upgrade(values: dict[str, Any]) -> dict[str, Any]:
        """Return the values of an export, in which an older one has `query` beside what is now `head`."""
        if "query" not in values or "head" in values:
            return values
        return {name: value for name, value in values.items() if name != "query"} | {"head": {"query": values["query"]}}

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ModelSettings:
        """Build settings from the output of `to_json`.

        Raises:
            ValueError: If a name or a type is another one, or a value is out of its range.
        """
        return typed(cls, values, "settings")

    def check_answer(self, source: RewardSource) -> None:
        """Check that the answer of a thought gives the rewards of this model.

        Args:
            source: One of `FROM_THOUGHT`.

        Raises:
            ValueError: If the fields are not those of the rewards, or the source reads digits that no field says.
        """
        names, answer = self.reward_names, self.answer
        if len(names) > 1 and tuple(answer.fields) != names:
            raise ValueError(
                f"reward_from {source!r} gives one reward, or several if answer.fields are named like them; got "
                f"reward_names {', '.join(names)} and the fields {', '.join(answer.fields) or 'none'}"
            )
        if answer.absent and (len(names) > 1 or source in FROM_DIGITS):
            raise ValueError(
                f"answer.absent leaves {answer.absent!r} out of a mean or a sum; expected one reward name and "
                f"'overall_score', got {', '.join(names)} and {source!r}"
            )
        if source in FROM_DIGITS and (answer.words or not answer.digits):
            said = "words" if answer.words else f"numbers from {answer.lowest:g} to {answer.highest:g}"
            raise ValueError(
                f"reward_from {source!r} reads the digit that a number begins with, but the answer says {said}; "
                "expected 'overall_score'"
            )

    def _check_source(self) -> None:
        if self.reward_from in FROM_THOUGHT:
            self.check_answer(self.reward_from)
            if not self.thoughts:
                raise ValueError(f"reward_from {self.reward_from!r} reads a thought: set thoughts to true")
        elif len(self.reward_names) > 1:
            raise ValueError(
                f"reward_from {self.reward_from!r} gives one reward, got reward_names {self.reward_names!r}"
            )
        elif self.is_pairwise:
            self._check_choice()
        elif not self.checklist:
            raise ValueError("reward_from 'checklist' requires questions, got an empty checklist")
        elif self.probes.nonnegative and (below := [one for one in self.checklist if (one.weight or 0.0) < 0]):
            raise ValueError(f"probes.nonnegative is true, and {below[0].text!r} has the weight {below[0].weight:g}")

    def _check_tool(self) -> None:
        if not self.thoughts:
            raise ValueError("a tool is called in a thought: set thoughts to true")
        if self.reward_from not in WITH_TOOL:
            raise ValueError(f"reward_from is {self.reward_from!r}; with a tool, expected {' or '.join(WITH_TOOL)}")
        if PromptTemplate(self.template).queries:
            raise ValueError("the template has a query, which would not see the frames that a tool shows: leave it out")

    def _check_choice(self) -> None:
        if self.reward_from == "said_choice" and not self.thoughts:
            raise ValueError("reward_from 'said_choice' reads a thought: set thoughts to true")
        if self.thoughts and not self.choice.lead:
            raise ValueError("choice.lead is empty; expected the text after which a thought has its choice")
