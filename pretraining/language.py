"""The courses in language: comparing in text alone, and then everything about videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from data_modules.world.scene import draw_request_about, draw_scene
from data_modules.world.wording import write_prompt
from descore.seeding import fold
from descore.types import Branches, Prefix
from pretraining import lessons
from pretraining.course import CourseModule
from pretraining.perception import tower_of
from pretraining.recipe import Course
from pretraining.videos import Videos, numbers_of

REQUESTS = 2
"""Requests about each video of a step: the vision tower runs once for all of them."""


class Taught(NamedTuple):
    """A packed row of lessons.

    Attributes:
        branches: Prefix of each request, and its lessons.
        weights: Weight of each predicted token.
        videos: The videos, each once; None in text alone.
        owner: Index of the video of each request.
    """

    branches: Branches
    weights: Tensor  # [M] float32
    videos: Branches | None = None
    owner: tuple[int, ...] = ()


class LanguageModule(CourseModule):
    """Trains the language model on text alone: what is expected, and how it compares with what is said to be shown.

    Args:
        backbone: Folder of the backbone.
        course: Numbers of the course.
        seed: Seed of all that is drawn.
    """

    def __init__(self, backbone: str, course: Course, seed: int) -> None:
        super().__init__(backbone, course, seed)
        self.model.head.requires_grad_(False)
        self.model.base.model.visual.requires_grad_(False)

    def maker(self, rank: int) -> Callable[[int], Taught]:
        """Return what draws the requests of a step."""
        return lambda step: self._text(np.random.default_rng(fold(self.seed + 1000 * rank, "text", str(step))))

    def _text(self, rng: np.random.Generator) -> Taught:
        processor, prefixes, taught = self.model.processor, [], []
        for _ in range(self.course.videos):
            shown = draw_scene(rng)
            request = draw_request_about(rng, shown, lessons.OMISSION, lessons.CORRUPTION)
            prefixes.append(self._text_prefix(write_prompt(request, "pretraining", rng)))
            taught.append([lessons.thought(processor, request, shown, blind=True)])
        return self._pack(prefixes, taught)

    def _text_prefix(self, prompt: str) -> Prefix:
        """Build what stands before a thought, without a video."""
        processor = self.model.processor
        messages = processor.template.messages(prompt)
        text = processor.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = torch.tensor(
            processor.tokenizer.encode(text.replace(processor.family.medium.text, ""), add_special_tokens=False)
        )
        positions = torch.arange(len(ids)).expand(3, -1)
        return Prefix(ids, positions, torch.empty(0, 1, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))

    def _pack(self, prefixes: Sequence[Prefix], taught: Sequence[Sequence[lessons.Lesson]], **videos: Any) -> Taught:
        branches = self.model.processor.pack(prefixes, [[one.thought for one in each] for each in taught])
        return Taught(branches, torch.tensor(lessons.flat(taught), dtype=torch.float32), **videos)

    def transfer_batch_to_device(self, batch: Taught, device: torch.device, dataloader_idx: int) -> Taught:
        """Move what is a tensor."""
        videos = batch.videos and batch.videos.to(device)
        return Taught(batch.branches.to(device), batch.weights.to(device), videos, batch.owner)

    def hidden(self, batch: Taught) -> Tensor:
        """Return the last hidden states of the row, `[T, hidden]`."""
        branches = batch.branches
        output = self.model.base.model(
            input_ids=branches.input_ids,
            position_ids=branches.position_ids,
            attention_mask=torch.empty(1, 1, 1, 0, device=branches.input_ids.device),
            use_cache=False,
            layout=branches.layout,
        )
        return output.last_hidden_state[0]  # type: ignore[no-any-return]

    def training_step(self, batch: Taught, batch_idx: int) -> Tensor:
        """Average the cross entropy of the predicted tokens by their weights."""
        logits = self.model.next_logits(self.hidden(batch)[batch.branches.source_index])
        losses = nn.functional.cross_entropy(logits, batch.branches.target_ids, reduction="none")
        return self.log_loss("loss", losses @ batch.weights / batch.weights.sum())


class TogetherModule(LanguageModule):
    """Trains the whole model on all lessons about videos.

    Args:
        backbone: Folder of the backbone.
        course: Numbers of the course.
        seed: Seed of all that is drawn.
        tower: Checkpoint of the course in perception.
        language: Checkpoint of the course in text alone.
    """

    def __init__(self, backbone: str, course: Course, seed: int, *, tower: Path, language: Path) -> None:
        super().__init__(backbone, course, seed)
        self.load_state_dict(torch.load(language, map_location="cpu", weights_only=True)["state_dict"])
        self.model.base.model.visual.load_state_dict(tower_of(tower))
        self.model.base.model.visual.requires_grad_(True)

    def maker(self, rank: int) -> Callable[[int], Taught]:
        """Return what draws the videos and the lessons of a step."""
        seed = self.seed + 1000 * rank + 500
        videos = Videos(self.model.processor.video_reader, seed=seed, kept=self.course.kept)

        def make(step: int) -> Taught:
            rng = np.random.default_rng(fold(seed, "lessons", str(step)))
            return self._lessons([videos[number] for number in numbers_of(step, self.course, seed)], rng)

        return make

    def _lessons(self, videos: Sequence[tuple[Any, Any]], rng: np.random.Generator) -> Taught:
        processor, prefixes, taught, owner = self.model.processor, [], [], []
        for index, (shown, frames) in enumerate(videos):
            for prompt, each in lessons.draw_lessons(processor, shown, rng, REQUESTS):
                prefixes.append(processor.prefix(prompt, frames))
                taught.append(each)
                owner.append(index)
        once = [prefixes[owner.index(index)] for index in range(len(videos))]
        return self._pack(prefixes, taught, videos=processor.pack(once, [()] * len(once)), owner=tuple(owner))

    def hidden(self, batch: Taught) -> Tensor:
        """Return the last hidden states of the row, `[T, hidden]`; each video is seen once."""
        assert batch.videos is not None
        seen = self.model.see(batch.videos)
        return self.model.hidden(batch.branches, seen=[seen[index] for index in batch.owner])
