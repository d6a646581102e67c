"""The scorer: videos and prompts in, score records out. A failed video gets its reason and never stops the others."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from threading import Lock
from typing import Any

import torch

from descore.inputs.settings import Dtype, RewardSource
from descore.model.description import describe
from descore.model.finished import find_export
from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.pairwise.comparing import compare_together
from descore.pairwise.comparison import Comparison
from descore.scoring.asked import Asked, Found, Several, in_order, list_asked, list_pairs
from descore.scoring.placing import choose_batch_tokens, choose_device, choose_dtype
from descore.scoring.protocol import check_count, check_judgement, sampling_of
from descore.scoring.reading import Item, ItemReader
from descore.scoring.score import Score
from descore.scoring.together import score_together
from descore.thinking.conversation import tool_of
from descore.thinking.readout import choose_source


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
        check_judgement(self.model.settings, pairwise=False)
        asked, order = list_asked(videos, prompts, thought)
        sampling = sampling_of(num_thoughts, temperature, thoughts=self.thoughts and thought is None)
        groups = self._batches(asked, sampling, fps, batches)
        return in_order((score for group in groups for score in self.score_batch(group, sampling)), order)

    def compare(
        self, videos_a: Several, videos_b: Several, prompts: str | Iterable[str], **options: Any
    ) -> list[Comparison]:
        """Compare two videos of each prompt, in both orders, with a model that sees both in one context.

        Args:
            videos_a: Videos A, or one video, as for `score`.
            videos_b: Videos B, as many, or one reference that all are compared with.
            prompts: Prompt of each pair, or one prompt for all of them.
            **options: num_thoughts, temperature and fps, as for `score`; thoughts are sampled in each order.

        Returns:
            One record per pair, in their order. A pair that fails has no verdict and an error; it never stops others.

        Raises:
            ScoringError: If the model scores single videos, the numbers of videos and prompts differ, or an option is
                out of its range.
            TypeError: If the videos or the prompts are neither one nor a list.
        """
        return list(self.stream_comparisons(videos_a, videos_b, prompts, **options))

    def stream_comparisons(
        self,
        videos_a: Several,
        videos_b: Several,
        prompts: str | Iterable[str],
        *,
        num_thoughts: int = 1,
        temperature: float | None = None,
        fps: float | None = None,
        batches: Sequence[int] | None = None,
    ) -> Iterator[Comparison]:
        """Compare pairs batch by batch, and yield each record as soon as its batch is done; see `compare`, `stream`."""
        check_judgement(self.model.settings, pairwise=True)
        sampling = sampling_of(num_thoughts, temperature, thoughts=self.thoughts)
        groups = self._batches(list_pairs(videos_a, videos_b, prompts), sampling, fps, batches)
        return (found for group in groups for found in self.compare_batch(group, sampling))

    def _batches(
        self, asked: Sequence[Asked], sampling: Sampling, fps: float | None, sizes: Sequence[int] | None
    ) -> Iterator[list[Item]]:
        """Read what is asked, and group it into batches: of the given sizes, or by tokens."""
        items = self.reader.read_ahead(asked, fps)
        return self._by_tokens(items, sampling) if sizes is None else (list(islice(items, n)) for n in sizes)

    def _by_tokens(self, items: Iterable[Item], sampling: Sampling) -> Iterator[list[Item]]:
        """Group items in their order, each group within the number of tokens of a batch, but for a single item."""
        group: list[Item] = []
        size = 0
        for item in items:
            tokens = self.num_tokens(item, sampling, known=any(item.key == one.key for one in group))
            if group and size + tokens > self.max_batch_tokens:
                yield group
                group, size, tokens = [], 0, self.num_tokens(item, sampling)
            group.append(item)
            size += tokens
        if group:
            yield group

    def num_tokens(self, item: Item, sampling: Sampling, *, known: bool = False) -> int:
        """Count the tokens that an item of the reader takes in a batch; thoughts count at their longest.

        Args:
            item: The item.
            sampling: Sampling options of its thoughts.
            known: Whether the same item is in the batch already, whose prefix a video shares; two videos do not.
        """
        if item.prefix is None:
            return 0
        thought = self.model.settings.max_thought_tokens if item.thought is None else len(item.thought.token_ids)
        own = sampling.num_thoughts * (thought + len(self.model.processor.appended_ids))
        prefix = 0 if known and item.swapped is None else len(item.prefix.input_ids)
        if item.begun is not None:  # at most, every turn of each thought repeats a prefix of about this length
            tool = tool_of(self.model.processor)
            return (1 + tool.max_calls) * (own + sampling.num_thoughts * prefix)
        return (prefix + own) * (1 if item.swapped is None else 2)

    def score_batch(self, items: Sequence[Item], sampling: Sampling) -> Iterator[Score]:
        """Score items of the reader together: all with a given thought, or none; yield a record for each."""
        return self._each(items, partial(self._score_together, sampling), partial(Score, math.nan))

    def compare_batch(self, items: Sequence[Item], sampling: Sampling) -> Iterator[Comparison]:
        """Compare the two videos of each item of the reader; yield a record for each."""
        return self._each(items, partial(self._compare_together, sampling), Comparison)

    def _each(
        self, items: Sequence[Item], judge: Callable[[Sequence[Item]], list[Found]], fail: Callable[..., Found]
    ) -> Iterator[Found]:
        """Judge the items that could be read together; yield a record for each item."""
        usable = [item for item in items if item.prefix is not None]
        with self._one_at_a_time:
            records = iter(_apart(usable, judge, fail) if usable else [])
        for item in items:
            yield next(records) if item.prefix is not None else fail(error=item.error)

    def _compare_together(self, sampling: Sampling, items: Sequence[Item]) -> list[Comparison]:
        pairs = [(item.prefix, item.swapped) for item in items if item.prefix and item.swapped]
        own, names = sampling if self.thoughts else None, [item.key for item in items]
        return compare_together(self.model, pairs, own, self.reward_from, names=names)

    def _score_together(self, sampling: Sampling, items: Sequence[Item]) -> list[Score]:
        return score_together(self.model, items, sampling, self.reward_from, self.calibration)


def _apart(
    items: Sequence[Item], judge: Callable[[Sequence[Item]], list[Found]], fail: Callable[..., Found]
) -> list[Found]:
    """Judge items together; if that fails, judge each half by itself, so that an item that fails fails alone."""
    try:
        return judge(items)
    except (FloatingPointError, torch.OutOfMemoryError) as error:
        if len(items) == 1:
            return [fail(error=f"{error}")]
    middle = len(items) // 2
    return _apart(items[:middle], judge, fail) + _apart(items[middle:], judge, fail)
