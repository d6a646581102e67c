"""The scorer: videos and prompts in, score records out. A failed video gets its reason and never stops the others."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from descore.answer import Answer, AnswerError, parse_answer
from descore.inputs.answers import said_values
from descore.inputs.settings import Dtype, RewardSource
from descore.model.description import RewardStatistics, describe
from descore.model.finished import find_export
from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.scoring.asked import Several, in_order, list_asked
from descore.scoring.placing import choose_batch_tokens, choose_device, choose_dtype
from descore.scoring.protocol import check_count, sampling_of
from descore.scoring.reading import Item, ItemReader
from descore.scoring.score import Score
from descore.thinking.readout import Readout, choose_source, read_rewards
from descore.thinking.think import think
from descore.types import Group, Thought


class Scorer:
    """Scores videos with an exported model.

    Args:
        path: Exported folder, a run, or an id on the hub.
        device: Device to run on, such as "cpu" or "cuda:0"; the GPU if there is one, or else the CPU, if not given.
        dtype: Precision of the backbone, "float32" or "bfloat16"; bfloat16 on a GPU and float32 on a CPU if not given.
            The head is float32.
        thoughts: Whether the model thinks before it scores. Without thoughts scoring is faster, and the record has no
            thought and no dimension scores. A model that was trained without thoughts never thinks.
        max_batch_tokens: Number of tokens scored together, those of the thoughts included; as many as the memory of
            the device is for if not given. A batch that does not fit all the same is divided.
        reward_from: Source of the reward, if not the one that the model was trained for: "overall_score",
            "expected_score" or "top_share" reads it from the answer of any model that thinks.
        backbone: Hub id or folder of an adapter's backbone, if it is not where the exported folder says.

    Raises:
        ExportError: If the exported folder cannot be loaded.
        ReadoutError: If the model cannot give that reward.
        ScoringError: If the device is not there, or an option is out of its range.

    Example:
        scorer = Scorer("runs/stage1")
        (score,) = scorer.score("a.mp4", "A red circle moves left.")
        print(score.reward, score.dimension_scores, score.thought)
        scores = scorer.score([frames, other_frames], prompt, fps=8)  # arrays or tensors in memory
    """

    def __init__(
        self,
        path: str,
        *,
        device: str | None = None,
        dtype: Dtype | None = None,
        thoughts: bool = True,
        max_batch_tokens: int | None = None,
        reward_from: RewardSource | None = None,
        backbone: str | None = None,
    ) -> None:
        check_count("number of tokens in a batch", max_batch_tokens)
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device)
        path = str(find_export(path))
        self.calibration = describe(path, backbone).calibration
        self.model = RewardModel.from_pretrained(path, backbone=backbone)
        self.model.network.to(getattr(torch, self.dtype))
        self.model.to(self.device)
        self.thoughts = thoughts and self.model.settings.thoughts
        self.reward_from = choose_source(self.model.settings, reward_from, thoughts=self.thoughts)
        config = self.model.base.config.get_text_config()
        self.max_batch_tokens = max_batch_tokens or choose_batch_tokens(config, self.device, self.dtype)
        self.reader = ItemReader(self.model.processor, thoughts=self.thoughts)
        self._one_at_a_time = Lock()

    def score(
        self,
        videos: Several,
        prompts: str | Iterable[str],
        *,
        num_thoughts: int = 1,
        thought: str | Iterable[str] | None = None,
        temperature: float | None = None,
        fps: float | None = None,
    ) -> list[Score]:
        """Score videos, each against its prompt.

        Args:
            videos: One video, or several, of any kinds: the path of a video file; the bytes of one; frames as an array
                or a tensor, [T, 3, H, W] or [T, H, W, 3], in uint8 or in numbers from 0 to 1; a list of PIL images; or
                the path of a folder of pictures.
            prompts: Prompt of each video, or one prompt for all of them.
            num_thoughts: Number of thoughts per video; the reward is the mean over them.
            thought: Thought to score each video with, or one for all of them, instead of the model's own; "" scores
                without one.
            temperature: Sampling temperature of the thoughts; 0 (greedy) for one thought, 1 for several if not given.
            fps: Frame rate of videos that are given as frames, in frames per second.

        Returns:
            One record per video, in the order of the videos. A video that fails, or whose prompt cannot be used, has
            reward nan and an error; it never stops the others.

        Raises:
            ScoringError: If the numbers of videos and prompts differ, or an option is out of its range.
            TypeError: If the videos or the prompts are neither one nor a list.
        """
        options = {"num_thoughts": num_thoughts, "thought": thought, "temperature": temperature, "fps": fps}
        return list(self.stream(videos, prompts, **options))  # type: ignore[arg-type]

    async def score_async(self, videos: Several, prompts: str | Iterable[str], **options: Any) -> list[Score]:
        """Score videos in another thread, as `score` does, while the event loop goes on."""
        return await asyncio.to_thread(partial(self.score, videos, prompts, **options))

    def stream(
        self,
        videos: Several,
        prompts: str | Iterable[str],
        *,
        num_thoughts: int = 1,
        thought: str | Iterable[str] | None = None,
        temperature: float | None = None,
        fps: float | None = None,
        batches: Sequence[int] | None = None,
    ) -> Iterator[Score]:
        """Score videos batch by batch, and yield each record as soon as its batch is done.

        Videos are read while others are scored. A video that is given several times with one prompt is scored once. A
        reward does not depend on what is scored together with it, but for rounding errors.

        Args:
            videos: See `score`, also for the other arguments.
            prompts: See `score`.
            num_thoughts: See `score`.
            thought: See `score`.
            temperature: See `score`.
            fps: See `score`.
            batches: Number of different videos of each batch, one after the other; formed by `max_batch_tokens` if not
                given.

        Yields:
            One record per video, in the order of the videos. A video that fails has reward nan and an error.

        Raises:
            ScoringError, TypeError: See `score`.
        """
        asked, order = list_asked(videos, prompts, thought)
        thinks = self.thoughts and thought is None
        sampling = sampling_of(num_thoughts, temperature, thoughts=thinks)
        items = self.reader.read_ahead(asked, fps)
        groups = self._by_tokens(items, sampling) if batches is None else (list(islice(items, n)) for n in batches)
        scores = (score for group in groups for score in self.score_batch(group, sampling))
        return in_order(scores, order)

    def _by_tokens(self, items: Iterable[Item], sampling: Sampling) -> Iterator[list[Item]]:
        """Group items in their order, each group within the number of tokens of a batch, but for a single item."""
        group: list[Item] = []
        size = 0
        for item in items:
            tokens = self.num_tokens(item, sampling)
            if group and size + tokens > self.max_batch_tokens:
                yield group
                group, size = [], 0
            group.append(item)
            size += tokens
        if group:
            yield group

    def num_tokens(self, item: Item, sampling: Sampling) -> int:
        """Count the tokens that an item of the reader takes in a batch; thoughts count at their longest."""
        if item.prefix is None:
            return 0
        thought = self.model.settings.max_thought_tokens if item.thought is None else len(item.thought.token_ids)
        return len(item.prefix.input_ids) + sampling.num_thoughts * (thought + len(self.model.processor.appended_ids))

    def score_batch(self, items: Sequence[Item], sampling: Sampling) -> Iterator[Score]:
        """Score items of the reader together: all with a given thought, or none; yield a record for each."""
        usable = [item for item in items if item.prefix is not None]
        with self._one_at_a_time:
            records = iter(self._score_apart(usable, sampling) if usable else [])
        for item in items:
            yield next(records) if item.prefix is not None else Score(math.nan, error=item.error)

    def _score_apart(self, items: Sequence[Item], sampling: Sampling) -> list[Score]:
        """Score videos together; if that fails, score each half by itself, so that a video that fails fails alone."""
        try:
            return self._score_together(items, sampling)
        except (FloatingPointError, torch.OutOfMemoryError) as error:
            if len(items) == 1:
                return [Score(math.nan, error=f"{error}")]
        middle = len(items) // 2
        return self._score_apart(items[:middle], sampling) + self._score_apart(items[middle:], sampling)

    @torch.no_grad()
    def _score_together(self, items: Sequence[Item], sampling: Sampling) -> list[Score]:
        prefixes = [item.prefix for item in items if item.prefix is not None]
        given = [[item.thought or Thought()] for item in items]
        branches = self.model.processor.pack(prefixes, given).to(self.device)
        seen = self.model.see(branches)
        if items[0].thought is None:
            groups = think(self.model, branches, sampling, names=[item.key for item in items], seen=seen)
        else:
            scored = self.model(branches, seen=seen).rewards[:, None]
            groups = [
                Group(tuple(thoughts), (item.text,), (rewards.new_empty(0),), rewards)
                for item, thoughts, rewards in zip(items, given, scored, strict=True)
            ]
        readouts = read_rewards(self.model, branches, groups, self.reward_from, seen=seen)
        return [self._summarise(*one) for one in zip(groups, readouts, strict=True)]

    def _summarise(self, group: Group, readout: Readout) -> Score:
        found = zip(readout.rewards, group.thoughts, group.texts, readout.errors, strict=True)
        each = tuple(self._record(*one) for one in found)
        if len(each) == 1:
            return each[0]
        totals = [score.reward for score in each if score.error is None]
        error = None if totals else f"none of {len(each)} thoughts has a reward; the first one: {readout.errors[0]}"
        mean = self._record(readout.mean(), group.thoughts[0], group.texts[0], error)
        std = float(torch.tensor(totals).std()) if len(totals) > 1 else None
        return replace(mean, reward_std=std, each=each)

    def _said(self, text: str, thought: Thought) -> float | None:
        """Return the overall score that a thought says; None if it says none."""
        settings = self.model.settings.answer
        try:
            return settings.combined(said_values(text, settings, whole=thought.closed), 1)[0]
        except AnswerError:
            return None

    def _record(self, rewards: Tensor, thought: Thought, text: str, error: str | None) -> Score:
        answer = _answer(text)
        names = self.model.settings.reward_names
        return Score(
            reward=float(rewards.sum()),
            normalised_reward=None if error else normalise(rewards.tolist(), self.calibration),
            rewards=dict(zip(names, rewards.tolist(), strict=True)) if len(names) > 1 else {},
            thought=text,
            dimension_scores=answer.scores if answer else None,
            overall_score=self._said(text, thought),
            num_thought_tokens=len(thought.token_ids),
            truncated=bool(text) and not thought.closed,
            error=error,
        )


def normalise(rewards: Sequence[float], known: RewardStatistics | None) -> float | None:
    """Return the sum of rewards, each in standard deviations above its mean; None if those are not known.

    >>> normalise([3.0], RewardStatistics(mean=(1.0,), std=(4.0,)))
    0.5
    """
    if known is None or min(known.std) <= 0:
        return None
    return sum((reward - mean) / std for reward, mean, std in zip(rewards, known.mean, known.std, strict=True))


def _answer(text: str) -> Answer | None:
    try:
        return parse_answer(text)
    except AnswerError:
        return None
