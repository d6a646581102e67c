"""A model that FSDP1 spreads over two processes trains as a whole one does, and goes on from its checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from descore.runtime.fsdp1 import FSDP1Strategy
from tests.helpers.spread import HALF, LORA, USUAL, WHOLE, Fit, check_half, check_same, furthest, weights

AGAIN = ("--model.optimization.gradient_checkpointing", "true")
LORAS = ("--model.optimization.lora.parts", "[language, vision]", *LORA[2:], *AGAIN)
LORAS += ("--model.optimization.learning_rates", "{language: 1.0e-3, vision: 1.0e-3, merger: 1.0e-4, head: 1.0e-3}")
TRAINED = {
    "lora": LORA,
    "whole": WHOLE,
    "embedding": (
        "--model.optimization.learning_rates",
        "{language: 1.0e-4, embedding: 1.0e-4, vision: 1.0e-4, head: 1.0e-3}",
    ),
    "loras-and-thoughts": (
        *LORAS,
        "--model.objective.language_model_weight",
        "0.1",
        "--model.objective.cot_masking",
        "both",
    ),
    "loras-by-pieces": (*LORAS, "--model.batching.micro_batch_pairs", "1"),
}


def slow(*values: object) -> object:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("stage", "family", "trained"),
    [
        slow("stage2", "untied", "whole"),
        slow("stage1", "qwen2_5_vl", "lora"),
        slow("stage1", "qwen2_5_vl", "whole"),
        slow("stage1", "qwen3_vl", "lora"),
        slow("stage1", "qwen3_vl", "whole"),
        slow("stage2", "qwen2_5_vl", "lora"),
        slow("stage2", "qwen2_5_vl", "whole"),
        slow("stage2", "qwen3_vl", "lora"),
        slow("stage2", "qwen3_vl", "whole"),
        slow("stage1", "untied", "embedding"),
        slow("stage1", "untied", "loras-and-thoughts"),
        slow("stage2", "qwen3_vl", "loras-by-pieces"),
    ],
)
def test_two_processes_train_as_one(fit: Fit, stage: str, family: str, trained: str) -> None:
    """Twenty steps: losses and rewards within 1e-5, norms of gradients within 1e-4, by half of the weights each."""
    options = (*TRAINED[trained], "--trainer.max_steps", "20")
    one = fit("one", stage, *options, family=family)
    options = (*options, "--trainer.callbacks+=tests.helpers.holding.HoldsItsShare")
    two = fit("two", stage, *options, family=family, processes=2, overlay="fsdp1")
    check_same(one, two)


@pytest.mark.parametrize(
    ("stage", "trained", "legs"),
    [
        slow("stage1", "whole", [(2, "fsdp1"), (2, "fsdp1"), (0, "")]),
        slow("stage2", "lora", [(2, "fsdp"), (2, "fsdp1"), (1, "fsdp1")]),
        slow("stage1", "lora", [(1, "fsdp1"), (2, "fsdp1"), (2, "fsdp")]),
    ],
)
def test_a_checkpoint_goes_on_where_it_was_left(
    fit: Fit, stage: str, trained: str, legs: list[tuple[int, str]]
) -> None:
    """One file for any number of processes, and for FSDP2: the last leg ends where one process alone does."""
    quiet = (*TRAINED[trained], "--trainer.limit_val_batches", "0")
    keep = ("--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint", "--trainer.callbacks.filename=leg")
    keep += ("--trainer.callbacks.every_n_train_steps=1", "--trainer.callbacks.enable_version_counter=false")
    whole = fit("whole", stage, *quiet, "--trainer.max_steps", "6")
    resume: tuple[str, ...] = ()
    for leg, (processes, overlay) in enumerate(legs, start=1):
        options = (*quiet, "--trainer.max_steps", str(2 * leg), *keep, *resume)
        if overlay == "fsdp":
            options += ("--trainer.strategy.save_distributed_checkpoint", "false")
        run = fit(f"leg{leg}", stage, *options, processes=processes, overlay=overlay)
        checkpoint = run / "checkpoints/leg.ckpt"
        assert checkpoint.is_file()
        resume = ("--ckpt_path", str(checkpoint))
    assert furthest(weights(whole), weights(run)) < 1e-5


@pytest.mark.parametrize("stage", [slow("stage1"), slow("stage2")])
def test_half_precision_keeps_weights_and_moments_whole(fit: Fit, starts: dict[str, Path], stage: str) -> None:
    """Weights are gathered in bfloat16: the losses are near those of one process, and small steps count."""
    one, two = fit("one", stage, *HALF), fit("two", stage, *HALF, processes=2, overlay="fsdp1")
    check_half(starts[USUAL[stage]], one, two)


def test_a_folder_of_shards_is_an_error_that_says_what_to_use(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"folder of shards.*fsdp.yaml.*save_distributed_checkpoint false"):
        FSDP1Strategy().load_checkpoint(tmp_path)
