"""The lines of the comparison, each a paradigm and the source of its reward."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.evidence.plan import SYSTEMS


@dataclass(frozen=True)
class Arm:
    """One line of the comparison: a paradigm and the source of its reward.

    Attributes:
        label: Name in figures and tables.
        paradigm: Name of the paradigm.
        field: Field of a score record that holds the reward.
    """

    label: str
    paradigm: str
    field: str = "reward"


ARMS = {
    "discriminative": Arm("discriminative", "discriminative"),
    "discriminative_mse": Arm("discriminative, MSE", "discriminative_mse"),
    "checklist": Arm("yes/no probes", "checklist"),
    "coupled": Arm("coupled: written score", "coupled", "overall_score"),
    "coupled_expected": Arm("coupled: expected score", "coupled"),
    "coupled_grpo": Arm("coupled, GRPO: written score", "coupled_grpo", "overall_score"),
    "coupled_grpo_expected": Arm("coupled, GRPO: expected score", "coupled_grpo"),
    "decoupled": Arm("decoupled, stage 1", "decoupled"),
    "decoupled_rl": Arm("decoupled, stages 1+2", "decoupled_rl"),
    "unmasked": Arm("decoupled, stage 1, no masking", "unmasked"),
    "uncalibrated": Arm("decoupled, stages 1+2, no calibration loss", "uncalibrated"),
}
"""By name; the first nine are the comparison, the last two leave out a part of ours."""

LONGER_ARMS = {
    "discriminative": Arm("discriminative", "discriminative_longer"),
    "decoupled": Arm("decoupled, stage 1", "decoupled_longer"),
    "decoupled_rl": Arm("decoupled, stages 1+2", "decoupled_rl_longer"),
}
"""The same arms after three times the epochs, by the name of the arm."""

SYSTEM_ARMS = {name: Arm(system.label, name) for name, system in SYSTEMS.items()}
"""The ways of published systems, by the name of the paradigm."""

OURS = "decoupled_rl"
