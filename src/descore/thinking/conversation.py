"""Conversations of a model that asks for frames: each turn is a thought after a prefix that has grown.

A conversation begins with a few frames of a video. A turn that ends with a call is answered by a user turn with the
frames that it asked for, or by a text that says what is wrong with the call. So every turn is an ordinary prefix and
branch, and the head reads the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from descore.frame_tool.calls import CLOSING, CallError, read_call, split_turns
from descore.frame_tool.settings import FrameTool
from descore.inputs.collate import PairCollator
from descore.inputs.processor import Processor
from descore.types import Frames, Pair, Prefix, Thought

SELECTED = "Here are the selected frames."
"""Text behind the frames that answer a call."""

_MARK = "\ufffc"  # stands for a turn of the model, to find what the chat template writes after it


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation about one video, up to the header of a turn of the model.

    Attributes:
        pool: Frames that can be asked for.
        shown: Frames of each video block of the prefix.
        prefix: All turns so far, and the header of the next one.
    """

    pool: Frames
    shown: tuple[Frames, ...]
    prefix: Prefix


def tool_of(processor: Processor) -> FrameTool:
    """Return the tool of a model that has one."""
    tool = processor.settings.tool
    assert tool is not None
    return tool


def begin(processor: Processor, prompt: str, pool: Frames) -> Conversation:
    """Begin a conversation with the first frames of a video.

    Args:
        processor: Processor of a model with a tool.
        prompt: Text that the video was generated from.
        pool: Frames of the video that can be asked for.

    Raises:
        PromptError: If the prompt cannot be used, see `Processor.prefix`.
    """
    num_frames = len(pool.pixels)
    places = np.linspace(0, num_frames - 1, min(tool_of(processor).first_frames, num_frames)).round().astype(int)
    first = _select(processor, pool, places.tolist())
    return Conversation(pool, (first,), processor.prefix(prompt, first))


def go_on(processor: Processor, conversation: Conversation, turn: Thought) -> Conversation:
    """Append a turn that ends with a call, and the answer to it.

    Args:
        processor: Processor of the model.
        conversation: Conversation before the turn.
        turn: Tokens of the turn.
    """
    tool, before = tool_of(processor), conversation.prefix
    try:
        wanted = read_call(processor.thought_text(turn.token_ids), tool, len(conversation.pool.pixels))
    except CallError as error:
        return replace(conversation, prefix=_extended(processor, conversation, turn, _reply(processor, str(error))))
    frames = _select(processor, conversation.pool, wanted)
    patches, grid = processor.family.patches(frames.pixels)
    text = _reply(processor, SELECTED, processor.family.texts(frames, grid))
    shown = replace(conversation, shown=(*conversation.shown, frames))
    media = (torch.cat([before.patches, patches]), torch.cat([before.grids, grid[None]]))
    return replace(shown, prefix=_extended(processor, shown, turn, text, media))


def converse(processor: Processor, prompt: str, pool: Frames, text: str) -> tuple[Prefix, Thought]:
    """Return the prefix and the last turn of the conversation in which a thought was written.

    Args:
        processor: Processor of a model with a tool.
        prompt: Text that the video was generated from.
        pool: Frames of the video that can be asked for.
        text: Thought with its calls; empty for none, which leaves the first frames alone.
    """
    conversation = begin(processor, prompt, pool)
    *calls, last = split_turns(text, tool_of(processor))
    for call in calls:
        turn = processor.thought(call)
        if not turn.closed:  # cut at the length limit, and the call with it
            return conversation.prefix, turn
        conversation = go_on(processor, conversation, turn)
    return conversation.prefix, processor.thought(last)


def until_call(processor: Processor, turn: Thought) -> Thought | None:
    """Return a turn up to the end of its first call, after which the model does not go on; None if it has no call."""
    if CLOSING not in processor.thought_text(turn.token_ids):
        return None
    low, high = 1, len(turn.token_ids)
    while low < high:
        middle = (low + high) // 2
        calls = CLOSING in processor.thought_text(turn.token_ids[:middle])
        low, high = (low, middle) if calls else (middle + 1, high)
    return Thought(turn.token_ids[:low], closed=True)


def said_before(prefix: Prefix) -> tuple[int, ...]:
    """Return the tokens of all earlier turns of a conversation, without the ends of turns."""
    return tuple(token for start, end in prefix.turns for token in prefix.input_ids[start : end - 1].tolist())


class ConversationCollator(PairCollator):
    """Gives every video the conversation in which its teacher's thought was written, or the first frames if masked.

    The arguments are those of `PairCollator`; a video has one branch, its last turn.
    """

    def inputs(self, pair: Pair, place: int, masked: bool, videos: Sequence[Frames]) -> tuple[Prefix, list[Thought]]:
        """Return the prefix and the last turn of a video."""
        (pool,), text = videos, (pair.a, pair.b)[place].thought
        prefix, last = converse(self.processor, pair.prompt, pool, "" if masked else text)
        return prefix, [last]


def _select(processor: Processor, pool: Frames, places: Sequence[int]) -> Frames:
    """Return some frames of a video; the last one is repeated where the backbone takes no such number."""
    missing = -len(places) % processor.video_reader.even
    chosen = [*places, *[places[-1]] * missing]
    times = tuple(pool.times[place] for place in chosen) if pool.times else ()
    indices = tuple(pool.indices[place] for place in chosen)
    return replace(pool, pixels=pool.pixels[chosen], indices=indices, times=times)


def _reply(processor: Processor, text: str, frames: Sequence[str] = ()) -> str:
    """Return what follows a turn of the model: its end, a user turn and the next header.

    Args:
        processor: Processor of the model.
        text: Text of the user turn.
        frames: Texts of the video or of the pictures before it.
    """
    content: list[dict[str, Any]] = [{"type": "image" if processor.family.loose else "video"}] * len(frames)
    messages = [
        *processor.template.messages("-"),
        {"role": "assistant", "content": [{"type": "text", "text": _MARK}]},
        {"role": "user", "content": [*content, {"type": "text", "text": text}]},
    ]
    chat: str = processor.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    pieces = chat.rpartition(_MARK)[2].split(processor.family.medium.text)
    return "".join(chain.from_iterable(zip(pieces, [*frames, ""], strict=True)))


def _extended(
    processor: Processor,
    conversation: Conversation,
    turn: Thought,
    reply: str,
    media: tuple[Tensor, Tensor] | None = None,
) -> Prefix:
    """Return the prefix of a conversation with one more turn and the answer to it.

    Args:
        processor: Processor of the model.
        conversation: Conversation with the frames of the answer, and the prefix before the turn.
        turn: Tokens of the turn.
        reply: Text after it.
        media: Patches and grids of all frames, if the answer has some.

    Raises:
        ValueError: If the chat template does not end a turn as the backbone does.
    """
    before, after = conversation.prefix, processor.tokenizer.encode(reply, add_special_tokens=False)
    if after[:1] != [processor.end_id]:
        name, end = processor.backbone.name, processor.family.end_of_turn
        raise ValueError(f"the chat template of backbone {name!r} does not end a turn with {end}: it takes no tool")
    input_ids = torch.cat([before.input_ids, torch.tensor([*turn.token_ids, *after])])
    start = len(before.input_ids)
    patches, grids = media or (before.patches, before.grids)
    return replace(
        before,
        input_ids=input_ids,
        position_ids=processor.family.positions(input_ids, conversation.shown, grids),
        patches=patches,
        grids=grids,
        turns=(*before.turns, (start, start + len(turn.token_ids) + 1)),
    )
