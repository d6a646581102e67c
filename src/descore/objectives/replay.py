"""Replay of a kept step: forward and backward of each of its pairs, by the objective that training had."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from descore.inputs.choice import TokenisedChoice
from descore.losses.pair_losses import Labels, mean_over_usable
from descore.model.reward_model import Forward, RewardModel
from descore.model.sampling import Sampling
from descore.objectives.algorithms import Algorithm
from descore.objectives.checklist import checklist_loss
from descore.objectives.choice import choice_loss
from descore.objectives.dual import DualObjective, LossWeights
from descore.objectives.kept_step import MODEL, KeptStep, KeptVideo
from descore.objectives.preference import PreferenceObjective
from descore.thinking.conversation import converse
from descore.thinking.rollouts import Rollouts
from descore.types import Group, Pair


@dataclass(frozen=True, slots=True)
class Replayed:
    """One replayed pair of a kept step.

    Attributes:
        rank: Rank that had the pair.
        pair: Id of the pair.
        loss: Loss of the pair alone, without the rest of its batch.
        reward_a: Mean reward of the branches of video A.
        reward_b: Mean reward of the branches of video B.
        gradient_norm: Norm of the gradient of that loss, over the whole model.
        reason: What was not finite first: the output of a module, the loss, or a gradient; empty if all is finite.
    """

    rank: int
    pair: str
    loss: float
    reward_a: float
    reward_b: float
    gradient_norm: float
    reason: str


def replay(folder: Path, device: torch.device) -> Iterator[Replayed]:
    """Replay a kept step: forward and backward of each pair by itself, in the precision of the step.

    Args:
        folder: Folder of the step, such as `<run>/skipped/step-12`.
        device: Device to run on.

    Raises:
        FileNotFoundError: If the folder holds no kept step.
        ExportError: If the model in the folder is damaged.
    """
    files = sorted(folder.glob("rank-*.json"))
    if not files:
        raise FileNotFoundError(f"expected a kept step such as <run>/skipped/step-12, found no rank-0.json in {folder}")
    model = RewardModel.from_pretrained(str(folder / MODEL)).to(device).train()
    for file in files:
        step, rank = KeptStep.read(file), int(file.stem.removeprefix("rank-"))
        for pair, videos in zip(step.pairs, step.videos, strict=True):
            yield _replay(model, step, pair, videos, rank)


def _replay(model: RewardModel, step: KeptStep, pair: Pair, videos: tuple[KeptVideo, KeptVideo], rank: int) -> Replayed:
    processor, device = model.processor, model.head.weight.device
    a, b = (processor.read(side.video) for side in (pair.a, pair.b))
    if model.settings.tool is not None:
        sides = zip((pair.a, pair.b), (a, b), videos, strict=True)
        prefixes = [
            converse(processor, pair.prompt, frames, side.thought if video.thoughts[0].token_ids else "")[0]
            for side, frames, video in sides
        ]
    else:
        shown = ((a, b), (b, a)) if model.settings.is_pairwise else ((a,), (b,))
        prefixes = [processor.prefix(pair.prompt, *frames) for frames in shown]
    branches = processor.pack(prefixes, [video.thoughts for video in videos]).to(device)
    sampling = Sampling(**step.sampling) if step.sampling else None
    model.zero_grad()
    narrow = torch.autocast(device.type, torch.bfloat16, enabled=step.precision.startswith("bf16"))
    with _first_not_finite(model) as found, narrow:
        forward = model(branches, with_logprobs=bool(len(branches.target_ids)), sampling=sampling)
        loss = _LOSSES[step.stage](step, pair, videos, forward)
    loss.backward()  # type: ignore[no-untyped-call]
    if not found and not loss.isfinite():
        found.append("the loss")
    found += [f"the gradient of {name}" for name, gradient in _gradients(model) if not gradient.isfinite().all()]
    norm = torch.nn.utils.get_total_norm([gradient for _, gradient in _gradients(model)])
    if not found and not norm.isfinite():
        found.append("the norm of the gradient")
    num_a = len(videos[0].thoughts)
    reward_a, reward_b = (float(rewards.detach().mean()) for rewards in forward.rewards.tensor_split([num_a]))
    reason = found[0] if found else ""
    return Replayed(rank, pair.id, float(loss.detach()), reward_a, reward_b, float(norm), reason)


def _cold_start_loss(step: KeptStep, pair: Pair, videos: Sequence[KeptVideo], forward: Forward) -> Tensor:
    objective, rewards = PreferenceObjective(**step.objective), forward.rewards
    unknown = [float("nan")] * rewards.shape[1]
    labels = Labels(
        *(rewards.new_tensor([row]) for row in (pair.preference, pair.a.mos or unknown, pair.b.mos or unknown))
    )
    return objective(rewards.view(2, 1, -1, rewards.shape[1]), forward.logprobs, labels).total


def _checklist_loss(step: KeptStep, pair: Pair, videos: Sequence[KeptVideo], forward: Forward) -> Tensor:
    return checklist_loss(forward.logprobs, [thought for video in videos for thought in video.thoughts])


def _choice_loss(step: KeptStep, pair: Pair, videos: Sequence[KeptVideo], forward: Forward) -> Tensor:
    if step.objective.get("thoughts"):
        return mean_over_usable(-forward.logprobs, torch.ones_like(forward.logprobs).bool())
    places = [TokenisedChoice(tuple(branch.token_ids for branch in video.thoughts)) for video in videos]
    return choice_loss(forward.logprobs, places, forward.logprobs.new_tensor(pair.preference[:1]))


def _rl_loss(step: KeptStep, pair: Pair, videos: Sequence[KeptVideo], forward: Forward) -> Tensor:
    algorithm, weights = Algorithm(**step.objective["algorithm"]), LossWeights(**step.objective["weights"])
    objective = DualObjective(**{**step.objective, "algorithm": algorithm, "weights": weights})
    rollouts = _rollouts(pair, videos, forward.rewards.device)
    reference = [video.reference_logprobs for video in videos]
    return objective(
        rollouts,
        [0],
        objective.shares(rollouts, [0]),
        rollouts.by_token(forward.logprobs, [0]),
        forward.rewards.view(2, -1, forward.rewards.shape[1]),
        _padded(reference, rollouts.mask) if reference[0] else None,
    ).total


_LOSSES = {"cold_start": _cold_start_loss, "checklist": _checklist_loss, "choice": _choice_loss, "rl": _rl_loss}


def _rollouts(pair: Pair, videos: Sequence[KeptVideo], device: torch.device) -> Rollouts:
    """Rollouts of one pair, with the fields that its losses read."""
    advantages = torch.tensor([video.advantages for video in videos], dtype=torch.float64, device=device)
    rows = [torch.tensor(row, device=device) for video in videos for row in video.old_logprobs]
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).bool()
    mask = mask.view(2, -1, mask.shape[1]) & ~advantages.isnan()[..., None]
    nothing = torch.zeros_like(advantages)
    groups = tuple(Group(video.thoughts, (), tuple(map(torch.tensor, video.old_logprobs)), nothing) for video in videos)
    preference = torch.tensor([pair.preference], device=device)
    old = _padded([video.old_logprobs for video in videos], mask)
    return Rollouts((pair,), preference, groups, nothing, {}, advantages.nan_to_num(), old, mask, (), None)


def _padded(rows: Sequence[Sequence[Sequence[float]]], mask: Tensor) -> Tensor:
    flat = [torch.tensor(row) for video in rows for row in video]
    return pad_sequence(flat, batch_first=True).view_as(mask).to(mask.device)


def _gradients(model: RewardModel) -> list[tuple[str, Tensor]]:
    return [(name, parameter.grad) for name, parameter in model.named_parameters() if parameter.grad is not None]


@contextmanager
def _first_not_finite(model: nn.Module) -> Iterator[list[str]]:
    """Context manager: list the modules whose output is not finite, in the order in which they run."""
    found: list[str] = []

    def look(name: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and not bool(output.isfinite().all()):
            found.append(name)

    leaves = [
        (name, module)
        for name, module in model.named_modules()
        if [*module.parameters(recurse=False)] or not [*module.children()]
    ]
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: look(name, output))
        for name, module in leaves
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
