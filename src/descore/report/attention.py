"""What query tokens attend to (figure 6 of the paper): the shares of video, prompt and thought, and heat maps."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from descore.evaluation.folder import Evaluation
from descore.evaluation.query_attention import SOURCES, query_attention
from descore.model.export import digest
from descore.model.reward_model import RewardModel
from descore.scoring.placing import choose_device
from descore.scoring.progress import progress
from descore.video.checks import VideoError

HEAT = (255, 72, 0)
"""Colour of the heat map, in RGB; the page's CSS gives the legend the same one."""

_STRONGEST, _RANGE = 0.7, (0.02, 0.98)


@dataclass(frozen=True, slots=True)
class Attended:
    """What the query tokens attend to when they score a video after its first thought, the mean over heads and layers.

    Attributes:
        shares: Share of each source, in the order of `SOURCES`; they sum to 1.
        video: Attention to each video token: T temporal patches of h x w tokens.
        times: Time of each temporal patch, in seconds.
    """

    shares: dict[str, float]
    video: Tensor  # [T, h, w] float32
    times: tuple[float, ...]

    def heat_map(self, seconds: float, size: tuple[int, int]) -> str:
        """Draw the attention to the temporal patch nearest to a time, to be laid over a frame.

        The colour goes from nothing at the 2nd percentile of the video's attention to its strongest at the 98th.

        Args:
            seconds: Time of the frame.
            size: Width and height of the frame in pixels.

        Returns:
            Data URI of a WebP image in `HEAT`, the more opaque the stronger the attention.
        """
        nearest = min(range(len(self.times)), key=lambda patch: abs(self.times[patch] - seconds))
        low, high = self.video.flatten().quantile(torch.tensor(_RANGE))
        strength = (self.video[nearest] - low) / (high - low).clamp_min(1e-12)
        opacity = strength.clamp(0, 1).mul(255 * _STRONGEST).to(torch.uint8)
        picture = Image.new("RGBA", size, HEAT)
        picture.putalpha(Image.fromarray(opacity.numpy()).resize(size, Image.Resampling.BILINEAR))
        file = io.BytesIO()
        picture.save(file, "WEBP", quality=50, alpha_quality=60)
        return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def attend(
    name: str, run: Evaluation, indices: Collection[int], *, device: str | None = None, backbone: str | None = None
) -> dict[int, Attended]:
    """Measure what the query tokens of an evaluation's model attend to, with the first thought of each video.

    Args:
        name: Name of the evaluation, for messages.
        run: The evaluation.
        indices: Indices of the videos to measure.
        device: Device to run on; the GPU if there is one, or else the CPU, if not given.
        backbone: Hub id or folder of an adapter's backbone, if it is not where the exported folder says.

    Returns:
        The attention by the index of the video; a video that was not scored, or cannot be read, is left out.

    Raises:
        ValueError: If the rewards do not come from the query token, or the model is not there, or has changed.
    """
    path, source = run.info["model"], run.info["protocol"]["reward_from"]
    if source != "head":
        raise ValueError(f"{name}: attention is that of the query token, but the reward is from {source}")
    if digest(path, backbone) != run.info["model_digest"]:
        raise ValueError(f"{name}: the model {path} has changed since its evaluation; evaluate it again")
    model = RewardModel.from_pretrained(path, backbone=backbone).to(choose_device(device))
    if model.settings.tool is not None:
        raise ValueError(
            f"{name}: attention is measured over one video, but this model asks for frames in several turns"
        )
    scored = [index for index in indices if (score := run.scores[index]) and score["error"] is None]
    found: dict[int, Attended] = {}
    with progress(f"Attention of {name}", len(scored), len(scored)) as advance:
        for index in scored:
            if (attended := _attended(model, run, index)) is not None:
                found[index] = attended
            advance(1)
    return found


def _attended(model: RewardModel, run: Evaluation, index: int) -> Attended | None:
    processor, score = model.processor, run.scores[index]
    try:
        frames = processor.read(run.path_of(index))
    except VideoError:
        return None
    prefix = processor.prefix(run.videos[index]["prompt"], frames)
    packed = processor.pack([prefix], [[processor.thought(score["thought"] if score else "")]])
    (found,) = query_attention(model, packed.to(model.head.weight.device))
    shares = dict(zip(SOURCES, found.shares.mean(0).tolist(), strict=True))
    seconds = torch.tensor(frames.seconds, dtype=torch.float64).view(len(found.video), -1).mean(1)
    return Attended(shares, found.video, tuple(seconds.tolist()))
