"""Options of how videos are scored, shared by the commands that score."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, get_args

from descore.inputs.settings import Dtype, RewardSource

if TYPE_CHECKING:
    from descore.scoring.protocol import ScoringProtocol
    from descore.scoring.scorer import Scorer


def add_model_option(command: Any, *, required: bool = True) -> None:
    """Add `--model`, which a command that always scores requires, and `--backbone`."""
    option = command.add_argument
    option(
        "--model",
        required=required,
        help="run, or its exported folder such as .../export/best; a hub id; demo, a toy that ships; or a settings "
        "file (.yaml), which reads a backbone as it was published",
    )
    option("--backbone", help="hub id or folder of an adapter's backbone, if it is not where the exported folder says")


def add_scoring_options(group: Any) -> None:
    """Add the options of a `ScoringProtocol`, of the device and of the shard."""
    add_protocol_options(group)
    group.add_argument(
        "--shard",
        type=_shard,
        default=(1, 1),
        metavar="I/N",
        help="score part I of N, to share the work between N machines; the one that finishes last writes the result "
        "(default 1/1)",
    )


def add_protocol_options(group: Any) -> None:
    """Add the options of a `ScoringProtocol` and of the device."""
    option = group.add_argument
    option(
        "--num-thoughts",
        type=int,
        default=1,
        metavar="K",
        help="thoughts sampled per video; the reward is the mean over them (default 1). More thoughts give a steadier "
        "reward and its standard deviation, at K times the cost",
    )
    option("--no-thoughts", action="store_true", help="score without thinking: faster, but without an explanation")
    option(
        "--temperature",
        type=float,
        help="sampling temperature of the thoughts; 0 is greedy (default: 0 for one thought, 1 for several)",
    )
    option(
        "--reward-from",
        choices=get_args(RewardSource),
        help="source of the reward (default: the one that the model was trained for); every model that thinks can give "
        "the overall_score, expected_score or top_share of its answer",
    )
    option(
        "--dtype",
        choices=get_args(Dtype),
        help="precision of the backbone (default: bfloat16 on a GPU, float32 on a CPU)",
    )
    option(
        "--max-batch-tokens",
        type=int,
        metavar="N",
        help="tokens scored together, those of the thoughts included (default: as many as the memory is for). Another "
        "number changes rewards by rounding errors",
    )
    option("--device", help="device to run on, such as cpu or cuda:0 (default: the GPU if there is one)")


def protocol_of(options: argparse.Namespace) -> ScoringProtocol:
    """Return the protocol that the options ask for.

    Raises:
        ScoringError: If an option is out of its range, or contradicts another one.
    """
    from descore.scoring.protocol import ScoringProtocol

    return ScoringProtocol(
        num_thoughts=options.num_thoughts,
        thoughts=not options.no_thoughts,
        temperature=options.temperature,
        reward_from=options.reward_from,
        dtype=options.dtype,
        max_batch_tokens=options.max_batch_tokens,
    )


def scorer_of(options: argparse.Namespace, protocol: ScoringProtocol) -> Scorer:
    """Return the scorer that the options and their protocol ask for."""
    from descore.scoring.scorer import Scorer

    return Scorer(
        options.model,
        device=options.device,
        backbone=options.backbone,
        thoughts=protocol.thoughts,
        dtype=protocol.dtype,
        max_batch_tokens=protocol.max_batch_tokens,
        reward_from=protocol.reward_from,
    )


def _shard(text: str) -> tuple[int, int]:
    try:
        part, parts = map(int, text.split("/"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected I/N, such as 1/4 for the first of four, got {text!r}") from error
    return part, parts
