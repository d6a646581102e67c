"""The scorer: videos and prompts in, score records out. A failed video gets its reason and never stops the others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from descore.answer import Answer, AnswerError, parse_answer
from descore.inputs.settings import RewardSource
from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.scoring.score import Score
from descore.thinking.readout import Readout, choose_source, read_rewards
from descore.thinking.think import think
from descore.types import Group, Prefix, Thought
from descore.video.checks import VideoError


@dataclass(frozen=True, slots=True)
class _Item:
    """A video to score: the name that keys its sampled tokens, and its prefix or the reason why it has none."""

    name: str
    prefix: Prefix | None
    error: str | None = None


class Scorer:
    """Scores videos with an exported model.

    Args:
        path: Exported folder, or its id on the hub.
        device: Device to run on, such as "cpu" or "cuda:0"; the GPU if there is one, or else the CPU, if not given.
        thoughts: Whether the model thinks before it scores. Without thoughts scoring is faster, and the record has no
            thought and no dimension scores. A model that was trained without thoughts never thinks.
        batch_size: Number of videos scored together; lower it if memory runs out.
        reward_from: Source of the reward, if not the one that the model was trained for: "overall_score" or
            "expected_score" reads it from the thought of any model that thinks.
        backbone: Hub id or folder of an adapter's backbone, if it is not where the exported folder says.

    Raises:
        ExportError: If the exported folder cannot be loaded.
        ReadoutError: If the model cannot give that reward.

    Example:
        scorer = Scorer("runs/stage1/version_0/export/last")
        (score,) = scorer.score(["a.mp4"], ["A red circle moves left."])
        print(score.reward, score.dimension_scores, score.thought)
    """

    def __init__(
        self,
        path: str,
        *,
        device: str | None = None,
        thoughts: bool = True,
        batch_size: int = 8,
        reward_from: RewardSource | None = None,
        backbone: str | None = None,
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = RewardModel.from_pretrained(path, backbone=backbone).to(self.device)
        self.thoughts = thoughts and self.model.settings.thoughts
        self.reward_from = choose_source(self.model.settings, reward_from, thoughts=self.thoughts)
        self.batch_size = batch_size

    def score(
        self, videos: Sequence[str], prompts: Sequence[str], *, num_thoughts: int = 1, temperature: float | None = None
    ) -> list[Score]:
        """Score videos, each against its prompt.

        Args:
            videos: Paths of the video files.
            prompts: Prompt of each video.
            num_thoughts: Number of thoughts per video; the reward is the mean over them.
            temperature: Sampling temperature of the thoughts; 0 (greedy) for one thought, 1 for several if not given.

        Returns:
            One record per video, in the order of the videos. A video that fails has reward nan and an error.

        Raises:
            ValueError: If the numbers of videos and prompts differ, or an option is out of its range.
        """
        return list(self.stream(videos, prompts, num_thoughts=num_thoughts, temperature=temperature))

    def stream(
        self,
        videos: Sequence[str],
        prompts: Sequence[str | None],
        *,
        num_thoughts: int = 1,
        temperature: float | None = None,
        names: Sequence[str] | None = None,
    ) -> Iterator[Score]:
        """Score videos batch by batch, and yield each record as soon as its batch is done.

        The videos of the next batch are decoded while a batch is scored.

        Args:
            videos: Paths of the video files.
            prompts: Prompt of each video; an empty one fails its video.
            num_thoughts: Number of thoughts per video; the reward is the mean over them.
            temperature: Sampling temperature of the thoughts; 0 (greedy) for one thought, 1 for several if not given.
            names: Unique name of each video, which keys the sampled tokens of its thoughts; path and prompt if not
                given.

        Yields:
            One record per video, in the order of the videos. A video that fails has reward nan and an error.

        Raises:
            ValueError: If the numbers of videos and prompts differ, or an option is out of its range.
        """
        if len(videos) != len(prompts):
            raise ValueError(f"expected one prompt per video, got {len(videos)} videos and {len(prompts)} prompts")
        if temperature is None:
            temperature = 0.0 if num_thoughts == 1 else 1.0
        sampling = Sampling(num_thoughts, temperature=temperature)
        names = names or [f"{video}: {prompt}" for video, prompt in zip(videos, prompts, strict=True)]
        asked = list(zip(videos, prompts, names, strict=True))
        batches = [asked[start : start + self.batch_size] for start in range(0, len(asked), self.batch_size)]
        with ThreadPoolExecutor(2) as pool:
            # Decode one batch ahead and no further, to bound memory.
            ahead = [pool.submit(self._read, *one) for one in batches[0]] if batches else []
            for following in [*batches[1:], []]:
                items = [future.result() for future in ahead]
                ahead = [pool.submit(self._read, *one) for one in following]
                yield from self._score_batch(items, sampling)

    def _read(self, video: str, prompt: str | None, name: str) -> _Item:
        if not prompt or not prompt.strip():
            return _Item(name, None, f"{video}: expected a prompt, got {prompt!r}")
        try:
            return _Item(name, self.model.processor.prefix(prompt, self.model.processor.read(video)))
        except VideoError as error:
            return _Item(name, None, str(error))

    def _score_batch(self, items: Sequence[_Item], sampling: Sampling) -> Iterator[Score]:
        prefixes = [item.prefix for item in items if item.prefix is not None]
        names = [item.name for item in items if item.prefix is not None]
        records = iter(self._score_prefixes(prefixes, names, sampling) if prefixes else [])
        for item in items:
            yield next(records) if item.prefix is not None else Score(math.nan, error=item.error)

    @torch.no_grad()
    def _score_prefixes(self, prefixes: Sequence[Prefix], names: Sequence[str], sampling: Sampling) -> list[Score]:
        branches = self.model.processor.pack(prefixes, [[Thought()]] * len(prefixes)).to(self.device)
        seen = self.model.see(branches)
        if self.thoughts:
            groups = think(self.model, branches, sampling, names=names, seen=seen)
        else:
            scored = self.model(branches, seen=seen).rewards[:, None]
            groups = [Group((Thought(),), ("",), (rewards.new_empty(0),), rewards) for rewards in scored]
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

    def _record(self, rewards: Tensor, thought: Thought, text: str, error: str | None) -> Score:
        answer = _answer(text)
        names = self.model.settings.reward_names
        return Score(
            reward=float(rewards.sum()),
            rewards=dict(zip(names, rewards.tolist(), strict=True)) if len(names) > 1 else {},
            thought=text,
            dimension_scores=answer.scores if answer else None,
            overall_score=answer.overall if answer else None,
            num_thought_tokens=len(thought.token_ids),
            truncated=bool(text) and not thought.closed,
            error=error,
        )


def _answer(text: str) -> Answer | None:
    try:
        return parse_answer(text)
    except AnswerError:
        return None
