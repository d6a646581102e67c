"""The scorer: videos and prompts in, score records out. A failed video gets its reason and never stops the others."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from descore.answer import Answer, AnswerError, parse_answer
from descore.inputs.prompts import PromptError, check_prompt
from descore.inputs.settings import RewardSource
from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.scoring.folder import ScoringError
from descore.scoring.protocol import check_count, sampling_of
from descore.scoring.score import Score
from descore.thinking.readout import Readout, choose_source, read_rewards
from descore.thinking.think import think
from descore.types import Frames, Group, Prefix, Thought
from descore.video.checks import VideoError

Video = str | os.PathLike[str]
"""A video: the path of its file."""


@dataclass(frozen=True, slots=True)
class _Item:
    """A video to score: the key of its sampled tokens, and its prefix or the reason why it has none."""

    key: str
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
        ScoringError: If the device is not there, or the batch size is not at least 1.

    Example:
        scorer = Scorer("runs/stage1")
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
        check_count("batch size", batch_size)
        self.device = choose_device(device)
        self.model = RewardModel.from_pretrained(path, backbone=backbone).to(self.device)
        self.thoughts = thoughts and self.model.settings.thoughts
        self.reward_from = choose_source(self.model.settings, reward_from, thoughts=self.thoughts)
        self.batch_size = batch_size

    def score(
        self,
        videos: Video | Iterable[Video],
        prompts: str | Iterable[str],
        *,
        num_thoughts: int = 1,
        temperature: float | None = None,
    ) -> list[Score]:
        """Score videos, each against its prompt.

        Args:
            videos: Paths of the video files, or one path.
            prompts: Prompt of each video, or one prompt for all of them.
            num_thoughts: Number of thoughts per video; the reward is the mean over them.
            temperature: Sampling temperature of the thoughts; 0 (greedy) for one thought, 1 for several if not given.

        Returns:
            One record per video, in the order of the videos. A video that fails, or whose prompt cannot be used, has
            reward nan and an error; it never stops the others.

        Raises:
            ScoringError: If the numbers of videos and prompts differ, or an option is out of its range.
            TypeError: If the videos or the prompts are neither text nor a list.
        """
        return list(self.stream(videos, prompts, num_thoughts=num_thoughts, temperature=temperature))

    def stream(
        self,
        videos: Video | Iterable[Video],
        prompts: str | Iterable[str],
        *,
        num_thoughts: int = 1,
        temperature: float | None = None,
    ) -> Iterator[Score]:
        """Score videos batch by batch, and yield each record as soon as its batch is done.

        The videos of the next batch are decoded while a batch is scored. A video that is given several times with one
        prompt is scored once. Arguments and errors are those of `score`.

        Yields:
            One record per video, in the order of the videos. A video that fails has reward nan and an error.
        """
        asked, order = _unique(*_as_lists(videos, prompts))
        sampling = sampling_of(num_thoughts, temperature, thoughts=self.thoughts)
        return _in_order(self._stream(asked, sampling), order)

    def _stream(self, asked: Sequence[tuple[Video, str]], sampling: Sampling) -> Iterator[Score]:
        batches = [asked[start : start + self.batch_size] for start in range(0, len(asked), self.batch_size)]
        with ThreadPoolExecutor(2) as pool:
            # Decode one batch ahead and no further, to bound memory.
            ahead = [pool.submit(self._read, *one) for one in batches[0]] if batches else []
            for following in [*batches[1:], []]:
                items = [future.result() for future in ahead]
                ahead = [pool.submit(self._read, *one) for one in following]
                yield from self._score_batch(items, sampling)

    def _read(self, video: Video, prompt: str) -> _Item:
        if not isinstance(video, str | os.PathLike):
            return _Item("", None, f"expected the path of a video, got {video!r}")
        path = os.fspath(video)
        try:
            check_prompt(prompt)
            frames = self.model.processor.read(path)
            return _Item(_key(frames, prompt), self.model.processor.prefix(prompt, frames))
        except PromptError as error:
            return _Item("", None, f"{path}: {error}")
        except VideoError as error:
            return _Item("", None, str(error))

    def _score_batch(self, items: Sequence[_Item], sampling: Sampling) -> Iterator[Score]:
        usable = [(item.key, item.prefix) for item in items if item.prefix is not None]
        records = iter(self._score_apart(usable, sampling) if usable else [])
        for item in items:
            yield next(records) if item.prefix is not None else Score(math.nan, error=item.error)

    def _score_apart(self, items: Sequence[tuple[str, Prefix]], sampling: Sampling) -> list[Score]:
        """Score videos together; if that fails, score each half by itself, so that a video that fails fails alone."""
        try:
            return self._score_together(items, sampling)
        except (FloatingPointError, torch.OutOfMemoryError) as error:
            if len(items) == 1:
                return [Score(math.nan, error=f"{error}")]
        middle = len(items) // 2
        return self._score_apart(items[:middle], sampling) + self._score_apart(items[middle:], sampling)

    @torch.no_grad()
    def _score_together(self, items: Sequence[tuple[str, Prefix]], sampling: Sampling) -> list[Score]:
        keys, prefixes = zip(*items, strict=True)
        branches = self.model.processor.pack(prefixes, [[Thought()]] * len(prefixes)).to(self.device)
        seen = self.model.see(branches)
        if self.thoughts:
            groups = think(self.model, branches, sampling, names=keys, seen=seen)
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


def choose_device(name: str | None) -> torch.device:
    """Return a device by its name; the GPU if there is one, or else the CPU, if no name is given.

    Raises:
        ScoringError: If there is no such device on this machine.

    >>> choose_device("cpu")
    device(type='cpu')
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        raise ScoringError(f"device {name!r} is not there: expected one of {', '.join(['cpu', *gpus])}") from error
    return device


