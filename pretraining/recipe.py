"""The recipe of the tiny backbone: sizes, steps, rates and the seed. It ships with what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_modules.world.small_backbone import Sizes
from descore.inputs.prompts import PromptTemplate
from descore.inputs.settings import ModelSettings
from descore.video.settings import VideoSettings

VIDEO = VideoSettings(fps=4, min_frames=8, max_frames=8, min_pixels=2304, max_pixels=2304)
"""How the rendered videos are read, as in conf/stage1.yaml: 8 frames of 48 x 48 pixels."""


def settings_of(backbone: str) -> ModelSettings:
    """Return the settings of a model, as in conf/stage1.yaml.

    Args:
        backbone: Folder of the backbone.
    """
    return ModelSettings(backbone, PromptTemplate.read("rendered").text, VIDEO, max_thought_tokens=256)


@dataclass(frozen=True, slots=True)
class Course:
    """Numbers of one course.

    Attributes:
        steps: Optimizer steps.
        videos: Videos per step and process; requests in a course without videos.
        learning_rate: Learning rate of the matrices. Vectors and embeddings have 0.6 of it.
        tower_share: Share of the learning rate that the vision tower has.
        warmup: Steps over which the rates rise.
        decay: Share of the steps, the last ones, over which the rates fall.
        fresh: Share of the videos of a step that no earlier step had.
        kept: Newest videos, from which the others are taken.
        checked: Videos of each split that a validation of perception looks at.
    """

    steps: int
    videos: int
    learning_rate: float
    tower_share: float = 1.0
    warmup: int = 100
    decay: float = 0.4
    fresh: float = 0.3
    kept: int = 12_000
    checked: int = 256


@dataclass(frozen=True, slots=True)
class Recipe:
    """The recipe of the tiny backbone.

    Attributes:
        sizes: Sizes of the backbone.
        perception: The vision tower, with probes for the ten attributes.
        language: The language model, on text alone.
        together: The whole model.
        processes: Processes of the last course on a CPU, each of one thread; on a GPU there is one.
        save_every: Steps between checkpoints.
        seed: Seed of the first weights and of all that is drawn.
    """

    sizes: Sizes = field(default_factory=lambda: Sizes(text=160))
    perception: Course = Course(steps=2000, videos=64, learning_rate=4e-3)
    language: Course = Course(steps=400, videos=32, learning_rate=3e-3)
    together: Course = Course(steps=1500, videos=12, learning_rate=3e-3, tower_share=0.1)
    processes: int = 2
    save_every: int = 100
    seed: int = 0


RECIPE = Recipe()
