"""The checklist baseline: answers to yes/no questions, learnt from annotated scores and weighed by preferences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.optim import AdamW

from descore.inputs.checklist import Question, ask, read_checklist
from descore.inputs.collate import PairCollator, Read
from descore.inputs.processor import Processor
from descore.inputs.prompts import PromptTemplate
from descore.inputs.settings import ModelSettings
from descore.model.reward_model import RewardModel
from descore.model.trainable import Part
from descore.modules.supervised import SupervisedSystem
from descore.modules.system import Schedule
from descore.objectives.checklist import answer_logprobs, fit_weights
from descore.runtime.sharding import gathered
from descore.thinking.readout import read_answers, weights_of
from descore.types import Pair, PairBatch, Side, Thought
from descore.video.settings import VideoSettings


class ChecklistModule(SupervisedSystem):
    """Trains the answers to a checklist, and fits their weights on training pairs before every validation.

    The right answers follow from the annotated dimension scores (scores_a and scores_b of the table); a dimension that
    a prompt does not ask for is not asked in training. Neither head nor query token is used.

    Args:
        backbone: Hub id or folder of a Qwen3-VL or Qwen2.5-VL, or "tiny", which ships with the package.
        template: Text file with the instruction; it has one {prompt} in it.
        checklist: CSV file of the questions, with the columns dimension, at_least and question: the answer is yes from
            a score of at_least, 1 or 2. Columns yes and no may say it in other words.
        fps: Frames sampled per second of video.
        min_frames: Fewest frames of a video.
        max_frames: Most frames of a video.
        min_pixels: Fewest pixels of a frame.
        max_pixels: Most pixels of a frame.
        fit_pairs: Training pairs, the first of the table, that the weights are fitted on.
        learning_rates: Learning rate by part: language, vision, merger, embedding. A part without one is frozen.
        lora_parts: Parts that train through LoRA instead of their own weights.
        lora_rank: Rank of the adapters.
        lora_alpha: Scale of the adapters, divided by the rank.
        optimizer: Optimizer; its learning rate is replaced by that of each part.
        schedule: Course of the learning rates after the warm-up.
        warmup: Share of the steps that warm up.
        gradient_checkpointing: Recompute activations in the backward pass, to save memory.
        frozen_dtype: Precision that frozen weights are kept in; bfloat16 goes with trainer.precision bf16-mixed.
        max_skipped: Steps in a row that may be skipped because loss or gradient is not finite.
        seed: Of what is drawn.
    """

    stage = "checklist"
    headline = "no_thought"

    def __init__(
        self,
        backbone: str = "tiny",
        template: str = "conf/prompts/descore.txt",
        checklist: str = "conf/prompts/checklist.csv",
        fps: float = 2.0,
        min_frames: int = 4,
        max_frames: int = 60,
        min_pixels: int = 4096,
        max_pixels: int = 200_704,
        fit_pairs: int = 256,
        learning_rates: dict[Part, float] | None = None,
        lora_parts: list[Part] | None = None,
        lora_rank: int = 64,
        lora_alpha: int = 128,
        optimizer: OptimizerCallable = AdamW,
        schedule: Schedule = "constant_with_warmup",
        warmup: float = 0.05,
        gradient_checkpointing: bool = False,
        frozen_dtype: Literal["float32", "bfloat16"] = "float32",
        max_skipped: int = 10,
        seed: int = 0,
    ) -> None:
        settings = ModelSettings(
            backbone=backbone,
            template=PromptTemplate.read(template).text,
            video=VideoSettings(fps, min_frames, max_frames, min_pixels, max_pixels),
            reward_from="checklist",
            thoughts=False,
            checklist=read_checklist(checklist),
        )
        super().__init__(
            partial(RewardModel.create, settings, seed=seed),
            learning_rates=learning_rates or {"language": 1e-4},
            lora_parts=lora_parts or [],
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            optimizer=optimizer,
            schedule=schedule,
            warmup=warmup,
            gradient_checkpointing=gradient_checkpointing,
            frozen_dtype=frozen_dtype,
            own_thought_pairs=0,
            max_skipped=max_skipped,
            seed=seed,
        )
        self.save_hyperparameters(ignore=["optimizer"])
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
        """Language-model loss on the answers, each of all questions that are asked of all videos weighing the same."""
        forward = self.model(batch.branches, with_logprobs=True)
        answered = [branch for branches in batch.thoughts for branch in branches]
        answers = answer_logprobs(forward.logprobs, answered)
        return self._finish(self._mean(-answers, torch.ones_like(answers).bool()), batch)

    def loss_options(self) -> Mapping[str, Any]:
        """There is nothing to choose."""
        return {}

    def on_validation_start(self) -> None:
        """Fit the weights, then count with them."""
        super().on_validation_start()
        self.fit_checklist()

    def on_train_epoch_end(self) -> None:
        """Fit the weights for the export at the end."""
        with gathered(self.model):
            self.fit_checklist()

    @torch.no_grad()
    def fit_checklist(self) -> None:
        """Answer the checklist for some training pairs, and fit its weights to their preferences; once a step."""
        if self._fitted_at == self.global_step:
            return
        training = self.model.training
        self.model.eval()
        differences, preferences = [], []
        for batch in self.trainer.datamodule.fitting_dataloader(self.fit_pairs):  # type: ignore[attr-defined]
            answer_a, answer_b = read_answers(self.model, batch.branches.to(self.device)).chunk(2)
            differences.append((answer_a - answer_b).cpu())
            preferences.append(batch.preference[:, 0].cpu())
        self.model.train(training)
        self._set_weights(fit_weights(torch.cat(differences), torch.cat(preferences)).tolist())
        self._fitted_at = self.global_step

    def whole_model(self) -> RewardModel | None:
        """As in `RewardSystem`; a copy has the weights too."""
        model = super().whole_model()
        if model is not None:
            model.processor.settings = self.model.settings
        return model

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the weights, as they were fitted last."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["checklist_weights"] = weights_of(self.model.settings.checklist).tolist()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with them."""
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
        self.asked = [(one, ask(one, processor.tokenizer)) for one in processor.settings.checklist]

    def branches(self, side: Side, masked: bool) -> list[Thought]:
        """The questions that have an answer for this video, answered."""
        assert side.scores is not None  # `on_fit_start` has seen to it
        answers: list[tuple[Question, Any, bool | None]] = [(q, a, q.truth(side.scores)) for q, a in self.asked]
        return [
            Thought((*asked.token_ids, asked.yes if truth else asked.no))
            for _, asked, truth in answers
            if truth is not None
        ]
