"""The pairwise baseline: both videos in one context, and cross-entropy of the choice in both orders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from descore.inputs.choice import ChoiceSettings, TokenisedChoice, tokenise_choice
from descore.inputs.collate import PairCollator, Read
from descore.inputs.processor import Processor
from descore.inputs.prompts import PromptTemplate
from descore.inputs.settings import ModelSettings
from descore.modules.options import Optimization
from descore.modules.readings import ChoiceReader, GivenReader
from descore.modules.supervised import SupervisedSystem
from descore.objectives.choice import choice_loss
from descore.pairwise.reading import branches_of
from descore.types import Frames, Pair, PairBatch, Side, Thought
from descore.video.settings import VideoSettings


class ChoiceModule(SupervisedSystem):
    """Trains a model that compares two videos in one context, without a thought; each pair is read in both orders.

    Neither head nor query token is used. Pairs without a usable label are left out, and ties too if there is no tie
    among the outcomes.

    Args:
        backbone: Hub id or folder of a backbone, or "tiny", which ships with the package.
        template: Instruction: "pair" or "pair_rendered" of the package, or a text file with {prompt}, {video:1} and
            {video:2}, or {frames:1} and {frames:2}, in it.
        video: How a video is read: the same in all stages and in scoring.
        choice: Words of the outcomes, and the text that stands before them.
        optimization: What trains, and how; query and head have no use here.
        seed: Seed of the new head, which is not used.
    """

    stage = "choice"
    headline = "no_thought"

    def __init__(
        self,
        backbone: str = "tiny",
        template: str = "pair",
        video: VideoSettings = VideoSettings(),
        choice: ChoiceSettings = ChoiceSettings(),
        optimization: Optimization = Optimization({"language": 1e-4}),
        seed: int = 0,
    ) -> None:
        settings = ModelSettings(
            backbone=backbone,
            template=PromptTemplate.read(template).text,
            video=video,
            reward_from="choice",
            thoughts=False,
            choice=choice,
        )
        super().__init__(settings, optimization=optimization, seed=seed)

    def collator(self, *, training: bool, read: Read | None = None) -> Callable[[int, list[Pair]], PairBatch]:
        """Training has the outcomes as branches; what is only read needs the prefixes."""
        return ChoiceCollator(self.model.processor, keep_frames=not training, read=read)

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """Return the cross-entropy of the choice."""
        forward = self.model(batch.branches, with_logprobs=True)
        places = [TokenisedChoice(tuple(branch.token_ids for branch in branches)) for branches in batch.thoughts]
        return self._finish(choice_loss(forward.logprobs, places, batch.preference[:, 0], self._mean), batch)

    def objective_options(self) -> Mapping[str, Any]:
        """Return no options: the objective has none."""
        return {}

    def given_reader(self) -> GivenReader:
        """Read the choice in both orders."""
        return ChoiceReader()


class ChoiceCollator(PairCollator):
    """Gives every pair two prefixes, with A first and with B first, and each of them a branch for each outcome.

    The branches of "video A" of the batch are those with A first.

    Args:
        processor: How prompts and videos become inputs.
        keep_frames: Whether the batch keeps the frames of its videos, for logging.
        read: Reads a video; by default `processor.read`.
    """

    def __init__(self, processor: Processor, *, keep_frames: bool = False, read: Read | None = None) -> None:
        super().__init__(processor, keep_frames=keep_frames, read=read)
        choice = processor.settings.choice
        self.outcomes = branches_of([tokenise_choice(choice.lead, choice, processor.tokenizer)])

    def contexts(self, a: Frames, b: Frames) -> tuple[tuple[Frames, ...], tuple[Frames, ...]]:
        """Both videos in either context, in another order."""
        return (a, b), (b, a)

    def branches(self, side: Side, masked: bool) -> list[Thought]:
        """The outcomes, the same for every pair."""
        return self.outcomes
