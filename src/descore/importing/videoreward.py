"""VideoReward (VideoAlign, arXiv 2501.13918): a pickle in PEFT's names, three query tokens, three z-scores."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from descore.heads.settings import HeadSettings
from descore.importing.assembling import Published
from descore.importing.published_json import PublishedJson
from descore.importing.request import ImportRequest
from descore.importing.templates import query_tokens, read_template, template_file
from descore.importing.tensors import Lora, Named, Tensors, merge_lora, modern, named, read_pickle, rename, unwrapped
from descore.inputs.settings import ModelSettings
from descore.inputs.typed_json import FileError, read_json
from descore.model.description import RewardStatistics
from descore.video.settings import VideoSettings

CONFIG, WEIGHTS = "model_config.json", "model.pth"
FILES = (CONFIG, "README.md", f"checkpoint-*/{WEIGHTS}", "checkpoint-*/tokenizer/*.json")
MIN_PIXELS, MIN_FRAMES, MAX_FRAMES = 128 * 28 * 28, 4, 768
"""Limits of its video reader, which stand in no file."""

PROTOCOL = (
    "Frames {frames}, at equal distances, of {low:,} to {high:,} pixels; the video before the text; the states of the "
    "three query tokens after the final norm, each read by its row of the head. The rewards are the z-scores of the "
    "published code, ({means}), which are part of the head; their sum is its Overall. The published code computes in "
    "bfloat16, and shrinks frames further beyond 192 of them."
)


def read(folder: Path, request: ImportRequest) -> Published:
    """Read `model_config.json` and `checkpoint-<step>/model.pth`, that of the last step if there are several.

    Raises:
        FileError: If a file is missing or damaged, or the configuration asks for another form of the model.
    """
    config = PublishedJson(folder / CONFIG)
    for value, *keys in (
        (True, "model_config", "use_special_tokens"),
        ("special", "model_config", "reward_token"),
        ("detailed_special", "data_config", "prompt_template_type"),
        ("uniform", "data_config", "sample_type"),
    ):
        config.expect(value, *map(str, keys))
    names = config.read(tuple[str, ...], "data_config", "eval_dim")
    queries = {f"<|{name}_reward|>": name for name in names}
    weights = _last(folder)
    tensors = rename(named(read_pickle(weights), weights), unwrapped, weights)
    if config.read(bool, "peft_lora_config", "lora_enable"):
        tensors = merge_lora(tensors, _lora(config), weights)
    statistics = _statistics(config, names)
    tensors = _with_head(rename(tensors, modern, weights), statistics, weights)
    tokenizer = weights.parent / "tokenizer/tokenizer.json"
    ids = _token_ids(tokenizer) if tokenizer.is_file() else {}
    files = [folder / CONFIG, weights, *([tokenizer] if ids else [])]
    template = "DETAILED_PROMPT_WITH_SPECIAL_TOKEN of prompt_template.py"
    settings = ModelSettings(
        request.backbone or config.read(str, "model_config", "model_name_or_path"),
        read_template(request.template, queries, module=template),
        video=_video(config),
        reward_names=names,
        head=HeadSettings(query="each", bias=True),
        thoughts=False,
    )
    return Published(
        settings,
        tensors,
        weights,
        {path.relative_to(folder).as_posix(): path for path in files} | template_file(request.template),
        _protocol(settings, statistics),
        token_ids=query_tokens(queries, ids),
        calibration=RewardStatistics((0.0,) * len(names), (1.0,) * len(names)),
    )


def _last(folder: Path) -> Path:
    """Return the weights of the last step, which the published code takes too."""
    steps = {
        int(found[1]): path
        for path in folder.glob(f"checkpoint-*/{WEIGHTS}")
        if (found := re.fullmatch(r"checkpoint-(\d+)", path.parent.name))
    }
    if not steps:
        raise FileError(f"{folder} has no checkpoint-<step>/{WEIGHTS}")
    return steps[max(steps)]


def _lora(config: PublishedJson) -> Lora:
    rank, alpha = (config.read(int, "peft_lora_config", key) for key in ("lora_r", "lora_alpha"))
    if rank < 1:
        raise FileError(f"{config.path}: expected peft_lora_config.lora_r of at least 1, got {rank}")
    return Lora(rank, alpha, bool(config.read(bool | None, "peft_lora_config", "use_rslora")))


def _statistics(config: PublishedJson, names: tuple[str, ...]) -> RewardStatistics:
    mean, std = (
        tuple(config.read(float, "inference_config", f"{name}_{kind}") for name in names) for kind in ("mean", "std")
    )
    if min(std) <= 0:
        raise FileError(f"{config.path}: expected deviations above 0 in inference_config, got {min(std)}")
    return RewardStatistics(mean, std)


def _with_head(tensors: Tensors, statistics: RewardStatistics, path: Path) -> Tensors:
    """Name the head's rows and scale them to z-scores: (w . h - mean) / std."""
    head = tensors.pop("rm_head.weight", None)
    if head is None:
        raise FileError(f"{path}: missing rm_head.weight")
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (statistics.mean, statistics.std))
    if head.tensor.ndim != 2 or len(head.tensor) != len(std):
        raise FileError(f"{path}: {head.source} has shape {list(head.tensor.shape)}, expected {len(std)} rows")
    scaled = {"head.weight": head.tensor.double() / std[:, None], "head.bias": -mean / std}
    return tensors | {name: Named(head.source, tensor.float()) for name, tensor in scaled.items()}


def _token_ids(path: Path) -> dict[str, int]:
    added: Any = read_json(path).get("added_tokens")
    try:
        return {token["content"]: int(token["id"]) for token in added}
    except (TypeError, KeyError, ValueError) as error:
        raise FileError(f"{path}: expected added_tokens, each with its content and its id") from error


def _video(config: PublishedJson) -> VideoSettings:
    fixed = config.read(int | None, "data_config", "num_frames")
    fewest, most = (MIN_FRAMES, MAX_FRAMES) if fixed is None else (fixed, fixed)
    fps, pixels = config.read(float, "data_config", "fps"), config.read(int, "data_config", "max_frame_pixels")
    try:
        return VideoSettings(fps, fewest, most, MIN_PIXELS, pixels)
    except ValueError as error:
        raise FileError(f"{config.path}: {error}") from error


def _protocol(settings: ModelSettings, statistics: RewardStatistics) -> str:
    video = settings.video
    rows = zip(settings.reward_names, statistics.mean, statistics.std, strict=True)
    return PROTOCOL.format(
        frames=f"{video.fps:g} a second, {video.min_frames} to {video.max_frames}",
        low=video.min_pixels,
        high=video.max_pixels,
        means=", ".join(f"{name}: raw less {mean:g}, over {std:g}" for name, mean, std in rows),
    )
