"""A model spread over processes trains as a whole one does, and its checkpoints fit any number of processes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch.strategies import FSDPStrategy

from descore.modules.rl import RLModule
from tests.helpers.finished_runs import logged_values
from tests.helpers.spread import HALF, LORA, USUAL, WHOLE, Fit, check_half, check_same, furthest, weights


@pytest.mark.parametrize(
    ("stage", "trained"),
    [
        pytest.param("stage1", LORA, id="stage1-lora", marks=pytest.mark.slow),
        pytest.param("stage2", WHOLE, id="stage2-whole"),
        pytest.param("stage1", WHOLE, id="stage1-whole", marks=pytest.mark.slow),
        pytest.param("stage2", LORA, id="stage2-lora", marks=pytest.mark.slow),
    ],
)
def test_two_processes_that_share_a_model_train_as_one(fit: Fit, stage: str, trained: tuple[str, ...]) -> None:
    """Twenty steps: losses and rewards within 1e-5, norms of gradients within 1e-4 of them."""
    options = (*trained, "--trainer.max_steps", "20")
    one, two = fit("one", stage, *options), fit("two", stage, *options, processes=2)
    check_same(one, two)


@pytest.mark.parametrize(
    ("stage", "overlay"),
    [
        pytest.param("stage1", "fsdp", marks=pytest.mark.slow),
        ("stage2", "fsdp"),
        pytest.param("stage1", "fsdp1", marks=pytest.mark.slow),
        pytest.param("stage2", "fsdp1", marks=pytest.mark.slow),
    ],
)
def test_adapters_train_on_frozen_weights_in_half_precision(fit: Fit, stage: str, overlay: str) -> None:
    """The published recipe: the backbone in bfloat16, adapters and their gradients in float32."""
    options = (*LORA, "--model.optimization.frozen_dtype", "bfloat16", "--trainer.precision", "bf16-mixed")
    options += ("--trainer.max_steps", "4", "--trainer.limit_val_batches", "0")
    one, two = fit("one", stage, *options), fit("two", stage, *options, processes=2, overlay=overlay)
    ours, theirs = logged_values(one)["train/loss"], logged_values(two)["train/loss"]
    assert ours[0] != pytest.approx(ours[-1], rel=0.02)
    assert theirs == pytest.approx(ours, rel=0.01)


def test_lightnings_own_fsdp1_is_an_error_that_says_what_to_use(starts: dict[str, Path]) -> None:
    module = RLModule(str(starts["qwen3_vl"]))
    module._trainer = SimpleNamespace(strategy=FSDPStrategy(), precision="32-true")
    with pytest.raises(ValueError, match=r"FSDPStrategy.*conf/overlay/fsdp.yaml.*conf/overlay/fsdp1.yaml"):
        module.configure_model()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["stage2", "stage1"])
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


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["stage2", "stage1"])
@pytest.mark.parametrize("overlay", ["fsdp", "fsdp1"])
def test_what_is_not_finite_on_one_rank_moves_no_weight_on_any(fit: Fit, stage: str, overlay: str) -> None:
    """The callback compares the weights and moments of each rank before and after each step, bit by bit."""
    plan = ["nothing", "1 loss nan", "0 loss inf", "1 gradient nan", "0 gradient inf", "nothing"]
    poison = ("--trainer.callbacks+=tests.helpers.poisoning.Poison", f"--trainer.callbacks.plan={plan}")
    steps = ("--trainer.max_epochs", "2", "--trainer.limit_val_batches", "0", "--trainer.max_steps", "-1")
    run = fit("poisoned", stage, *LORA, *steps, *poison, processes=2, overlay=overlay)
    assert logged_values(run)["train/skipped_share"] == [0, 1, 1, 1, 1, 0]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["stage2", "stage1"])
def test_half_precision_keeps_weights_and_moments_whole(fit: Fit, starts: dict[str, Path], stage: str) -> None:
    """Shards in host memory, gathered in bfloat16: the losses are near those of one process, and small steps count."""
    offloaded = ("--trainer.strategy.cpu_offload", "true", "--trainer.strategy.save_distributed_checkpoint", "false")
    one, two = fit("one", stage, *HALF), fit("two", stage, *HALF, *offloaded, processes=2)
    check_half(starts[USUAL[stage]], one, two)
