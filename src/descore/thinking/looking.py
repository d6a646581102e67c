"""Thinking with frames: sample turns until none of them calls the tool, and score each conversation by its last one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.thinking.conversation import Conversation, begin, go_on, tool_of, until_call
from descore.thinking.think import think
from descore.types import Branches, Group, PairBatch, Thought, VideoFeatures


@torch.no_grad()
def look_and_think(
    model: RewardModel,
    begun: Sequence[Conversation],
    sampling: Sampling | None = None,
    *,
    names: Sequence[str] | None = None,
    seen: Sequence[VideoFeatures] | None = None,
) -> list[Group]:
    """Sample thoughts about videos by a model with a tool: while a turn calls it, answer the call and go on.

    The frames of a turn run through the vision tower once; the text of a conversation is prefilled anew in each turn.

    Args:
        model: Model with a tool.
        begun: Conversation about each video, as `begin` returns it.
        sampling: Sampling options; one greedy thought per video if not given. The length limit is that of a turn.
        names: Unique name of each video, which keys its sampled tokens; its index if not given.
        seen: Output of `model.see` for the first frames of these videos. If given, the vision tower does not see them
            again.

    Returns:
        One group per video. A thought is all that the model said in its turns, one after the other, and its reward that
        of the last turn.
    """
    sampling = sampling or Sampling()
    names = [str(index) for index in range(len(begun))] if names is None else names
    branches = _packed(model, begun)
    seen = model.see(branches) if seen is None else seen
    groups = think(model, branches, sampling, names=names, seen=seen)
    talks = [
        [_Talk(f"{name}/{k}", one, (own,)).said(model, group, k) for k in range(sampling.num_thoughts)]
        for name, one, own, group in zip(names, begun, seen, groups, strict=True)
    ]
    for left in reversed(range(tool_of(model.processor).max_calls)):
        calling = [talk for row in talks for talk in row if talk.call is not None]
        if not calling:
            break
        _answer(model, calling, replace(sampling, num_thoughts=1), last=not left)
    return [_group(row) for row in talks]


def think_about_pairs(model: RewardModel, batch: PairBatch) -> list[Group]:
    """Write one greedy thought about each video of a batch, which holds the frames of its videos.

    Args:
        model: Model with a tool or without.
        batch: Batch of N pairs.

    Returns:
        One group for each of the 2N videos.
    """
    if model.settings.tool is None:
        return think(model, batch.branches)
    prompts = [pair.prompt for pair in batch.pairs] * 2
    return look_and_think(model, [begin(model.processor, *video) for video in zip(prompts, batch.frames, strict=True)])


@dataclass(slots=True)
class _Talk:
    """A conversation in which a thought grows.

    Attributes:
        name: Name that keys the tokens of its next turn.
        conversation: The conversation before its last turn.
        seen: Output of the vision tower for what it shows.
        call: Its last turn, up to the end of a call that will be answered; None if there is none.
    """

    name: str
    conversation: Conversation
    seen: tuple[VideoFeatures, ...]
    call: Thought | None = None
    text: str = ""
    thought: Thought = field(default_factory=Thought)
    logprobs: tuple[Tensor, ...] = ()
    reward: Tensor | None = None  # [K]

    def said(self, model: RewardModel, group: Group, index: int, *, last: bool = False) -> _Talk:
        """Add a turn, one thought of a group; the last one is not answered, whatever it says."""
        turn = group.thoughts[index]
        self.call = None if last else until_call(model.processor, turn)
        logprobs = group.logprobs[index]
        if self.call is not None and len(self.call.token_ids) < len(turn.token_ids):
            turn, logprobs = self.call, logprobs[: len(self.call.token_ids)]
        self.text += model.processor.thought_text(turn.token_ids)
        self.thought = Thought(self.thought.token_ids + turn.token_ids, turn.closed)
        self.logprobs = (*self.logprobs, logprobs)
        self.reward = group.rewards[index]
        return self


def _answer(model: RewardModel, calling: Sequence[_Talk], sampling: Sampling, *, last: bool) -> None:
    """Answer the calls, and add the next turn of each conversation."""
    fresh = []
    for talk in calling:
        assert talk.call is not None
        before = len(talk.conversation.shown)
        talk.conversation = go_on(model.processor, talk.conversation, talk.call)
        fresh.append(len(talk.conversation.shown) - before)
        talk.name += "+"
    branches = _packed(model, [talk.conversation for talk in calling])
    new = iter(_see_last(model, branches, fresh))
    for talk, count in zip(calling, fresh, strict=True):
        talk.seen += tuple(next(new) for _ in range(count))
    seen = [features for talk in calling for features in talk.seen]
    groups = think(model, branches, sampling, names=[talk.name for talk in calling], seen=seen)
    for talk, group in zip(calling, groups, strict=True):
        talk.said(model, group, 0, last=last)


def _see_last(model: RewardModel, branches: Branches, counts: Sequence[int]) -> Sequence[VideoFeatures]:
    """Run the vision tower over the last videos of each prefix, of which it has none or one that is new."""
    sizes = branches.grids.prod(1).tolist()
    patches = torch.split(branches.patches, sizes)
    ends = torch.tensor(branches.layout.num_grids).cumsum(0).tolist()
    new = [index for end, count in zip(ends, counts, strict=True) for index in range(end - count, end)]
    if not new:
        return ()
    return model.see(replace(branches, patches=torch.cat([patches[i] for i in new]), grids=branches.grids[new]))


def _packed(model: RewardModel, conversations: Sequence[Conversation]) -> Branches:
    prefixes = [one.prefix for one in conversations]
    return model.processor.pack(prefixes, [()] * len(prefixes)).to(model.head.weight.device)


def _group(talks: Sequence[_Talk]) -> Group:
    rewards = torch.stack([talk.reward for talk in talks if talk.reward is not None])
    logprobs = tuple(torch.cat(talk.logprobs) for talk in talks)
    return Group(tuple(talk.thought for talk in talks), tuple(talk.text for talk in talks), logprobs, rewards)
