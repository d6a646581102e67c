"""What each arm makes of the validation pairs: rewards, frames, prompt tokens, and whether it saw the moment."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.looking.arms import ARMS
from data_modules.world.moments import FPS, WINDOW
from descore.atomic import write_whole
from descore.frame_tool.calls import split_turns
from descore.model.finished import find_export
from descore.model.reward_model import RewardModel
from descore.seeding import fold
from descore.tables.pairs import read_pairs
from descore.thinking.conversation import Conversation, begin, go_on, tool_of
from descore.thinking.looking import look_and_think
from descore.thinking.think import think
from descore.types import Frames, Pair

BATCH = 16
"""Pairs that are judged together."""


@dataclass(frozen=True)
class Judged:
    """What came of one video.

    Attributes:
        reward: Its reward.
        num_frames: Number of frames that the model saw.
        num_tokens: Number of tokens of its last prompt, all frames and turns in it.
        saw: Whether it saw a frame of the moment that decides.
        thought: What it said.
    """

    reward: float
    num_frames: int
    num_tokens: int
    saw: bool
    thought: str


def measure(root: str, name: str, seed: str) -> None:
    """Judge the validation pairs, and write one line for each pair into measured/<arm>-<seed>.jsonl.

    Args:
        root: Folder of everything.
        name: Name of the arm.
        seed: Seed of the model.
    """
    arm = ARMS[name]
    model = RewardModel.from_pretrained(str(find_export(f"{root}/{arm.trained}-{seed}")))
    pairs = read_pairs(Path(root, "pairs/val/pairs.jsonl")).pairs
    lines = []
    for start in range(0, len(pairs), BATCH):
        some = pairs[start : start + BATCH]
        videos = [(pair, side.video) for pair in some for side in (pair.a, pair.b)]
        judged = judge(model, videos, random=arm.random, seed=int(seed))
        for pair in some:
            a, b = next(judged), next(judged)
            lines.append(json.dumps({"id": pair.id, "preference": pair.preference[0], "a": vars(a), "b": vars(b)}))
    Path(root, "measured").mkdir(exist_ok=True)
    write_whole(Path(root, "measured", f"{name}-{seed}.jsonl"), "\n".join(lines) + "\n")


def judge(model: RewardModel, videos: Sequence[tuple[Pair, str]], *, random: bool, seed: int) -> Iterator[Judged]:
    """Judge videos by a model with a tool or without; with random, calls are answered with another moment."""
    processor = model.processor
    pools = [processor.read(path) for _, path in videos]
    prompts = [pair.prompt for pair, _ in videos]
    if model.settings.tool is None:
        shown = zip(prompts, pools, strict=True)
        ended = [Conversation(pool, (pool,), processor.prefix(prompt, pool)) for prompt, pool in shown]
        groups = think(model, processor.pack([one.prefix for one in ended], [()] * len(ended)))
    else:
        begun = [begin(processor, prompt, pool) for prompt, pool in zip(prompts, pools, strict=True)]
        if random:
            turned = [_turned(pool, fold(seed, path)) for pool, (_, path) in zip(pools, videos, strict=True)]
            begun = [replace(one, pool=pool) for one, pool in zip(begun, turned, strict=True)]
        groups = look_and_think(model, begun)
        ended = [_ended(model, one, group.texts[0]) for one, group in zip(begun, groups, strict=True)]
    for prompt, conversation, group in zip(prompts, ended, groups, strict=True):
        indices = {index for frames in conversation.shown for index in frames.indices}
        tokens = len(conversation.prefix.input_ids)
        saw = bool(indices & _moment(prompt))
        yield Judged(float(group.rewards[0, 0]), len(indices), tokens, saw, group.texts[0])


def _ended(model: RewardModel, conversation: Conversation, text: str) -> Conversation:
    """Return a conversation before the last turn of a thought."""
    for call in split_turns(text, tool_of(model.processor))[:-1]:
        conversation = go_on(model.processor, conversation, model.processor.thought(call))
    return conversation


def _turned(pool: Frames, draws: int) -> Frames:
    """Return the frames of a video from a random one on, those before it after them."""
    num_frames = len(pool.pixels)
    turn = 1 + draws % (num_frames - 1)
    order = [(index + turn) % num_frames for index in range(num_frames)]
    return replace(pool, pixels=pool.pixels[order], indices=tuple(pool.indices[index] for index in order))


def _moment(prompt: str) -> set[int]:
    """Return the indices of the frames that decide, by the second in the prompt."""
    found = re.search(r"\d", prompt)
    assert found is not None
    middle = int(found.group()) * FPS
    return set(range(middle - WINDOW // 2, middle + WINDOW // 2))
