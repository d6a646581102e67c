"""What is compared: how many frames a model sees, and whether it may ask for more."""

from __future__ import annotations

from dataclasses import dataclass

from descore.train import main

CONF = "conf/baselines/vr_thinker.yaml"
QUICK = ("--data.num_train", "16", "--data.num_val", "8")
OWN = "32"
"""Validation pairs about which the models write thoughts while they train."""


@dataclass(frozen=True)
class Arm:
    """One way to show frames to a model.

    Attributes:
        words: What the table calls it.
        trained: Name of the arm whose model it reads.
        num_frames: Number of frames, evenly spaced, that a model without a tool sees; 0 for a model with one.
        random: Whether calls are answered with frames of another moment, drawn at random.
    """

    words: str
    trained: str
    num_frames: int = 0
    random: bool = False


ARMS = {
    "first": Arm("the first frames only", "first", num_frames=4),
    "even": Arm("as many frames as with the tool, evenly spaced", "even", num_frames=8),
    "all": Arm("all frames", "all", num_frames=64),
    "tool": Arm("the tool", "tool"),
    "random": Arm("the tool, answered with frames of a random moment", "tool", random=True),
}
TRAINED = [name for name, arm in ARMS.items() if arm.trained == name]


def train(root: str, name: str, seed: str, quick: str) -> None:
    """Train the model of an arm: the same pairs, teacher and steps for each.

    Args:
        root: Folder of everything.
        name: Name of the arm.
        seed: Seed of the run.
        quick: Whether a few pairs are enough.
    """
    frames = ARMS[name].num_frames
    shown = ["--data.calls", "false", "--model.thoughts", "true", "--model.video.max_frames", str(frames)]
    main([
        *("fit", "-c", CONF, "--seed_everything", seed, "--trainer.accelerator", "cpu"),
        *("--trainer.logger.save_dir", root, "--trainer.logger.name", f"{name}-{seed}"),
        *("--data.root", f"{root}/pairs", "--data.cache.folder", f"{root}/cache", "--data.num_workers", "1"),
        *("--data.max_val_pairs", OWN, "--model.own_thought_pairs", OWN),
        *(QUICK if quick == "True" else ()),
        *(["--model.video.min_frames", str(min(frames, 8)), *shown] if frames else []),
    ])
