"""Calls of the frame tool: what is understood, what the model is told otherwise, and how a thought is split."""

import pytest

from descore.frame_tool.calls import CallError, read_call, split_turns, write_call
from descore.frame_tool.settings import FrameTool

TOOL = FrameTool(first_frames=4, frames_per_call=3, max_calls=2)


def call(body: str) -> str:
    return f"Let me look.<tool_call>{body}</tool_call>"


def asking(numbers: str) -> str:
    return call(f'{{"name": "select_frames", "arguments": {{"target_frames": {numbers}}}}}')


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        (write_call([1]), [0]),
        (asking("[8, 2, 5]"), [1, 4, 7]),
        (asking("[2, 2, 2, 2]"), [1]),
        (call('\n{"arguments": {"target_frames": [3]}, "name": "select_frames"}\n'), [2]),
        (call("no JSON") + "I mean" + write_call([4, 5]), [3, 4]),
    ],
    ids=["one", "in_any_order", "each_once", "white_space", "the_last_call"],
)
def test_frames_count_from_one_and_come_in_order(text, indices):
    assert read_call(text, TOOL, num_frames=8) == indices


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (asking("[9]"), "There is no frame 9. Ask for frames from 1 to 8."),
        (asking("[0]"), "There is no frame 0."),
        (asking("[-1]"), "There is no frame -1."),
        (asking("[1" + "0" * 4000 + "]"), "There is no frame of that number."),
        (asking("[1, 2, 3, 4]"), "A call may ask for 3 frames, not 4."),
        (asking("[]"), "The call has no frames. Write it like <tool_call>"),
        (asking("[1.0]"), "has no frames"),
        (asking("[true]"), "has no frames"),
        (asking('"all"'), "has no frames"),
        (asking("[1" + "0" * 5000 + "]"), "is not JSON"),
        (call('{"name": "zoom", "arguments": {"target_frames": [1]}}'), "has no frames"),
        (call('{"name": "select_frames", "arguments": [1]}'), "has no frames"),
        (call("[1]"), "has no frames"),
        (call(""), "The call is not JSON. Write it like <tool_call>"),
        (call("frames 1 and 2"), "is not JSON"),
        (call("[" * 100_000), "is not JSON"),
    ],
)
def test_a_call_that_cannot_be_answered_is_told_why_in_few_words(text, told):
    with pytest.raises(CallError) as raised:
        read_call(text, TOOL, num_frames=8)
    assert told in str(raised.value)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(
    "turns",
    [
        ["It fits."],
        [""],
        [asking("[1]"), "It fits."],
        [asking("[1]"), asking("oops"), "It fits."],
        [asking("[1]"), asking("[2]"), asking("[3]") + "It fits."],
        [asking("[1]"), ""],
    ],
    ids=["no_call", "nothing", "one", "two", "beyond_the_limit", "ends_with_a_call"],
)
def test_a_thought_is_split_after_each_call_that_is_answered(turns):
    assert split_turns("".join(turns), TOOL) == turns


@pytest.mark.parametrize("name", ["first_frames", "frames_per_call", "max_calls"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, 10**6])
def test_settings_are_whole_numbers_from_one(name, value):
    with pytest.raises(ValueError, match=f"whole number from 1 to 36000 for {name}"):
        FrameTool(**{name: value})
