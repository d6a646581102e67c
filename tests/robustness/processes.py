"""The same run on one process and on several that share the model: how far apart losses, rewards and weights are.

    python -m tests.robustness.processes --markdown

Small backbones of both families with random weights, rendered pairs, twenty steps at the learning rates of the embedded
default. 21 pairs in batches of eight leave a batch of five, which four processes share unevenly.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console

from data_modules.world.small_backbone import Sizes, rendered_corpus, write_random_backbone
from descore.inputs.prompts import PromptTemplate
from descore.inputs.settings import ModelSettings
from descore.model.reward_model import RewardModel
from descore.video.frames import VideoSettings
from tests.helpers.finished_runs import exported_weights, logged_values
from tests.helpers.measuring import result_table
from tests.helpers.ranks import train

FAMILIES = ("qwen2_5_vl", "qwen3_vl")
SIZES = Sizes(text=64, text_layers=2, vision=32, vision_layers=2)
VIDEO = VideoSettings(fps=4, min_frames=8, max_frames=8, min_pixels=2304, max_pixels=2304)
TRAINED = {
    "LoRA": ("--model.optimization.lora.parts", "[language]", "--model.optimization.lora.rank", "16", "--model.optimization.lora.alpha", "32"),
    "whole": ("--model.optimization.lora.parts", "[]"),
}
STAGES = {
    "stage1": (
        *("--model.objective.language_model_weight", "1.0", "--model.objective.cot_masking", "both"),
        *("--trainer.val_check_interval", "20"),
    ),
    "stage2": (
        *("--model.rubric.weights", "{tests.helpers.rules.even_codes: 1.0}", "--model.sampling.num_thoughts", "4"),
        *("--model.weights.kl", "0.01", "--model.weights.calibration", "0.5"),
        *("--trainer.val_check_interval", "10"),  # of two mini-batches each
    ),
}
BATCH = 8
VALIDATED = 8


def run(folder: Path, stage: str, family: str, trained: str, num_ranks: int, seed: int) -> Path:
    """Train, sharded unless on one process, and return the folder of the run."""
    start = folder / family
    name = f"{stage}-{family}-{trained}-{num_ranks}"
    arguments = ["fit", "-c", f"conf/{stage}.yaml", *(("-c", "conf/overlay/fsdp.yaml") if num_ranks > 1 else ())]
    arguments += ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true", *STAGES[stage], *TRAINED[trained]]
    arguments += ["--model.pretrained", str(start)] if stage == "stage2" else ["--model.backbone", f"{start}/backbone"]
    if stage == "stage2":
        arguments += ["--model.batching.mini_batch_pairs", str(BATCH // 2 // num_ranks)]
    arguments += ["--model.own_thought_pairs", str(VALIDATED // num_ranks)]  # of each process
    arguments += ["--model.max_thought_tokens", "48", "--model.optimization.warmup", "0", "--seed_everything", str(seed)]
    arguments += ["--data.root", str(folder / "rendered"), "--data.num_train", "21", "--data.num_val", str(VALIDATED)]
    arguments += ["--data.batch_size", str(BATCH // num_ranks), "--data.val_batch_size", "4", "--data.num_workers", "0"]
    arguments += ["--trainer.max_steps", "20", "--trainer.max_epochs", "-1"]
    arguments += ["--trainer.check_val_every_n_epoch", "null", "--trainer.log_every_n_steps", "1"]
    arguments += ["--trainer.logger.save_dir", str(folder), "--trainer.logger.name", name]
    train(arguments, num_ranks, folder / f"{name}.txt", timeout=3600)
    return folder / name / "version_0"


def apart(one: Path, several: Path) -> Iterator[float]:
    """How far two runs are apart: losses, rewards, norms of gradients relative to them, and weights."""
    ours, theirs = scalars(one), scalars(several)
    tags = [tag for tag in ours if tag.startswith(("train/", "val/", "rollout/", "grad/"))]
    tags = [tag for tag in tags if "second" not in tag and tag != "train/wait_share"]
    for kind in ("loss", "reward"):
        yield max(float((ours[tag] - theirs[tag]).abs().max()) for tag in tags if kind in tag)
    yield max(float(((ours[tag] - theirs[tag]) / ours[tag]).abs().max()) for tag in tags if tag.startswith("grad/"))
    first, second = (exported_weights(run / "export/last") for run in (one, several))
    yield max(float((first[name] - second[name]).abs().max()) for name in first)


def scalars(run: Path) -> dict[str, torch.Tensor]:
    return {tag: torch.tensor(values) for tag, values in logged_values(run).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4], help="numbers of processes")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="which stages")
    parser.add_argument("--seed", type=int, default=0, help="of masks, thoughts and the order of the pairs (default 0)")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    options = parser.parse_args()
    columns = ("stage", "family", "trained", "processes", "losses", "rewards", "gradient norms, relative", "weights")
    table = result_table(*columns, words=columns[:3], markdown=options.markdown)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for family in FAMILIES:
            write_random_backbone(folder / "random" / family, rendered_corpus(), family=family, sizes=SIZES)
            template = PromptTemplate.read("conf/prompts/rendered.txt").text
            settings = ModelSettings(str(folder / "random" / family), template, VIDEO, max_thought_tokens=48)
            RewardModel.create(settings).save_pretrained(str(folder / family))
        for stage, family, trained in itertools.product(options.stages, FAMILIES, TRAINED):
            one = run(folder, stage, family, trained, 1, options.seed)
            for num_ranks in options.processes:
                found = apart(one, run(folder, stage, family, trained, num_ranks, options.seed))
                row = (stage, family, trained, str(num_ranks), *(f"{value:.1e}" for value in found))
                table.add_row(*row)
                print(*row, file=sys.stderr, flush=True)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
