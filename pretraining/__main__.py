"""Teaches the tiny backbone and puts it into the package; a run that was killed resumes when its command is repeated.

python -m pretraining                  all courses, then measures and ships what came of them
python -m pretraining perception       one course
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console

from callbacks.progress import CompactProgressBar
from callbacks.progress_lines import ProgressLines
from data_modules.world.small_backbone import rendered_corpus, write_random_backbone
from descore.runtime.checkpoints import AtomicCheckpointIO
from pretraining.course import CourseModule
from pretraining.language import LanguageModule, TogetherModule
from pretraining.measure import measure
from pretraining.perception import PerceptionModule
from pretraining.recipe import RECIPE, Recipe

SHIPPED = Path("src/descore/tiny")
COURSES = ("perception", "language", "together")


def teach(name: str, root: Path, recipe: Recipe = RECIPE) -> None:
    """Run a course to its end, from where it stands.

    Args:
        name: Name of the course.
        root: Folder of all courses.
        recipe: Numbers of the courses.
    """
    last = checkpoint(root, name)
    devices = 1 if torch.cuda.is_available() or name != "together" else recipe.processes
    trainer = Trainer(
        max_steps=getattr(recipe, name).steps,
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        gradient_clip_val=1.0,
        val_check_interval=200,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=20,
        logger=TensorBoardLogger(str(root / name), name="", version=""),
        callbacks=[
            ModelCheckpoint(str(root / name), save_last=True, save_top_k=0, every_n_train_steps=recipe.save_every),
            CompactProgressBar(),
            ProgressLines(20),
        ],
        plugins=[AtomicCheckpointIO()],
        enable_model_summary=False,
    )
    trainer.fit(make(name, root, recipe), ckpt_path=str(last) if last.is_file() else None)


def checkpoint(root: Path, name: str) -> Path:
    """Return the path of a course's last checkpoint."""
    return root / name / "last.ckpt"


def make(name: str, root: Path, recipe: Recipe = RECIPE) -> CourseModule:
    """Make the module of a course; its start is written where it is missing."""
    start = root / "start"
    if not (start / "config.json").is_file():
        write_random_backbone(start, rendered_corpus(), sizes=recipe.sizes, seed=recipe.seed)
    torch.manual_seed(recipe.seed)
    if name == "perception":
        return PerceptionModule(str(start), recipe.perception, recipe.seed)
    if name == "language":
        return LanguageModule(str(start), recipe.language, recipe.seed)
    tower, language = checkpoint(root, "perception"), checkpoint(root, "language")
    return TogetherModule(str(start), recipe.together, recipe.seed, tower=tower, language=language)


def teach_all(root: Path) -> None:
    """Run perception and language side by side, one process each, then the course that needs both."""
    command = [sys.executable, "-m", "pretraining", "--root", str(root)]
    both = [subprocess.Popen([*command, name]) for name in COURSES[:2]]
    if failed := [name for name, process in zip(COURSES, both, strict=False) if process.wait()]:
        raise SystemExit(f"the course {failed[0]} failed; correct what it says, and repeat the command to resume")
    subprocess.run([*command, COURSES[2]], check=True)


def ship(root: Path, num_pairs: int, recipe: Recipe = RECIPE, shipped: Path = SHIPPED) -> None:
    """Measure what came of all courses, and write it into the package in float16, with the recipe.

    Args:
        root: Folder of all courses.
        num_pairs: Pairs of each split that are measured.
        recipe: Numbers of the courses.
        shipped: Folder to write.
    """
    module = make("together", root, recipe)
    state = torch.load(checkpoint(root, "together"), map_location="cpu", weights_only=True)["state_dict"]
    module.load_state_dict(state)
    model = module.model.eval()
    model.base.to(torch.float16).float()  # what is measured is what is shipped
    learnt = measure(model, root / "rendered", num_pairs)
    Console().print_json(data=learnt)
    shutil.rmtree(shipped, ignore_errors=True)
    shutil.copytree(root / "start", shipped)
    model.base.to(torch.float16).save_pretrained(shipped)
    written = {"command": "make tiny-backbone", "recipe": asdict(recipe), "measured": learnt}
    (shipped / "recipe.json").write_text(json.dumps(written, indent=2) + "\n")


def main() -> None:
    """Run the courses that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("course", nargs="?", choices=[*COURSES, "ship"], help="one alone (default: all)")
    parser.add_argument("--root", type=Path, default=Path("runs/tiny_backbone"), metavar="FOLDER")
    parser.add_argument("--pairs", type=int, default=512, help="pairs per split that are measured (default 512)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    make("perception", options.root)  # the start, before two courses write it side by side
    if options.course is None:
        teach_all(options.root)
    elif options.course in COURSES:
        teach(options.course, options.root)
    if options.course in {None, "ship"}:
        ship(options.root, options.pairs)


if __name__ == "__main__":
    main()
