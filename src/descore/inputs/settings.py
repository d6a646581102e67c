"""The one setting that all stages and inference share: how a video and a prompt are read, and what is rewarded."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from descore.inputs.checklist import Question
from descore.video.settings import VideoSettings

QueryMode = Literal["shared", "each"]
RewardSource = Literal["head", "overall_score", "expected_score", "checklist"]
SAID: tuple[RewardSource, ...] = ("overall_score", "expected_score")
"""The rewards that are read of the thought itself."""


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What a reward model reads and what it gives; it travels in the exported folder.

    Attributes:
        backbone: Hub id or folder of the backbone, or "tiny".
        template: The instruction, with one `{prompt}` in it.
        video: Frame rate, number of frames and pixel budget.
        reward_names: Names of the rewards that the head gives.
        query: "shared" reads all rewards from one `<Reward>`; "each" gives every reward a query token of its own.
        max_thought_tokens: A longer thought is cut there.
        reward_from: What gives the reward of a video: "head", which reads the query token; "overall_score", what the
            thought says; "expected_score", the mean of what it might have said; "checklist", weighted answers to
            yes/no questions.
        thoughts: Whether the model was trained to think; one that was not never does.
        checklist: The questions whose answers give the reward, with their weights; for "checklist" only.
    """

    backbone: str
    template: str
    video: VideoSettings = field(default_factory=VideoSettings)
    reward_names: tuple[str, ...] = ("overall",)
    query: QueryMode = "shared"
    max_thought_tokens: int = 4096
    reward_from: RewardSource = "head"
    thoughts: bool = True
    checklist: tuple[Question, ...] = ()

    def __post_init__(self) -> None:
        if self.query not in get_args(QueryMode):
            raise ValueError(f"query is {self.query!r}; expected one of {get_args(QueryMode)}")
        if self.reward_from not in get_args(RewardSource):
            raise ValueError(f"reward_from is {self.reward_from!r}; expected one of {get_args(RewardSource)}")
        if not self.reward_names or len(set(self.reward_names)) < len(self.reward_names):
            raise ValueError(f"reward_names are {self.reward_names!r}; expected one or more different names")
        if self.reward_from != "head":
            self._check_source()

    @property
    def query_tokens(self) -> tuple[str, ...]:
        """The query tokens, in the order they end a branch."""
        if self.query == "shared":
            return ("<Reward>",)
        return tuple(f"<Reward_{name}>" for name in self.reward_names)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ModelSettings:
        """Read what `to_json` gave."""
        video = VideoSettings(**values["video"])
        checklist = tuple(Question(**question) for question in values.get("checklist", ()))
        return cls(**{**values, "video": video, "reward_names": tuple(values["reward_names"]), "checklist": checklist})

    def _check_source(self) -> None:
        if len(self.reward_names) > 1:
            raise ValueError(f"reward_from {self.reward_from!r} gives one reward; got the names {self.reward_names!r}")
        if self.reward_from == "checklist" and not self.checklist:
            raise ValueError("reward_from is 'checklist', and there is none: give the questions")
        if self.reward_from in SAID and not self.thoughts:
            raise ValueError(f"reward_from {self.reward_from!r} is said in a thought: set thoughts to true")
