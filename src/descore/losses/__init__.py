"""Losses: pure functions of tensors, computed in float32."""

from descore.losses.policy import KLEstimator, PolicyVariant, kl_divergence, policy_loss, policy_terms
from descore.losses.preference import (
    bradley_terry_loss,
    constant_margin_loss,
    margin_loss,
    mse_loss,
    rao_kupper_loss,
    scaled_loss,
)

__all__ = [
    "KLEstimator",
    "PolicyVariant",
    "bradley_terry_loss",
    "constant_margin_loss",
    "kl_divergence",
    "margin_loss",
    "mse_loss",
    "policy_loss",
    "policy_terms",
    "rao_kupper_loss",
    "scaled_loss",
]
