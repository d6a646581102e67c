"""What many tests start from: backbones of both families small enough for a test, models on them, frames and files."""

import faulthandler
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from data_modules.world.small_backbone import Sizes, write_random_backbone
from descore.inputs.settings import ModelSettings
from descore.model.reward_model import RewardModel
from descore.video.settings import VideoSettings
from descore.video.writer import write_video

FAMILIES = ("qwen3_vl", "qwen2_5_vl")
SIZES = Sizes(text=64, text_layers=2, vision=32, vision_layers=2, heads=4, patch=8, positions=36, vocabulary=320)
CORPUS = ("A red circle moves left fast.", "<think>The circle is red.</think>", "<1.5 seconds>", "Judge the video.")

Build = Callable[..., RewardModel]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_watchdog() -> Iterator[None]:
    """Stop the watchdog of a run that failed: it waits for the end of the process, and here the process goes on."""
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each family, by name. Its weights are larger than usual, so that a wrong mask or position shows."""
    folders = {family: tmp_path_factory.mktemp("backbones") / family for family in FAMILIES}
    for family, folder in folders.items():
        write_random_backbone(folder, CORPUS, family=family, sizes=SIZES)
        weights = load_file(folder / "model.safetensors")
        louder = {name: 4 * weight if weight.ndim > 1 else weight for name, weight in weights.items()}
        save_file(louder, folder / "model.safetensors", metadata={"format": "pt"})
    return folders


@pytest.fixture(scope="session")
def build(backbones: dict[str, Path]) -> Build:
    """Build a new model: `build(family="qwen3_vl", **settings)`."""

    def build_model(family: str = "qwen3_vl", **settings: object) -> RewardModel:
        video = VideoSettings(min_pixels=256, max_pixels=1024, max_frames=6)
        defaults = {"template": "Judge it: {prompt}", "video": video, "max_thought_tokens": 16}
        return RewardModel.create(ModelSettings(str(backbones[family]), **defaults | settings)).eval()

    return build_model


@pytest.fixture(scope="session", params=FAMILIES)
def model(request: pytest.FixtureRequest, build: Build) -> RewardModel:
    """A model of each family, to be read only."""
    return build(request.param)


@pytest.fixture(scope="session")
def qwen3(build: Build) -> RewardModel:
    """A Qwen3-VL model, to be read only."""
    return build("qwen3_vl")


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Real mp4 files of different lengths and sizes: a bright bar moves over a gradient."""
    folder = tmp_path_factory.mktemp("clips")
    for index, (num, height, width) in enumerate([(16, 32, 48), (24, 64, 32), (8, 32, 32), (16, 48, 48)]):
        shade = torch.linspace(0, 200, width).expand(num, 3, height, width).clone()
        for frame in range(num):
            shade[frame, index % 3, :, (frame * 2) % width] = 255
        write_video(folder / f"{index}.mp4", shade.byte(), fps=8)
    return [str(path) for path in sorted(folder.iterdir())]
