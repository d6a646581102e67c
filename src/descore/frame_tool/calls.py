"""Calls of the frame tool: where they stand in what a model writes, and which frames they ask for."""

from __future__ import annotations

import json
from typing import Any

from descore.frame_tool.settings import FrameTool

OPENING, CLOSING = "<tool_call>", "</tool_call>"
"""What opens and closes a call, as in Qwen's chat templates."""

NAME = "select_frames"


class CallError(ValueError):
    """A call that no frames can be shown for; its message is what the model is told."""


def split_turns(text: str, tool: FrameTool) -> list[str]:
    """Split a thought into turns: each but the last ends with a call, and at most `max_calls` do.

    >>> split_turns("Unsure.<tool_call>{}</tool_call>Now I see.", FrameTool())
    ['Unsure.<tool_call>{}</tool_call>', 'Now I see.']
    """
    *calls, last = text.split(CLOSING, tool.max_calls)
    return [*(call + CLOSING for call in calls), last]


def read_call(text: str, tool: FrameTool, num_frames: int) -> list[int]:
    """Return the indices of the frames that the call at the end of a turn asks for, each once, ascending.

    Args:
        text: Turn of a model that ends with a call.
        tool: Settings of the tool.
        num_frames: Number of frames that can be asked for.

    Raises:
        CallError: If it is no call of the tool, or asks for a frame that is not there or for too many.

    >>> read_call(write_call([7, 3]), FrameTool(), num_frames=8)
    [2, 6]
    """
    numbers = _target_frames(text.rpartition(OPENING)[2].partition(CLOSING)[0])
    if outside := [number for number in numbers if not 1 <= number <= num_frames]:
        raise CallError(f"There is no frame {_short(outside[0])}. Ask for frames from 1 to {num_frames}.")
    wanted = sorted(set(numbers))
    if len(wanted) > tool.frames_per_call:
        raise CallError(f"A call may ask for {tool.frames_per_call} frames, not {len(wanted)}.")
    return [number - 1 for number in wanted]


def write_call(numbers: list[int]) -> str:
    """Write a call for frames by their numbers, which count from 1.

    >>> write_call([3, 7])
    '<tool_call>{"name": "select_frames", "arguments": {"target_frames": [3, 7]}}</tool_call>'
    """
    return f"{OPENING}{json.dumps({'name': NAME, 'arguments': {'target_frames': numbers}})}{CLOSING}"


def _target_frames(body: str) -> list[int]:
    try:
        call: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise CallError(f"The call is not JSON. Write it like {write_call([1, 2])}") from error
    arguments = call.get("arguments") if isinstance(call, dict) and call.get("name") == NAME else None
    numbers = arguments.get("target_frames") if isinstance(arguments, dict) else None
    if not isinstance(numbers, list) or not numbers or any(type(number) is not int for number in numbers):
        raise CallError(f"The call has no frames. Write it like {write_call([1, 2])}")
    return numbers


def _short(number: int) -> str:
    """Return a number in few characters, however many digits it has."""
    return str(number) if abs(number) < 10**9 else "of that number"
