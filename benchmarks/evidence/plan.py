"""What is trained and measured: every paradigm on the same pairs, backbone and budget, over several seeds."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.evidence.data import labelled, labels_of, pairs_table, train_table, write_right
from benchmarks.evidence.measure import measure, swap
from benchmarks.evidence.schedule import Task
from data_modules.world.labels import Labels
from descore.train import main as train


@dataclass(frozen=True)
class Scale:
    """How much is trained and measured.

    Attributes:
        seeds: Seeds of the order of the pairs, the masks, the heads and the sampled thoughts; the data are the same.
        num_train: Number of training pairs.
        smaller: Smaller numbers of training pairs, for accuracy by their number.
        num_held_out: Number of pairs of each held-out split.
        epochs: Epochs of stage 1 and of everything in its place.
        val_every: Steps of stage 1 between validations.
        num_val: Held-out pairs of a validation in training.
        rollout_batches: Batches of stage 2 and of everything in its place, two steps each.
        rollout_val_every: Batches of stage 2 between validations.
        fit_pairs: Training pairs that the weights of the checklist are fitted on.
        num_thoughts: Largest number of thoughts per video at test time.
        num_thought_pairs: Out-of-domain pairs that are scored with so many thoughts.
        rejects: Whether models are trained on the right ones of their thoughts; after few steps none is right.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    num_train: int = 450
    smaller: tuple[int, ...] = (112, 225)
    num_held_out: int = 300
    epochs: int = 2
    val_every: int = 28
    num_val: int = 40
    rollout_batches: int = 28
    rollout_val_every: int = 7
    fit_pairs: int = 128
    num_thoughts: int = 8
    num_thought_pairs: int = 90
    rejects: bool = True


FULL = Scale()
QUICK = Scale(
    seeds=(0,),
    num_train=32,
    smaller=(16,),
    num_held_out=12,
    epochs=1,
    val_every=2,
    num_val=4,
    rollout_batches=2,
    rollout_val_every=1,
    fit_pairs=8,
    num_thoughts=2,
    num_thought_pairs=6,
    rejects=False,
)
"""Shows that all of it runs; its numbers mean nothing."""


@dataclass(frozen=True)
class Paradigm:
    """A way to train a reward model.

    Attributes:
        label: Name in figures and tables.
        config: Its configuration.
        options: Options that differ from the configuration, by name.
        start: Paradigm whose exported model it starts from; empty if it starts from the backbone.
        times: How many times the epochs of the others stage 1, or what is in its place, has.
        sizes: Whether it is also trained on fewer pairs.
        thinks: Whether it writes thoughts.
        fits: Whether it fits the weights of a checklist.
        rejects: Whether it is trained again, as the one that it starts from, on the right ones of its thoughts.
    """

    label: str
    config: str
    options: Mapping[str, object] = field(default_factory=dict)
    start: str = ""
    times: int = 1
    sizes: bool = False
    thinks: bool = True
    fits: bool = False
    rejects: bool = False

    @property
    def stage(self) -> int:
        """Stage of the training, 1 or 2."""
        return 2 if self.start and not self.rejects else 1


PARADIGMS = {
    "discriminative": Paradigm("discriminative", "conf/baselines/discriminative.yaml", sizes=True, thinks=False),
    "discriminative_mse": Paradigm("discriminative, MSE", "conf/baselines/discriminative_mse.yaml", thinks=False),
    "checklist": Paradigm("yes/no probes", "conf/baselines/checklist.yaml", thinks=False, fits=True),
    "coupled": Paradigm("coupled, supervised", "conf/baselines/coupled.yaml", sizes=True),
    "coupled_grpo": Paradigm("coupled, GRPO", "conf/baselines/coupled_grpo.yaml", start="coupled"),
    "decoupled": Paradigm("decoupled, stage 1", "conf/stage1.yaml", sizes=True),
    "decoupled_rl": Paradigm("decoupled, stages 1+2", "conf/stage2.yaml", start="decoupled"),
    "unmasked": Paradigm("decoupled, no masking", "conf/stage1.yaml", {"model.objective.cot_mask_prob": 0}),
    "uncalibrated": Paradigm(
        "decoupled, no calibration loss", "conf/stage2.yaml", {"model.weights.calibration": 0}, start="decoupled"
    ),
}
"""By name, in the order of the training; a later one may start from an earlier one."""

