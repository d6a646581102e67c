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
from descore.inputs.pixel_statistics import NESTED
from descore.inputs.prompts import PromptTemplate
from descore.inputs.settings import ModelSettings, RewardSource
from descore.inputs.settings_file import is_settings_file, read_settings
from descore.inputs.tensor_files import INDEX, weight_files
from descore.inputs.typed_json import FileError
from descore.video.settings import VideoSettings

FILES = ("*.json", "*.jinja", "*.txt", "*.safetensors", "README.md")
RENAMED = {"qwen2_vl", "qwen2_5_vl"}
"""Families whose tensors had other names before transformers 4.52."""

MIN_PIXELS, MAX_PIXELS = 128 * 28 * 28, 768 * 28 * 28
"""Area of a frame of a video in qwen-vl-utils, which the published code leaves as it is."""

PICTURE_PIXELS = 4 * 28 * 28, 16384 * 28 * 28
"""Area of a picture in Qwen2-VL and Qwen2.5-VL, where the checkpoint's own processor does not say."""


@dataclass(frozen=True)
class Protocol:
    """How a published model is asked, and its score read.

    Attributes:
        says: How the published code does it, and what this import does otherwise.
        instruction: Where the instruction stands in the published code.
        fields: Where each score stands in the answer, by the name of the reward; none where two videos are compared.
        shown: Where videos stand, before the text unless it says so itself; loose pictures have the area that the
            checkpoint's own processor gives a picture.
        places: What the published instruction has in the place of a part of a template.
        choice: Words of the choice between two videos.
        highest: Highest score; the lowest is 1.
        reward_from: How the scores become rewards.
        mean_without: What a score says that is left out of the mean of all, which is the one reward; None for a reward
            of each score.
        temperature: Temperature of the probabilities of the digits.
        video: How frames are sampled and resized.
        max_thought_tokens: Longest answer in tokens.
    """

    says: str
    instruction: str
    fields: Mapping[str, str] = field(default_factory=dict)
    shown: str = "{video}"
    places: Mapping[str, str] = field(default_factory=dict)
    choice: ChoiceSettings | None = None
    highest: float = 5.0
    reward_from: RewardSource = "overall_score"
    mean_without: str | None = None
    temperature: float = 1.0
    video: VideoSettings = field(default_factory=lambda: VideoSettings(2.0, 4, 768, MIN_PIXELS, MAX_PIXELS))
    max_thought_tokens: int = 1024


_NUMBER = r"\**:?\**\s*([0-9]+(?:\.[0-9]+)?)"
_PICTURES = (
    "as loose pictures of the area that the checkpoint's own processor gives a picture. The published code "
    "compresses them as JPEG of quality 95 before"
)
_ENDS = "Text Faithfulness:|Image Faithfulness:|Physical and Visual Quality:|Text Rendering:|# Summary:"
_SCORE = rf"(?s)%s:(?:(?!{_ENDS}).)*## Score:[^\S\n]*(N/A|[0-9]+(?:\.[0-9]+)?)"
_AFTER_THE_THOUGHT = "Scores are looked for after the thought, and the last ones count; the published code {otherwise}."


def _compared(verdict: str, name: str, choice: ChoiceSettings) -> Protocol:
    """Return the protocol of a model that compares two videos of eight frames."""
    return Protocol(
        f"Eight frames of each video, at equal distances and rounded down, before the text, {_PICTURES}. {verdict}.",
        f"the question of the pairwise video script of {name}",
        shown="{frames:1}{frames:2}",
        choice=choice,
        reward_from="said_choice",
        video=VideoSettings(2.0, 8, 8, sampler="ends_floor"),
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
        f"Sixteen frames, frame i N / 16, before the text, {_PICTURES}. Three scores from 1 to 5, whose sum is the "
        "reward.",
        "the question of the pointwise video script of UnifiedReward 2.0",
        {
            "alignment": rf"Alignment Score \(1-5\){_NUMBER}",
            "physics": rf"(?:Physics|Coherence) Score \(1-5\){_NUMBER}",
            "style": rf"Style Score \(1-5\){_NUMBER}",
        },
        shown="{frames}",
        video=VideoSettings(2.0, 16, 16, sampler="starts"),
    ),
    "unifiedreward_think": _compared(
        "The verdict in <answer> behind the thought counts; in the published code one anywhere in the text does",
        "UnifiedReward-Think",
        ChoiceSettings(tie=""),
    ),
    "unifiedreward_flex": _compared(
        'What the JSON of the answer says for "winner" counts',
        "UnifiedReward-Flex",
        ChoiceSettings('"winner": "', "Video 1", "Video 2", ""),
    ),
    "rationalrewards": Protocol(
        "One picture, the first frame of a video, of the area that the checkpoint's own processor gives a picture. "
        "Three scores from 1 to 4, of which one that says N/A is left out; the mean of the others is the reward. The "
        "published training of generators takes (mean - 1) / 3, and its code for one picture is that of the editing "
        "model, which shows a source picture too.",
        "the instruction for one picture, with <image> where it stands and {request} for the prompt,",
        {
            "text_faithfulness": _SCORE % "Text Faithfulness",
            "physical_quality": _SCORE % "Physical and Visual Quality",
            "text_rendering": _SCORE % "Text Rendering",
        },
        shown="{frames}",
        places={"{request}": "{prompt}", "<image>": "{frames}"},
        highest=4.0,
        mean_without="N/A",
        video=VideoSettings(min_frames=1, max_frames=1),
        max_thought_tokens=2048,
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
    settings, says = _settings(request, folder)
    read = [config.path, *files, *([folder / INDEX] if (folder / INDEX).is_file() else [])]
    return Published(
        settings,
        tensors,
        folder,
        {path.relative_to(folder).as_posix(): path for path in read} | template_file(request.template),
        says,
        backbone=None if request.backbone else folder,
    )


def _settings(request: ImportRequest, folder: Path) -> tuple[ModelSettings, str]:
    """Return the settings that a protocol asks for, and what it says."""
    name, backbone = request.protocol, request.backbone or request.source
    if protocol := next((one for known, one in PROTOCOLS.items() if known == name), None):
        answer = AnswerSettings(
            dict(protocol.fields),
            highest=protocol.highest,
            temperature=protocol.temperature,
            absent=protocol.mean_without or "",
        )
        template = read_template(request.template, {}, module=protocol.instruction, places=protocol.places)
        if not any(f"{{{part}" in template for part in ("video", "frames")):
            template = protocol.shown + template
        is_loose = PromptTemplate(template).is_loose
        several = len(protocol.fields) > 1 and protocol.mean_without is None
        settings = ModelSettings(
            backbone,
            template,
            video=_of_pictures(protocol.video, folder) if is_loose else protocol.video,
            reward_names=tuple(protocol.fields) if several else ("overall",),
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


def _of_pictures(video: VideoSettings, folder: Path) -> VideoSettings:
    """Return settings with the smallest and the largest area of a picture that the checkpoint's own processor has.

    Raises:
        FileError: If the file has other than whole numbers for them.
    """
    low, high = PICTURE_PIXELS
    for name, place in (("preprocessor_config.json", ()), (NESTED, ("image_processor",))):
        if (folder / name).is_file():
            config = PublishedJson(folder / name)
            limits = [
                [config.read(int | None, *place, old), config.read(int | None, *place, "size", new)]
                for old, new in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge"))
            ]
            low, high = limits[0][0] or limits[0][1] or low, limits[1][0] or limits[1][1] or high
    return replace(video, min_pixels=low, max_pixels=high)
