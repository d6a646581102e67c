"""Settings from JSON: every name, type and number is checked, and the value that is wrong is named."""

import json

import pytest

from descore.frame_tool.settings import FrameTool
from descore.heads.settings import HeadSettings
from descore.inputs.checklist import Question
from descore.inputs.settings import ModelSettings
from descore.inputs.typed_json import typed
from descore.video.settings import VideoSettings

SETTINGS = ModelSettings(
    "tiny", "{prompt}", reward_from="checklist", checklist=(Question("style", 2, "Is it?", weight=0.5),)
)


def content() -> dict:
    return json.loads(json.dumps(SETTINGS.to_json()))


def test_settings_come_back_from_json():
    assert ModelSettings.from_json(content()) == SETTINGS


def test_what_has_a_default_may_be_left_out():
    least = {"backbone": "tiny", "template": "{prompt}"}
    assert ModelSettings.from_json(least) == ModelSettings("tiny", "{prompt}")


WRONG = [
    *(("max_thought_tokens", value) for value in (0, -1, 2.5, 16.0, True, None, "16", float("nan"), 2**40, [16])),
    *(("max_prompt_tokens", value) for value in (0, False, 1.5, 10**30)),
    *(("video.fps", value) for value in (0, -1, True, None, "2", float("nan"), float("inf"), [2])),
    *(("video.min_frames", value) for value in (0, 1.5, True, 100)),
    *(("video.max_frames", value) for value in (0, 1.5, 10**9, False)),
    *(("video.min_pixels", value) for value in (0, 0.5, 10**9)),
    *(("video.max_pixels", value) for value in (0, 2**62, float("inf"), {})),
    *(("reward_names", value) for value in ([], ["a", "a"], "overall", [1], [["a"]], None, {"a": 1})),
    *(("head.query", value) for value in ("none", None, ["shared"], True)),
    *(("head.kind", value) for value in ("deep", None, 1)),
    *(("head.bias", value) for value in (1, "true", None)),
    *(("head.hidden", value) for value in ([0], [4], [1.5], "4", None, [2**40])),
    *(("head.criteria", value) for value in (-1, 1, True, 2.5, 10**9)),
    *(("head", value) for value in (None, [], "linear")),
    *(("reward_from", value) for value in ("tail", 1, None)),
    *(("thoughts", value) for value in (1, 0, "true", None)),
    *(("backbone", value) for value in (None, 1, ["tiny"])),
    *(("template", value) for value in (None, 1)),
    *(("checklist", value) for value in ("style", {"style": 1}, [1], [{"dimension": "style"}])),
    *(("video", value) for value in (None, [], 4)),
]


@pytest.mark.parametrize(("place", "value"), WRONG, ids=[f"{place}={value}" for place, value in WRONG])
def test_a_value_of_another_type_or_out_of_range_is_named(place, value):
    changed = content()
    parent, _, name = place.rpartition(".")
    (changed[parent] if parent else changed)[name] = value
    with pytest.raises(ValueError, match=name.replace("checklist", "checklist|settings")) as error:
        ModelSettings.from_json(changed)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("query", ["shared", "each"])
def test_settings_of_an_older_export_have_their_query_in_the_head(query):
    older = content()
    del older["head"]
    assert ModelSettings.from_json(older | {"query": query}).head == HeadSettings(query=query)
    with pytest.raises(ValueError, match=r"settings\.head\.query: expected one of shared, each, last, got \"none\""):
        ModelSettings.from_json(older | {"query": "none"})
    with pytest.raises(ValueError, match=r'unknown \["query"\]'):
        ModelSettings.from_json(content() | {"query": query})


@pytest.mark.parametrize(
    ("template", "query", "message"),
    [
        ("{prompt} {query}", "each", "has the query tokens <Reward>; expected each of <Reward_a>, <Reward_b>, or none"),
        ("{prompt} {query:a}", "each", "has the query tokens <Reward_a>; expected each of <Reward_a>, <Reward_b>"),
        ("{prompt} {query:a}", "shared", "has the query tokens <Reward_a>; expected each of <Reward>, or none"),
        ("{prompt} {query}", "last", "has the query tokens <Reward>; expected each of none, since head.query is last"),
        ("{query}", "shared", r"expected \{prompt\} once in the template"),
    ],
)
def test_queries_of_the_template_are_those_of_the_head(template, query, message):
    with pytest.raises(ValueError, match=message):
        ModelSettings("tiny", template, reward_names=("a", "b"), head=HeadSettings(query=query))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "1", [1]])
def test_a_weight_of_a_question_is_a_finite_number(value):
    changed = content()
    changed["checklist"][0]["weight"] = value
    with pytest.raises(ValueError, match=r"settings\.checklist\[0\]\.weight: expected float"):
        ModelSettings.from_json(changed)


@pytest.mark.parametrize("change", [{"max_tokens": 3}, {"video": {"fps": 2, "rate": 3}}])
def test_an_unknown_name_is_refused_with_the_known_ones(change):
    with pytest.raises(ValueError, match=r"unknown .* this version knows .*(max_thought_tokens|fps)"):
        ModelSettings.from_json(content() | change)


def test_what_has_no_default_has_to_be_there():
    with pytest.raises(ValueError, match="settings: template missing"):
        ModelSettings.from_json({"backbone": "tiny"})


def test_numbers_out_of_range_are_refused_in_python_too():
    for options in ({"max_frames": 10**9}, {"max_pixels": 2**40}, {"min_frames": 1.5}, {"fps": float("nan")}):
        with pytest.raises(ValueError, match="expected"):
            VideoSettings(**options)


def test_one_that_is_no_object_is_refused():
    with pytest.raises(ValueError, match=r"settings: expected an object with backbone, .*; got \[\]"):
        typed(ModelSettings, [], "settings")


LOOKING = {
    "backbone": "tiny",
    "template": "{prompt}",
    "tool": {"first_frames": 4, "frames_per_call": 2, "max_calls": 1},
}


def test_a_tool_comes_back_from_json():
    assert ModelSettings.from_json(LOOKING).tool == FrameTool(4, 2, 1)
    written = json.loads(json.dumps(ModelSettings.from_json(LOOKING).to_json()))
    assert ModelSettings.from_json(written) == ModelSettings.from_json(LOOKING)
    assert ModelSettings.from_json(content()).tool is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"thoughts": False}, "a tool is called in a thought: set thoughts to true"),
        ({"reward_from": "expected_score"}, "with a tool, expected head or overall_score"),
        ({"template": "{prompt} {query}"}, "would not see the frames that a tool shows"),
        ({"tool": {"max_calls": 0}}, r"settings\.tool: expected a whole number from 1 to 36000 for max_calls, got 0"),
        ({"tool": {"calls": 1}}, r'settings\.tool: unknown \["calls"\]'),
        ({"tool": True}, r"settings\.tool: expected an object"),
    ],
)
def test_a_tool_that_does_not_fit_the_model_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        ModelSettings.from_json(LOOKING | changed)
