"""One update of stage 2: the gradients of a mini-batch of pairs, accumulated micro-batch by micro-batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from descore.model.sampling import Sampling
from descore.modules.step_metrics import Means, Stopwatch
from descore.objectives.dual import DualObjective, Losses, Shares
from descore.runtime.sharding import Sharding
from descore.thinking.rollouts import Rollouts


@dataclass(frozen=True, slots=True)
class Ranks:
    """What the ranks of a run tell each other; every rank calls these together.

    Attributes:
        mean: Averages a tensor over the ranks.
        max: Maximum of a tensor over the ranks.
    """

    mean: Callable[[Tensor], Tensor]
    max: Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Update:
    """The gradients of one optimizer step on some pairs of a rollout batch.

    Attributes:
        sharding: The model on the ranks.
        objective: What is minimised.
        sampling: How the thoughts were sampled.
        rollouts: The rollout batch.
        reference: `[V, n, T]` log-probabilities under the reference; None without a reference.
        micro_batch_pairs: Pairs per forward pass; 0 for all at once.
        ranks: The other ranks.
        backward: Back-propagates a scalar.
        means: Counts what is logged.
        clock: Times the phases.
    """

    sharding: Sharding
    objective: DualObjective
    sampling: Sampling
    rollouts: Rollouts
    reference: Tensor | None
    micro_batch_pairs: int
    ranks: Ranks
    backward: Callable[[Tensor], None]
    means: Means
    clock: Stopwatch

    def __call__(self, pairs: Sequence[int], *, log_norms: bool) -> Tensor:
        """Accumulate the gradients of a mini-batch.

        Args:
            pairs: Indices of its pairs in the rollout batch.
            log_norms: Also log the gradient norms of policy and calibration loss by themselves.

        Returns:
            The loss of the mini-batch, detached.
        """
        shares = self.objective.shares(self.rollouts, pairs, self.ranks.mean)
        micro_batches = split_on_ranks(pairs, self.micro_batch_pairs, self.ranks)
        passes = [partial(self._forward, micro_batch, shares) for micro_batch in micro_batches]
        if log_norms:
            losses, calibration = self.sharding.split_backward(passes, self._backward, self.ranks.mean)
            self._log_norms(calibration)
        else:
            losses = [self._forward_backward(run) for run in passes]
        return self._log_losses(losses)

    def _forward(self, pairs: Sequence[int], shares: Shares) -> Losses:
        """Losses of a micro-batch, from one packed forward; without pairs, they are those of another pair times 0."""
        if not pairs:
            pairs, shares = [0], Shares(torch.zeros_like(shares.tokens), torch.zeros_like(shares.preference))
        model, rollouts = self.sharding.model, self.rollouts
        branches, seen = rollouts.pack(model.processor, pairs)
        videos = rollouts.videos(pairs)
        with self.clock("forward"):
            forward = model(branches, with_logprobs=True, sampling=self.sampling, seen=seen)
        for phase in ("forward", "backward"):
            self.clock.count(phase, branches.layout.num_tokens)
        losses = self.objective(
            rollouts,
            pairs,
            shares,
            rollouts.by_token(forward.logprobs, pairs),
            forward.rewards.view(len(videos), -1, forward.rewards.shape[1]),
            None if self.reference is None else self.reference[videos],
        )
        named = {f"train/{name}": value for name, value in losses.metrics.items()}
        self.means.add(named, (shares.tokens[videos] > 0).sum())
        return losses

    def _backward(self, loss: Tensor) -> None:
        with self.clock("backward"):
            self.backward(loss)

    def _forward_backward(self, run: Callable[[], Losses]) -> Losses:
        losses = run()
        self._backward(losses.total)
        return losses

    def _log_losses(self, losses: Sequence[Losses]) -> Tensor:
        """Add up the losses of the micro-batches, and return their total."""
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=losses[0].total.device))
        for one in losses:
            named = {"loss": one.total, "policy_loss": one.policy, "kl_loss": one.kl}
            for name, value in (named | {"calibration_loss": one.calibration}).items():
                sums[name] = sums[name] + value.detach()
        self.means.add({f"train/{name}": value for name, value in sums.items()})
        return sums["loss"]

    def _log_norms(self, calibration: Sequence[Tensor]) -> None:
        """Log the gradient norms of the calibration loss, and of the rest: policy loss and KL."""
        trained = self.sharding.trained()
        pairs = zip(trained, calibration, strict=True)
        policy = [own if parameter.grad is None else parameter.grad - own for parameter, own in pairs]
        norms = {"grad/policy": policy, "grad/calibration": list(calibration)}
        self.means.add({name: self.sharding.total_norm(gradients) for name, gradients in norms.items()})


def split(pairs: Sequence[int], size: int) -> list[list[int]]:
    """Split into pieces of a size; 0 for one piece.

    >>> split(range(5), 2)
    [[0, 1], [2, 3], [4]]
    """
    size = size or max(len(pairs), 1)
    return [list(pairs[start : start + size]) for start in range(0, len(pairs), size)]


def split_on_ranks(pairs: Sequence[int], size: int, ranks: Ranks) -> list[list[int]]:
    """Split into pieces of a size; a rank with fewer of them than another has empty ones at the end."""
    pieces = split(pairs, size)
    count = int(ranks.max(torch.tensor(len(pieces))))
    return pieces + [[]] * (count - len(pieces))
