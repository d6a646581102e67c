"""A model spread over processes trains as a whole one does, and its checkpoints fit any number of processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from descore.modules.rl import RLModule
from descore.pairs import write_pairs
from descore.train import main
from descore.types import Pair, Side
from tests.e2e.ranks import ROOT, train

SCORES = {"subject": 2, "dynamics": 1, "camera": None, "environment": 2, "style": 0}
FAMILIES = {"stage1": "qwen2_5_vl", "stage2": "qwen3_vl"}
LORA = ("--model.lora_parts", "[language]", "--model.lora_rank", "4", "--model.lora_alpha", "8")
WHOLE = (
    "--model.lora_parts",
    "[]",
    "--model.learning_rates",
    "{language: 1.0e-4, merger: 1.0e-4, query: 1.0e-3, head: 1.0e-3}",
)
SHARDED = ("-c", "conf/overlay/fsdp.yaml", "--trainer.accelerator", "cpu", "--trainer.precision", "32-true")

Fit = Callable[..., Path]


@pytest.fixture(scope="module")
def starts(build, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What each stage starts from."""
    folder = tmp_path_factory.mktemp("starts")
    (folder / "template.txt").write_text("Judge it: {prompt}")
    for family in FAMILIES.values():
        build(family, max_thought_tokens=6).save_pretrained(str(folder / family))
    return {stage: folder / family for stage, family in FAMILIES.items()}


