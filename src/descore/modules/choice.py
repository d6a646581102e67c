"""The pairwise baselines: both videos in one context, in both orders; they learn the choice, or a thought with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
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
from descore.types import Pair, PairBatch, Thought
from descore.video.settings import VideoSettings


class ChoiceModule(SupervisedSystem):
    """Trains a model that compares two videos in one context; each pair is read in both orders.

    Without thoughts the loss is the cross-entropy of the choice: pairs without a usable label are left out, and ties
    too if there is no tie among the outcomes. With thoughts it is that of every token of the thought about both videos,
    its verdict included: an order without such a thought is left out, whatever its label. Neither head nor query token
    is used.

    Args:
        backbone: Hub id or folder of a backbone, or "tiny", which ships with the package.
        template: Instruction: "pair", "pair_rendered" or "pair_rendered_think" of the package, or a text file with
            {prompt}, {video:1} and {video:2}, or {frames:1} and {frames:2}, in it.
        video: How a video is read: the same in all stages and in scoring.
        choice: Words of the outcomes, and the text that stands before them.
        thoughts: Whether the model learns to think first, from the thoughts about both videos (thought_a_first and
            thought_b_first of the table).
        max_thought_tokens: Length limit of a thought in tokens; a longer one is cut off.
        optimization: What trains, and how; query and head have no use here.
        own_thought_pairs: Validation pairs per table and rank for which a model that thinks writes its own thoughts,
            the headline.
        seed: Seed of the new head, which is not used.

    Raises:
        ValueError: If a model that thinks has no validation pairs to think about.
    """

    stage = "choice"

    def __init__(
        self,
        backbone: str = "tiny",
        template: str = "pair",
        video: VideoSettings = VideoSettings(),
        choice: ChoiceSettings = ChoiceSettings(),
        thoughts: bool = False,
        max_thought_tokens: int = 4096,
        optimization: Optimization = Optimization({"language": 1e-4}),
        own_thought_pairs: int = 64,
        seed: int = 0,
    ) -> None:
        if thoughts and own_thought_pairs < 1:
            raise ValueError(f"own_thought_pairs is {own_thought_pairs}; expected at least 1: they give the headline")
        settings = ModelSettings(
            backbone=backbone,
            template=PromptTemplate.read(template).text,
            video=video,
            max_thought_tokens=max_thought_tokens,
            reward_from="choice",
            thoughts=thoughts,
            choice=choice,
        )
        own = own_thought_pairs if thoughts else 0
        super().__init__(settings, optimization=optimization, own_thought_pairs=own, seed=seed)
        self.headline = "own_thought" if thoughts else "no_thought"

    def collator(self, *, training: bool, read: Read | None = None) -> Callable[[int, list[Pair]], PairBatch]:
        """Training has thoughts or outcomes as branches; what is only read needs the prefixes."""
        if training and not self.settings.thoughts:
            return ChoiceCollator(self.model.processor, read=read)
        return PairCollator(self.model.processor, thoughts=training, keep_frames=not training, read=read)

    def on_fit_start(self) -> None:
        """Check before the first step that there are thoughts to learn from."""
        pairs = self.trainer.datamodule.train_pairs  # type: ignore[attr-defined]
        if self.settings.thoughts and not any(any(pair.thoughts) for pair in pairs):
            raise ValueError(
                f"none of {len(pairs)} training pairs has a thought about both videos, and model.thoughts is true: "
                "give the table thought_a_first and thought_b_first, such as `descore reject` writes them, or "
                "rendered pairs data.render.labels.choice"
            )

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """Return the cross-entropy of the thoughts, or of the choice."""
        logprobs = self.model(batch.branches, with_logprobs=True).logprobs
        if self.settings.thoughts:
            return self._finish(self._mean(-logprobs, torch.ones_like(logprobs).bool()), batch)
        places = [TokenisedChoice(tuple(branch.token_ids for branch in branches)) for branches in batch.thoughts]
        return self._finish(choice_loss(logprobs, places, batch.preference[:, 0], self._mean), batch)

    def objective_options(self) -> Mapping[str, Any]:
        """Return whether the loss is that of thoughts."""
        return {"thoughts": self.settings.thoughts}

    def given_reader(self) -> GivenReader:
        """Read the choice in both orders."""
        return ChoiceReader(thoughts=self.settings.thoughts)


class ChoiceCollator(PairCollator):
    """Gives both contexts of every pair a branch for each outcome.

    Args:
        processor: How prompts and videos become inputs.
        read: Reads a video; by default `processor.read`.
    """

    def __init__(self, processor: Processor, *, read: Read | None = None) -> None:
        super().__init__(processor, read=read)
        choice = processor.settings.choice
        self.outcomes = branches_of([tokenise_choice(choice.lead, choice, processor.tokenizer)])

    def branches(self, pair: Pair, place: int, masked: bool) -> list[Thought]:
        """The outcomes, the same for every pair."""
        return self.outcomes