LONGER = {
    "discriminative_longer": Paradigm("discriminative", "conf/baselines/discriminative.yaml", times=3, thinks=False),
    "decoupled_longer": Paradigm("decoupled, stage 1", "conf/stage1.yaml", times=3),
    "decoupled_rl_longer": Paradigm("decoupled, stages 1+2", "conf/stage2.yaml", start="decoupled_longer"),
}
"""The same pairs three times as often; shows whether what lags behind is only slower."""


SYSTEMS = {
    "videoalign": Paradigm("VideoAlign", "conf/baselines/videoalign.yaml", thinks=False),
    "videoscore": Paradigm("VideoScore", "conf/baselines/videoscore.yaml", thinks=False),
    "visionreward": Paradigm("VisionReward", "conf/baselines/visionreward.yaml", thinks=False, fits=True),
    "lift": Paradigm("LiFT-Critic", "conf/baselines/lift.yaml"),
    "videoscore2": Paradigm("VideoScore2, SFT", "conf/baselines/videoscore2.yaml"),
    "videoscore2_grpo": Paradigm("VideoScore2, GRPO", "conf/baselines/videoscore2_grpo.yaml", start="videoscore2"),
    "r1_reward": Paradigm("R1-Reward", "conf/baselines/r1_reward.yaml", start="coupled"),
    "vlm_r1": Paradigm("VLM-R1's rewards", "conf/baselines/vlm_r1.yaml", start="coupled"),
    "unifiedreward": Paradigm("UnifiedReward, pairwise", "conf/baselines/unifiedreward.yaml", thinks=False),
    "rewarddance": Paradigm("RewardDance", "conf/baselines/rewarddance.yaml", thinks=False),
    "unifiedreward_think": Paradigm("UnifiedReward-Think, SFT", "conf/baselines/unifiedreward_think.yaml"),
    "unifiedreward_think_rejection": Paradigm(
        "UnifiedReward-Think, rejection sampling",
        "conf/baselines/unifiedreward_think.yaml",
        start="unifiedreward_think",
        rejects=True,
    ),
    "unifiedreward_think_grpo": Paradigm(
        "UnifiedReward-Think, GRPO",
        "conf/baselines/unifiedreward_think_grpo.yaml",
        start="unifiedreward_think_rejection",
    ),
    "llava_critic_r1": Paradigm("LLaVA-Critic-R1", "conf/baselines/llava_critic_r1.yaml", start="unifiedreward_think"),
}
"""The ways of published systems, on labels of their kind."""

EVERY = PARADIGMS | LONGER | SYSTEMS


def tasks(scale: Scale, root: Path, *, more: Collection[str] = ()) -> list[Task]:
    """List all tasks, seed after seed, each after those that it needs, and then those of further paradigms.

    Args:
        scale: How much is trained and measured.
        root: Folder of the evidence.
        more: Names of `LONGER` or `SYSTEMS`, in their order.
    """
    found: list[Task] = []
    for seed in scale.seeds:
        for name, paradigm in PARADIGMS.items():
            for size in (*(scale.smaller if paradigm.sizes else ()), scale.num_train):
                found += _train_and_measure(scale, root, seed, name, size)
        needs = tuple(f"measure-{run_name(name, seed)}" for name in PARADIGMS)
        found.append(Task(f"swap-{seed}", swap, (str(root), str(seed)), needs))
    for seed in scale.seeds:
        for name in (name for name in more if _is_planned(scale, name)):
            found += _train_and_measure(scale, root, seed, name, scale.num_train)
    names = [task.name for task in found]
    assert len(set(names)) == len(names)
    assert all(set(task.needs) <= set(names[:place]) for place, task in enumerate(found))
    return found


def run_name(paradigm: str, seed: int, num_train: int | None = None) -> str:
    """Name of a run; that of a smaller number of pairs contains the number."""
    return f"{paradigm}-{seed}" if num_train is None else f"{paradigm}-{num_train}-{seed}"