def _as_lists(videos: Video | Iterable[Video], prompts: str | Iterable[str]) -> tuple[list[Video], list[str]]:
    several = [videos] if isinstance(videos, str | os.PathLike) else _listed("videos", videos)
    texts = [prompts] * len(several) if isinstance(prompts, str) else _listed("prompts", prompts)
    if len(several) != len(texts):
        raise ScoringError(f"expected one prompt per video, got {len(several)} videos and {len(texts)} prompts")
    return several, texts


def _listed(name: str, values: Iterable[Any]) -> list[Any]:
    if isinstance(values, bytes | dict) or not isinstance(values, Iterable):
        raise TypeError(f"{name}: expected text or a list, got {type(values).__name__} {values!r:.100}")
    return list(values)


def _unique(videos: Sequence[Video], prompts: Sequence[str]) -> tuple[list[tuple[Video, str]], list[int]]:
    """Return each (video, prompt) once, and the index of each given one among them."""
    asked: list[tuple[Video, str]] = []
    known: dict[tuple[str, str], int] = {}
    order = []
    for video, prompt in zip(videos, prompts, strict=True):
        usable = isinstance(video, str | os.PathLike) and isinstance(prompt, str)
        index = known.setdefault((os.fspath(video), prompt), len(asked)) if usable else len(asked)
        order.append(index)
        if index == len(asked):
            asked.append((video, prompt))
    return asked, order


def _in_order(scores: Iterator[Score], order: Sequence[int]) -> Iterator[Score]:
    """Yield the score of each index; scores come in the order of their first use, and are kept until their last."""
    left, kept = Counter(order), dict[int, Score]()
    for index in order:
        if index not in kept:
            kept[index] = next(scores)
        left[index] -= 1
        yield kept[index] if left[index] else kept.pop(index)


def _key(frames: Frames, prompt: str) -> str:
    """Return a key of what is scored: the frames that are shown, whatever file they come from, and the prompt."""
    content = hashlib.blake2b(frames.pixels.contiguous().numpy().data, digest_size=16)
    content.update(repr((frames.seconds, prompt)).encode())
    return content.hexdigest()


def _answer(text: str) -> Answer | None:
    try:
        return parse_answer(text)
    except AnswerError:
        return None
