"""HPSv3 (arXiv 2508.03789): one safetensors file, a query token in the prompt of one picture, and an MLP head."""

from __future__ import annotations

from pathlib import Path

from descore.heads.settings import HeadSettings
from descore.importing.assembling import Published
from descore.importing.request import ImportRequest
from descore.importing.templates import read_template, template_file
from descore.importing.tensors import Named, Tensors, modern, read_safetensors, rename
from descore.inputs.settings import ModelSettings
from descore.inputs.typed_json import FileError
from descore.video.settings import VideoSettings

WEIGHTS = "HPSv3.safetensors"
FILES = (WEIGHTS, "README.md")
BACKBONE = "Qwen/Qwen2-VL-7B-Instruct"
PIXELS = 256 * 28 * 28
"""Area of a picture: both the smallest and the largest."""

QUERIES = {"<|Reward|>": ""}
LAYERS = {"rm_head.0": "head.layers.0", "rm_head.3": "head.layers.1", "rm_head.5": "head"}
"""Places of the head's linear layers; between them are ReLU, and dropout in training."""

PROTOCOL = (
    "One picture of about 200,704 pixels before the text, and the state of the query token. The head gives a mean and "
    "a deviation: the reward is the mean, as in the published code, and the row of the deviation is left out. A "
    "picture is a video of one frame; of a longer video the first frame is read. The published code computes in "
    "bfloat16."
)


def read(folder: Path, request: ImportRequest) -> Published:
    """Read `HPSv3.safetensors`, whose names are those of any version of transformers.

    Raises:
        FileError: If the file is missing or damaged.
    """
    path = folder / WEIGHTS
    tensors = rename(read_safetensors([path]), modern, path)
    widths = [_width(tensors, layer, path) for layer in ("rm_head.0", "rm_head.3")]
    settings = ModelSettings(
        request.backbone or BACKBONE,
        read_template(
            request.template, QUERIES, module="INSTRUCTION + prompt_with_special_token of data_collator_qwen"
        ),
        video=VideoSettings(min_frames=1, max_frames=1, min_pixels=PIXELS, max_pixels=PIXELS),
        reward_names=("mu",),
        head=HeadSettings(kind="mlp", hidden=tuple(widths), bias=True),
        thoughts=False,
    )
    files = {WEIGHTS: path} | template_file(request.template)
    return Published(settings, _with_head(tensors, path), path, files, PROTOCOL)


def _width(tensors: Tensors, layer: str, path: Path) -> int:
    if (found := tensors.get(f"{layer}.weight")) is None:
        raise FileError(f"{path}: missing {layer}.weight")
    return len(found.tensor)


def _with_head(tensors: Tensors, path: Path) -> Tensors:
    """Name the head's layers, and keep the first of the two rows of its last layer: the mean."""

    def new_name(name: str) -> str:
        layer, _, kind = name.rpartition(".")
        return f"{LAYERS.get(layer, layer)}.{kind}"

    tensors = rename(tensors, new_name, path)
    for name in ("head.weight", "head.bias"):
        if (one := tensors.get(name)) is not None:
            if len(one.tensor) != 2:
                raise FileError(f"{path}: {one.source} has {len(one.tensor)} rows, expected the mean and the deviation")
            tensors[name] = Named(one.source, one.tensor[:1])
    return tensors
