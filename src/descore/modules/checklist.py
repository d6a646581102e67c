"""The checklist baseline: answers to yes/no questions, learnt from annotated scores and weighted by preferences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from descore.inputs.checklist import ProbeSettings, Question, read_checklist, tokenise_question
from descore.inputs.collate import PairCollator, Read
from descore.inputs.processor import Processor
from descore.inputs.prompts import PromptTemplate
from descore.inputs.settings import ModelSettings
from descore.model.reward_model import RewardModel
from descore.modules.options import Optimization
from descore.modules.readings import ChecklistReader, GivenReader
from descore.modules.supervised import SupervisedSystem
from descore.objectives.checklist import checklist_loss, fit_weights
from descore.thinking.readout import count_answers, read_answers, weights_of
from descore.types import Pair, PairBatch, Thought
from descore.video.settings import VideoSettings


class ChecklistModule(SupervisedSystem):
    """Trains the answers to a checklist, and fits their weights on training pairs before every validation.

    The right answers follow from the annotated dimension scores (scores_a and scores_b of the table); a dimension that
    a prompt does not ask for is not asked in training. Neither head nor query token is used.

    Args:
        backbone: Hub id or folder of a backbone, or "tiny", which ships with the package.
        template: Instruction: "descore" or "rendered" of the package, or a text file with one {prompt} in it.
        video: How a video is read: the same in all stages and in scoring.
        checklist: Questions: "checklist" or "checklist_rendered" of the package, or a CSV file with the columns
            dimension, at_least and question: the answer is yes from a score of at_least, 1 or 2. Columns yes and no may
            say it in other words. A question without a dimension is not trained, only asked and weighted.
        probes: What an answer counts, and how the weights are fitted.
        fit_pairs: Number of training pairs, the first of the table, that the weights are fitted on.
        optimization: What trains, and how; query and head have no use here.
        seed: Seed of the new head, which is not used.
    """

    stage = "checklist"
    headline = "no_thought"

    def __init__(
        self,
        backbone: str = "tiny",
        template: str = "descore",
        video: VideoSettings = VideoSettings(),
        checklist: str = "checklist",
        probes: ProbeSettings = ProbeSettings(),
        fit_pairs: int = 256,
        optimization: Optimization = Optimization({"language": 1e-4}),
        seed: int = 0,
    ) -> None:
        settings = ModelSettings(
            backbone=backbone,
            template=PromptTemplate.read(template).text,
            video=video,
            reward_from="checklist",
            thoughts=False,
            checklist=read_checklist(checklist),
            probes=probes,
        )
        if not any(question.dimension for question in settings.checklist):
            raise ValueError(
                f"{checklist}: no question has a dimension, and training learns from annotated scores; give the "
                "columns dimension and at_least, or score without training (docs/baselines.md)"
            )
        super().__init__(settings, optimization=optimization, seed=seed)
        self.fit_pairs = fit_pairs
        self._fitted_at = -1

    def collator(self, *, training: bool, read: Read | None = None) -> Callable[[int, list[Pair]], PairBatch]:
        """Training asks and answers; what is only read needs the prefixes."""
        if training:
            return AnsweredCollator(self.model.processor, read=read)
        return PairCollator(self.model.processor, thoughts=False, keep_frames=True, read=read)

    def on_fit_start(self) -> None:
        """Check before the first step that every question has its answer."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        num_ungraded, names = data.ungraded()
        if num_ungraded:
            raise ValueError(
                f"a checklist is answered from the annotated scores of both videos, and {num_ungraded} of "
                f"{len(data.train_pairs)} training pairs lack them, such as {', '.join(names)}: give the table "
                "scores_a and scores_b"
            )

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """Return the language-model loss on the answers."""
        forward = self.model(batch.branches, with_logprobs=True)
        answered = [branch for branches in batch.thoughts for branch in branches]
        return self._finish(checklist_loss(forward.logprobs, answered, self._mean), batch)

    def objective_options(self) -> Mapping[str, Any]:
        """Return no options: the objective has none."""
        return {}

    def given_reader(self) -> GivenReader:
        """Read the checklist."""
        return ChecklistReader()

    def on_validation_start(self) -> None:
        """Fit the weights, then validate with them."""
        super().on_validation_start()
        self.fit_checklist()

    def on_train_epoch_end(self) -> None:
        """Fit the weights for the export at the end."""
        with self.sharding.gathered():
            self.fit_checklist()

    @torch.no_grad()
    def fit_checklist(self) -> None:
        """Answer the checklist for some training pairs, and fit its weights to their preferences; once a step."""
        if self._fitted_at == self.global_step:
            return
        training = self.model.training
        self.model.eval()
        differences, preferences = [], []
        probes = self.model.settings.probes
        for batch in self.trainer.datamodule.fitting_dataloader(self.fit_pairs):  # type: ignore[attr-defined]
            answers = read_answers(self.model, batch.branches.to(self.device))
            answer_a, answer_b = count_answers(answers, probes).chunk(2)
            differences.append((answer_a - answer_b).cpu())
            preferences.append(batch.preference[:, 0].cpu())
        self.model.train(training)
        fitted = fit_weights(torch.cat(differences), torch.cat(preferences), nonnegative=probes.nonnegative)
        self._set_weights(fitted.tolist())
        self._fitted_at = self.global_step

    def full_model(self) -> RewardModel | None:
        """Return the model with its full weights; a copy has the weights of the checklist too."""
        model = super().full_model()
        if model is not None:
            model.processor.settings = self.model.settings
        return model

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the weights of the last fit."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["checklist_weights"] = weights_of(self.model.settings.checklist).tolist()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the weights of the last fit."""
        super().on_load_checkpoint(checkpoint)
        self._set_weights(checkpoint["checklist_weights"])

    def _set_weights(self, weights: list[float]) -> None:
        settings = self.model.settings
        fitted = [None if weight != weight else weight for weight in weights]
        questions = tuple(replace(one, weight=weight) for one, weight in zip(settings.checklist, fitted, strict=True))
        self.model.processor.settings = replace(settings, checklist=questions)


class AnsweredCollator(PairCollator):
    """Gives every video one branch for each question that its prompt asks for: the question and its right answer.

    Args:
        processor: How prompts and videos become inputs.
        read: Reads a video; by default `processor.read`.
    """

    def __init__(self, processor: Processor, *, read: Read | None = None) -> None:
        super().__init__(processor, read=read)
        self.asked = [(one, tokenise_question(one, processor.tokenizer)) for one in processor.settings.checklist]

    def branches(self, pair: Pair, place: int, masked: bool) -> list[Thought]:
        """The questions that have an answer for this video, answered."""
        scores = (pair.a, pair.b)[place].scores
        assert scores is not None  # `on_fit_start` has seen to it
        answers: list[tuple[Question, Any, bool | None]] = [(q, a, q.right_answer(scores)) for q, a in self.asked]
        return [
            Thought((*asked.token_ids, asked.yes if truth else asked.no))
            for _, asked, truth in answers
            if truth is not None
        ]
