"""Form of a head, and which hidden states it reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

QueryMode = Literal["shared", "each", "last"]
"""Which hidden states the head reads."""

HeadKind = Literal["linear", "mlp", "gated"]
MAX_WIDTH, MAX_LAYERS = 2**14, 8
"""Largest width of a hidden layer and number of criteria, and number of hidden layers."""


@dataclass(frozen=True)
class HeadSettings:
    """Form of the head, and which hidden states it reads; stored in the exported folder.

    Attributes:
        query: "shared" reads all rewards from one `<Reward>`, "each" reads every reward from a query token of its own,
            "last" has no query token and reads all rewards from the last token of the prompt, or of the thought.
        kind: "linear", one row of weights for each reward; "mlp", the same after hidden layers with ReLU; "gated",
            a mixture of criteria: each criterion is linear in the state, and a softmax gate gives their shares in each
            reward.
        bias: Whether every layer of the head has a bias.
        hidden: Widths of the hidden layers of "mlp", or of the gate of "gated".
        criteria: Number of criteria of "gated".

    Raises:
        ValueError: If a value is unknown or out of its range, or does not belong to the kind.

    >>> HeadSettings(kind="mlp", hidden=(1024, 16), bias=True).rows(num_rewards=1)["layers.1.weight"]
    16
    """

    query: QueryMode = "shared"
    kind: HeadKind = "linear"
    bias: bool = False
    hidden: tuple[int, ...] = ()
    criteria: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("query", get_args(QueryMode)), ("kind", get_args(HeadKind))):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"head.{name} is {value!r}; expected one of {', '.join(allowed)}")
        if wrong := [width for width in self.hidden if not 1 <= width <= MAX_WIDTH]:
            raise ValueError(f"head.hidden has a width of {wrong[0]}; expected 1 to {MAX_WIDTH}")
        least, most = {"linear": (0, 0), "mlp": (1, MAX_LAYERS), "gated": (0, MAX_LAYERS)}[self.kind]
        if not least <= len(self.hidden) <= most:
            number = f"{least} to {most} widths" if most else "none"
            raise ValueError(f"head.hidden is {list(self.hidden)}; expected {number} for head.kind {self.kind}")
        low, high = (2, MAX_WIDTH) if self.kind == "gated" else (0, 0)
        if not low <= self.criteria <= high:
            number = f"{low} to {high}" if high else "none"
            raise ValueError(f"head.criteria is {self.criteria}; expected {number} for head.kind {self.kind}")

    def rows(self, num_rewards: int) -> dict[str, int]:
        """Return the number of rows of every tensor of the head, by its name."""
        layers = {f"layers.{index}.": width for index, width in enumerate(self.hidden)}
        if self.kind == "gated":
            layers |= {"": self.criteria, "gate.": num_rewards * self.criteria}
        else:
            layers[""] = num_rewards
        tensors = ("weight", "bias") if self.bias else ("weight",)
        return {f"{layer}{tensor}": rows for layer, rows in layers.items() for tensor in tensors}
