"""The optimizer of the tiny backbone: against torch's own, and what orthogonalising means."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from pretraining.muon import BETAS, EPSILON, MOMENTUM, Muon, orthogonalise


def gradients(shape: tuple[int, ...], steps: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for _ in range(steps)]


def run(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter) -> torch.Tensor:
    for gradient in gradients(tuple(parameter.shape)):
        parameter.grad = gradient
        optimizer.step()
    return parameter.detach()


def test_vectors_move_as_by_adam():
    ours, theirs = (torch.nn.Parameter(torch.ones(7)) for _ in range(2))
    found = run(Muon([ours], lr=1e-2), ours)
    assert_close(found, run(torch.optim.Adam([theirs], lr=1e-2, betas=BETAS, eps=EPSILON), theirs), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(12, 12), (8, 24), (24, 8)])
def test_matrices_move_as_by_torchs_muon_up_to_its_bfloat16(shape):
    ours, theirs = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
    found = run(Muon([{"params": [ours], "matrices": True}], lr=1e-2), ours)
    options = {"lr": 1e-2, "weight_decay": 0.01, "momentum": MOMENTUM, "adjust_lr_fn": "match_rms_adamw"}
    expected = run(torch.optim.Muon([theirs], **options), theirs)
    assert_close(found, expected, atol=1e-3, rtol=0)
    assert (found - 1).abs().max() > 5e-3


def test_all_directions_of_an_orthogonalised_matrix_have_nearly_one_size():
    matrix = torch.randn(16, 40, generator=torch.Generator().manual_seed(1)) * torch.logspace(0, -1.5, 16)[:, None]
    before, after = (torch.linalg.svdvals(one) for one in (matrix, orthogonalise(matrix)))
    assert before.max() > 20 * before.min()
    assert after.max() < 1.3
    assert after.min() > 0.5
