"""What is trained and measured: every paradigm on the same pairs, backbone and budget, over several seeds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.evidence.data import pairs_table, train_table
from benchmarks.evidence.measure import measure, swap
from benchmarks.evidence.schedule import Task
from descore.train import main as train


@dataclass(frozen=True)
class Scale:
    """How much is trained and measured.

    Attributes:
        seeds: Of the order of the pairs, the masks, the heads and the sampled thoughts; the data are the same.
        num_train: Training pairs.
        smaller: Smaller numbers of training pairs, for accuracy against their number.
        num_held_out: Pairs of each of both splits.
        epochs: Of stage 1 and of everything in its place.
        val_every: Steps of stage 1 between validations.
        num_val: Held-out pairs that are validated on in training.
        rollout_batches: Batches of stage 2 and of everything in its place, two steps each.
        rollout_val_every: Batches of stage 2 between validations.
        fit_pairs: Training pairs that the weights of the checklist are fitted on.
        num_thoughts: Most thoughts at test time.
        num_thought_pairs: Out-of-domain pairs that are scored with so many.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    num_train: int = 450
    smaller: tuple[int, ...] = (112, 225)
    num_held_out: int = 180
    epochs: int = 2
    val_every: int = 28
    num_val: int = 40
    rollout_batches: int = 28
    rollout_val_every: int = 7
    fit_pairs: int = 128
    num_thoughts: int = 8
    num_thought_pairs: int = 90


FULL = Scale()
QUICK = Scale(
    seeds=(0,),
    num_train=128,
    smaller=(64,),
    num_held_out=48,
    epochs=1,
    val_every=8,
    num_val=24,
    rollout_batches=4,
    rollout_val_every=2,
    fit_pairs=32,
    num_thoughts=4,
    num_thought_pairs=16,
)


@dataclass(frozen=True)
class Paradigm:
    """A way to make a reward model.

    Attributes:
        label: What figures call it.
        config: Its YAML.
        options: What differs from it.
        start: The paradigm whose export it starts from; none for one that starts from the backbone.
        sizes: Whether it is also trained on fewer pairs.
        thinks: Whether it writes thoughts.
    """

    label: str
    config: str
    options: tuple[str, ...] = ()
    start: str = ""
    sizes: bool = False
    thinks: bool = True

    @property
    def stage(self) -> int:
        """1 or 2."""
        return 2 if self.start else 1


PARADIGMS = {
    "discriminative": Paradigm("discriminative", "conf/baselines/discriminative.yaml", sizes=True, thinks=False),
    "discriminative_mse": Paradigm("discriminative, MSE", "conf/baselines/discriminative_mse.yaml", thinks=False),
    "checklist": Paradigm("yes/no probes", "conf/baselines/checklist.yaml", thinks=False),
    "coupled": Paradigm("coupled, supervised", "conf/baselines/coupled.yaml", sizes=True),
    "coupled_grpo": Paradigm("coupled, GRPO", "conf/baselines/coupled_grpo.yaml", start="coupled"),
    "decoupled": Paradigm("decoupled, stage 1", "conf/stage1.yaml", sizes=True),
    "decoupled_rl": Paradigm("decoupled, stages 1+2", "conf/stage2.yaml", start="decoupled"),
    "unmasked": Paradigm("decoupled, no masking", "conf/stage1.yaml", ("--model.cot_mask_prob", "0")),
    "uncalibrated": Paradigm(
        "decoupled, no calibration loss", "conf/stage2.yaml", ("--model.calibration_weight", "0"), start="decoupled"
    ),
}
"""By name, in the order they are trained; a later one may start from an earlier one."""


def tasks(scale: Scale, root: Path) -> list[Task]:
    """List all that is to be done, seed after seed."""
    found = []
    for seed in scale.seeds:
        for name, paradigm in PARADIGMS.items():
            sizes = (*scale.smaller, scale.num_train) if paradigm.sizes else (scale.num_train,)
            for size in sizes:
                found += _train_and_measure(scale, root, seed, name, size)
        needs = tuple(f"measure-{run_name(name, seed)}" for name in PARADIGMS)
        found.append(Task(f"swap-{seed}", swap, (str(root), str(seed)), needs))
    return found


def run_name(paradigm: str, seed: int, num_train: int | None = None) -> str:
    """Name a run; that of a smaller number of pairs says so."""
    return f"{paradigm}-{seed}" if num_train is None else f"{paradigm}-{num_train}-{seed}"


def _train_and_measure(scale: Scale, root: Path, seed: int, name: str, size: int) -> list[Task]:
    whole = size == scale.num_train
    run = run_name(name, seed, None if whole else size)
    start = PARADIGMS[name].start
    arguments = _arguments(scale, root, seed, name, size)
    training = Task(
        f"train-{run}", run_training, tuple(arguments), (f"train-{run_name(start, seed)}",) if start else ()
    )
    thoughts = str(scale.num_thoughts if name in {"decoupled", "decoupled_rl"} and whole else 1)
    wanted = (str(root), run, name, thoughts, str(scale.num_thought_pairs), "whole" if whole else "accuracy")
    return [training, Task(f"measure-{run}", measure, wanted, (training.name,))]


def _arguments(scale: Scale, root: Path, seed: int, name: str, size: int) -> list[str]:
    """The command line of a run."""
    paradigm, whole = PARADIGMS[name], size == scale.num_train
    arguments = [
        *("fit", "-c", paradigm.config, "--resume", "auto", "--seed_everything", str(seed)),
        *("--data", "data_modules.preference.PreferencePairDataModule", "--data.train", str(train_table(root, size))),
        *("--data.val", json.dumps({"val": str(pairs_table(root, "val"))}), "--data.cache_dir", str(root / "cache")),
        *("--data.max_val_pairs", str(scale.num_val), "--data.val_batch_size", "32", "--data.num_workers", "0"),
        *("--data.seed", str(seed), "--model.seed", str(seed)),
        *("--trainer.logger.save_dir", str(root / "training"), "--trainer.log_every_n_steps", "1"),
        *("--trainer.logger.name", run_name(name, seed, None if whole else size)),
        *paradigm.options,
    ]
    if paradigm.stage == 1:
        arguments += ["--data.batch_size", "8", "--trainer.max_epochs", str(scale.epochs)]
        arguments += ["--trainer.val_check_interval", str(scale.val_every)]
        arguments += ["--trainer.check_val_every_n_epoch", "null"]
    else:
        start = export_of(root, run_name(paradigm.start, seed))
        arguments += ["--model.pretrained", str(start), "--data.batch_size", "6", "--model.mini_batch_pairs", "3"]
        arguments += ["--trainer.max_steps", str(2 * scale.rollout_batches)]
        arguments += ["--trainer.val_check_interval", str(scale.rollout_val_every)]
    if name == "checklist":
        arguments += ["--model.fit_pairs", str(scale.fit_pairs)]
    if paradigm.thinks:
        arguments += ["--model.own_thought_pairs", str(scale.num_val)]
    return arguments if whole else [*arguments, "--trainer.limit_val_batches", "0"]


def export_of(root: Path, run: str) -> Path:
    """Where a run leaves its model."""
    return root / "training" / run / "version_0" / "export" / "last"


def run_training(*arguments: str) -> None:
    """Train, or go on with a training that was killed."""
    train(list(arguments))
