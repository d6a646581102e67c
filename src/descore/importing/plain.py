"""Plain checkpoints of transformers, which say their scores: asked and read by a named protocol or a settings file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from descore.heads.settings import HeadSettings
from descore.importing.assembling import Published
from descore.importing.published_json import PublishedJson
from descore.importing.request import ImportRequest, ProtocolName
from descore.importing.templates import read_template, template_file
from descore.importing.tensors import modern, read_safetensors, rename
from descore.inputs.answers import AnswerSettings
from descore.inputs.choice import ChoiceSettings
from descore.inputs.settings import ModelSettings, RewardSource
from descore.inputs.settings_file import is_settings_file, read_settings
from descore.inputs.tensor_files import INDEX, weight_files
from descore.inputs.typed_json import FileError
from descore.video.settings import VideoSettings

FILES = ("*.json", "*.jinja", "*.txt", "*.safetensors", "README.md")
RENAMED = {"qwen2_vl", "qwen2_5_vl"}
"""Families whose tensors had other names before transformers 4.52."""

TWO_VIDEOS = ("{video:1}", "{video:2}")
"""Places of two videos in a template."""

MIN_PIXELS, MAX_PIXELS = 128 * 28 * 28, 768 * 28 * 28
"""Area of a frame in qwen-vl-utils, which the published code leaves as it is."""


@dataclass(frozen=True)
class Protocol:
    """How a published model is asked, and its score read.

    Attributes:
        says: How the published code does it, and what this import does otherwise.
        instruction: Where the instruction stands in the published code.
        fields: Where each score stands in the answer, by the name of the reward; none where two videos are compared.
        choice: Words of the choice between two videos, which then stand before the instruction.
        highest: Highest score; the lowest is 1.
        reward_from: How the scores become rewards.
        temperature: Temperature of the probabilities of the digits.
        video: How frames are sampled and resized.
        max_thought_tokens: Longest answer in tokens.
    """

    says: str
    instruction: str
    fields: Mapping[str, str] = field(default_factory=dict)
    choice: ChoiceSettings | None = None
    highest: float = 5.0
    reward_from: RewardSource = "overall_score"
    temperature: float = 1.0
    video: VideoSettings = field(default_factory=lambda: VideoSettings(2.0, 4, 768, MIN_PIXELS, MAX_PIXELS))
    max_thought_tokens: int = 1024


_NUMBER = r"\**:?\**\s*([0-9]+(?:\.[0-9]+)?)"
_AFTER_THE_THOUGHT = "Scores are looked for after the thought, and the last ones count; the published code {otherwise}."


def _compared(verdict: str, name: str, choice: ChoiceSettings) -> Protocol:
    """Return the protocol of a model that compares two videos of eight frames."""
    return Protocol(
        "Two videos of eight frames each, at equal distances and rounded down, of 100,352 to 602,112 pixels, before "
        f"the text; {verdict}. The frames are read as two videos, where the published code shows sixteen loose "
        "pictures: positions and times of the frames are others.",
        f"the question of the pairwise video script of {name}",
        choice=choice,
        reward_from="said_choice",
        video=VideoSettings(2.0, 8, 8, MIN_PIXELS, MAX_PIXELS, "ends_floor"),
        max_thought_tokens=4096,
    )


PROTOCOLS: Mapping[ProtocolName, Protocol] = MappingProxyType({
    "videoscore2": Protocol(
        "Frames 2 a second, of 100,352 to 602,112 pixels; three scores from 1 to 5, each the likeliest digit times its "
        "probability among the five, at temperature 0.7; their sum is the reward. "
        + _AFTER_THE_THOUGHT.format(otherwise="takes the first ones, and samples at temperature 0.7"),
        "the query of vs2_inference.py",
        {
            "visual": rf"(?i)visual quality{_NUMBER}",
            "alignment": rf"(?i)text-to-video alignment{_NUMBER}",
            "physics": rf"(?i)physical/common-sense consistency{_NUMBER}",
        },
        reward_from="top_share",
        temperature=0.7,
    ),
    "unifiedreward": Protocol(
        "Frames 2 a second, of 100,352 to 602,112 pixels; the final score, from 1 to 10, is the reward. "
        + _AFTER_THE_THOUGHT.format(otherwise="takes the final score wherever it stands"),
        "the question of the pointwise video script of UnifiedReward 1.0",
        {"final": rf"Final Score{_NUMBER}"},
        highest=10.0,
    ),
    "unifiedreward2": Protocol(
        "Sixteen frames, frame i N / 16, of 100,352 to 602,112 pixels; three scores from 1 to 5, whose sum is the "
        "reward. The frames are read as a video, in the place of {video} or before the text, where the published code "
        "shows sixteen loose JPEG pictures: positions and times of the frames are others, and so are the scores.",
        "the question of the pointwise video script of UnifiedReward 2.0",
        {
            "alignment": rf"Alignment Score \(1-5\){_NUMBER}",
            "physics": rf"(?:Physics|Coherence) Score \(1-5\){_NUMBER}",
            "style": rf"Style Score \(1-5\){_NUMBER}",
        },
        video=VideoSettings(2.0, 16, 16, MIN_PIXELS, MAX_PIXELS, "starts"),
    ),
    "unifiedreward_think": _compared(
        "the verdict in <answer> behind the thought. The published code counts a verdict anywhere in the text",
        "UnifiedReward-Think",
        ChoiceSettings(tie=""),
    ),
    "unifiedreward_flex": _compared(
        'what the JSON of the answer says for "winner"',
        "UnifiedReward-Flex",
        ChoiceSettings('"winner": "', "Video 1", "Video 2", ""),
    ),
})


def read(folder: Path, request: ImportRequest) -> Published:
    """Read a folder in transformers' format: `config.json`, the tokenizer and safetensors.

    Raises:
        FileError: If a file is missing or damaged, or the protocol is none.
    """
    config = PublishedJson(folder / "config.json")
    files = weight_files(folder)
    tensors = read_safetensors(files)
    if config.read(str, "model_type") in RENAMED:
        tensors = rename(tensors, modern, folder)
    settings, says = _settings(request)
    read = [config.path, *files, *([folder / INDEX] if (folder / INDEX).is_file() else [])]
    return Published(
        settings,
        tensors,
        folder,
        {path.relative_to(folder).as_posix(): path for path in read} | template_file(request.template),
        says,
        backbone=None if request.backbone else folder,
    )


def _settings(request: ImportRequest) -> tuple[ModelSettings, str]:
    """Return the settings that a protocol asks for, and what it says."""
    name, backbone = request.protocol, request.backbone or request.source
    if protocol := next((one for known, one in PROTOCOLS.items() if known == name), None):
        answer = AnswerSettings(dict(protocol.fields), highest=protocol.highest, temperature=protocol.temperature)
        template = read_template(request.template, {}, module=protocol.instruction)
        if protocol.choice and TWO_VIDEOS[0] not in template:
            template = "".join(TWO_VIDEOS) + template
        settings = ModelSettings(
            backbone,
            template,
            video=protocol.video,
            reward_names=tuple(protocol.fields) if len(protocol.fields) > 1 else ("overall",),
            max_thought_tokens=protocol.max_thought_tokens,
            reward_from=protocol.reward_from,
            answer=answer,
            choice=protocol.choice or ChoiceSettings(),
            head=HeadSettings(query="last"),
        )
        return settings, f"{name}: {protocol.says}"
    if name is None or not is_settings_file(name):
        found = "none" if name is None else name
        raise FileError(f"expected --protocol {', '.join(PROTOCOLS)}, or a settings file (.yaml), got {found}")
    if request.template is not None:
        raise FileError(f"leave --template out: {name} has one")
    settings = replace(read_settings(name), backbone=backbone, head=HeadSettings(query="last"))
    return settings, f"As the settings file {Path(name).name} says, which stands in descore.json."