def run_training(*arguments: str) -> None:
    """Train, or resume a training that was killed."""
    train(list(arguments))


def _is_planned(scale: Scale, name: str) -> bool:
    """Whether a paradigm, and that which it starts from, is trained at all."""
    paradigm = EVERY[name]
    return scale.rejects or not (paradigm.rejects or (paradigm.start and not _is_planned(scale, paradigm.start)))


def _train_and_measure(scale: Scale, root: Path, seed: int, name: str, size: int) -> list[Task]:
    paradigm = EVERY[name]
    whole, start = size == scale.num_train, paradigm.start
    run = run_name(name, seed, None if whole else size)
    arguments = ["fit", "-c", paradigm.config]
    for option, value in _options(scale, root, seed, name, size).items():
        arguments += [f"--{option}", str(value)]
    needs = (f"train-{run_name(start, seed)}",) if start else ()
    before = []
    if paradigm.rejects:
        files = (_training(root, start, seed), train_table(root, size), _right(root, run))
        before = [Task(f"reject-{run}", write_right, tuple(map(str, files)), needs)]
        needs = (f"reject-{run}",)
    thoughts = str(scale.num_thoughts if name in {"decoupled", "decoupled_rl"} and whole else 1)
    wanted = (str(root), run, name, thoughts, str(scale.num_thought_pairs), "whole" if whole else "accuracy")
    return [
        *before,
        Task(f"train-{run}", run_training, tuple(arguments), needs),
        Task(f"measure-{run}", measure, wanted, (f"train-{run}",)),
    ]


def _options(scale: Scale, root: Path, seed: int, name: str, size: int) -> dict[str, object]:
    """Options of a training run, by name."""
    paradigm, whole = EVERY[name], size == scale.num_train
    labels = labels_of(paradigm.config)
    options: dict[str, object] = {
        "resume": "auto",
        "seed_everything": seed,
        "data": "data_modules.preference.PreferencePairDataModule",
        "data.train": labelled(train_table(root, size), labels),
        "data.val": json.dumps({"val": str(labelled(pairs_table(root, "val"), labels))}),
        "data.cache.folder": root / "cache",
        "data.max_val_pairs": scale.num_val,
        "data.val_batch_size": 32,
        "data.num_workers": 0,
        "data.seed": seed,
        "trainer.logger.save_dir": root / "training",
        "trainer.logger.name": run_name(name, seed, None if whole else size),
        "trainer.log_every_n_steps": 1,
        **paradigm.options,
    }
    if paradigm.stage == 1:
        options |= {"data.batch_size": 8, "trainer.max_epochs": scale.epochs * paradigm.times}
        options |= {
            "trainer.val_check_interval": scale.val_every * paradigm.times,
            "trainer.check_val_every_n_epoch": "null",
        }
    else:
        start = _training(root, paradigm.start, seed)
        options |= {"model.pretrained": start, "data.batch_size": 6, "model.batching.mini_batch_pairs": 3}
        options |= {"trainer.max_steps": 2 * scale.rollout_batches}
        options |= {"trainer.val_check_interval": scale.rollout_val_every}
    if labels.dimensions != Labels().dimensions:
        options["data.dimensions"] = json.dumps(labels.dimensions)
    if paradigm.rejects:
        start = _training(root, paradigm.start, seed)
        options |= {"data.train": _right(root, run_name(name, seed))}
        options |= {"model.backbone": start / "version_0/export/last/backbone"}
    if paradigm.fits:
        options["model.fit_pairs"] = scale.fit_pairs
    if paradigm.thinks:
        options["model.own_thought_pairs"] = scale.num_val
    return options if whole else options | {"trainer.limit_val_batches": 0}


def _training(root: Path, paradigm: str, seed: int) -> Path:
    """Folder of a training run with all pairs."""
    return root / "training" / run_name(paradigm, seed)


def _right(root: Path, run: str) -> Path:
    """Table of the right ones of the thoughts of the model that a run starts from."""
    return root / "data" / "train" / f"right-{run}.jsonl"