@pytest.fixture(scope="module")
def table(clips: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven pairs, one of them a tie: batches of four leave three, two for one rank and one for the other."""
    path = tmp_path_factory.mktemp("table") / "pairs.jsonl"
    sides = [
        Side(clip, scores=SCORES, thought="<think>" + "a red circle " * index) for index, clip in enumerate(clips, 1)
    ]
    pairs = [
        Pair(f"p{i}", "a circle " * (i + 1), sides[i % 4], sides[(i + 1 + i // 4) % 4], (float(i % 3 - 1 or 1),))
        for i in range(10)
    ]
    write_pairs(path, [*pairs, replace(pairs[0], id="tie", preference=(0.0,))])
    return path


@pytest.fixture
def fit(tmp_path: Path, starts: dict[str, Path], table: Path) -> Fit:
    """Train a stage, on one process as it is or sharded over several, and return the folder of the run."""

    def run(name: str, stage: str, *overrides: str, processes: int = 0) -> Path:
        source = "--model.pretrained" if stage == "stage2" else "--model.backbone"
        start = starts[stage] if stage == "stage2" else starts[stage] / "backbone"
        arguments = [
            *("fit", "-c", str(ROOT / f"conf/{stage}.yaml"), *(SHARDED if processes else ())),
            *("--data", "data_modules.preference.PreferencePairDataModule", "--data.train", str(table)),
            *("--data.val", json.dumps({"val": str(table)}), "--data.num_workers", "0", "--data.val_batch_size", "4"),
            *(source, str(start), "--trainer.accelerator", "cpu", "--trainer.logger.save_dir", str(tmp_path / name)),
            *("--trainer.log_every_n_steps", "1", "--trainer.enable_model_summary", "false", "--model.warmup", "0"),
            *("--model.schedule", "constant_with_warmup", "--data.batch_size", str(4 // max(processes, 1))),
            *(
                "--trainer.max_epochs",
                "-1",
                "--trainer.val_check_interval",
                "10",
                "--trainer.check_val_every_n_epoch",
                "null",
            ),
            *overrides,
        ]
        if stage == "stage1":
            arguments += ["--model.template", str(start.parents[1] / "template.txt"), "--model.max_thought_tokens", "6"]
        else:
            arguments += ["--model.rollout_rewards", "{tests.e2e.rules.even_codes: 1.0}", "--model.num_thoughts", "3"]
            arguments += ["--model.calibration_weight", "0.5", "--model.kl_weight", "0.1"]
            arguments += ["--model.mini_batch_pairs", str(2 // max(processes, 1))]
        if processes:
            train(arguments, processes, tmp_path / f"{name}.txt")
        else:
            main(arguments)
        return tmp_path / name / stage / "version_0"

    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    return weights_of(run / "export/last")


def weights_of(export: Path) -> dict[str, torch.Tensor]:
    return load_file(export / "backbone/model.safetensors") | load_file(export / "reward.safetensors")


def scalars(run: Path) -> dict[str, list[float]]:
    events = EventAccumulator(str(run))
    events.Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def furthest(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.mark.parametrize(
    ("stage", "trained"),
    [
        pytest.param("stage1", LORA, id="stage1-lora"),
        pytest.param("stage2", WHOLE, id="stage2-whole"),
        pytest.param("stage1", WHOLE, id="stage1-whole", marks=pytest.mark.slow),
        pytest.param("stage2", LORA, id="stage2-lora", marks=pytest.mark.slow),
    ],
)
def test_two_processes_that_share_a_model_train_as_one(fit: Fit, stage: str, trained: tuple[str, ...]) -> None:
    """Twenty steps: losses and rewards within 1e-5, norms of gradients within 1e-4 of them."""
    options = (*trained, "--trainer.max_steps", "20")
    one, two = fit("one", stage, *options), fit("two", stage, *options, processes=2)
    ours, theirs = scalars(one), scalars(two)
    compared = [tag for tag in ours if tag.startswith(("train/", "val/", "rollout/", "grad/")) and "second" not in tag]
    compared = [tag for tag in compared if tag != "train/wait_share"]
    assert {"train/loss", "val/reward_mean", "grad/head"} <= set(compared)
    assert sum(len(ours[tag]) for tag in compared) > 100
    for tag in compared:
        within = 1e-4 if tag.startswith("grad/") else 1e-5
        assert theirs[tag] == pytest.approx(ours[tag], abs=1e-5, rel=within), tag
    assert furthest(weights(one), weights(two)) < 1e-5
    assert ours["train/loss"][0] != pytest.approx(ours["train/loss"][-1], abs=1e-3)


def test_fsdp1_is_an_error_that_says_what_to_use(starts: dict[str, Path]) -> None:
    module = RLModule(str(starts["stage2"]))
    module._trainer = SimpleNamespace(strategy=FSDPStrategy())
    with pytest.raises(ValueError, match=r"FSDP1.*conf/overlay/fsdp.yaml"):
        module.configure_model()


@pytest.mark.parametrize("stage", ["stage2", pytest.param("stage1", marks=pytest.mark.slow)])
def test_a_checkpoint_fits_any_number_of_processes(fit: Fit, stage: str) -> None:
    """Two processes leave a folder of shards, one reads it and leaves a file, and so on, to where one alone ends."""
    whole = fit("whole", stage, *LORA, "--trainer.max_steps", "8", "--trainer.limit_val_batches", "0")
    one_file = ("--trainer.strategy.save_distributed_checkpoint", "false")
    legs = [(2, ()), (1, one_file), (0, ()), (2, one_file)]
    resume: tuple[str, ...] = ()
    for leg, (processes, options) in enumerate(legs, start=1):
        steps = ("--trainer.max_steps", str(2 * leg), "--trainer.limit_val_batches", "0")
        keep = ("--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint", "--trainer.callbacks.filename=leg")
        keep += ("--trainer.callbacks.every_n_train_steps=1", "--trainer.callbacks.enable_version_counter=false")
        run = fit(f"leg{leg}", stage, *LORA, *steps, *options, *keep, *resume, processes=processes)
        checkpoint = run / "checkpoints/leg.ckpt"
        assert checkpoint.is_dir() == (leg == 1)
        resume = ("--ckpt_path", str(checkpoint))
    assert furthest(weights(whole), weights(run)) < 1e-5


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_what_is_not_finite_on_one_rank_moves_no_weight_on_any(fit: Fit, stage: str) -> None:
    """The callback compares the weights and moments of each rank before and after each step, bit by bit."""
    plan = ["nothing", "1 loss nan", "0 loss inf", "1 gradient nan", "0 gradient inf", "nothing"]
    poison = ("--trainer.callbacks+=tests.e2e.poisoning.Poison", f"--trainer.callbacks.plan={plan}")
    steps = ("--trainer.max_epochs", "2", "--trainer.limit_val_batches", "0", "--trainer.max_steps", "-1")
    run = fit("poisoned", stage, *LORA, *steps, *poison, processes=2)
    assert scalars(run)["train/skipped_share"] == [0, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_half_precision_keeps_weights_and_moments_whole(fit: Fit, starts: dict[str, Path], stage: str) -> None:
    """Shards in host memory, gathered in bfloat16: the losses are near those of one process, and small steps count."""
    rates = "{language: 1.0e-6, query: 1.0e-6, head: 1.0e-6}"
    options = ("--model.lora_parts", "[]", "--model.learning_rates", rates, "--trainer.max_steps", "4")
    options += ("--trainer.limit_val_batches", "0")
    half = ("--trainer.precision", "bf16-mixed")
    offloaded = ("--trainer.strategy.cpu_offload", "true", "--trainer.strategy.save_distributed_checkpoint", "false")
    one, two = fit("one", stage, *options, *half), fit("two", stage, *options, *half, *offloaded, processes=2)
    ours, theirs = scalars(one)["train/loss"], scalars(two)["train/loss"]
    assert theirs == pytest.approx(ours, rel=0.01)
    assert theirs != ours
    before, after = weights_of(starts[stage]), weights(two)
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    layers = [name for name in after if ".layers." in name]
    moved = [float((before[name] != after[name]).float().mean()) for name in layers]
    assert len(layers) > 10
    assert min(moved) > 0.9
    assert all(torch.allclose(before[name], after[name], rtol=0, atol=5e-6) for name in layers)
