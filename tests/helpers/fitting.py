"""Real runs of a tiny model on a few rendered pairs: the data, the module, the trainer, and what TensorBoard got."""

from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.progress import CompactProgressBar
from data_modules.preference import PreferencePairDataModule
from descore.modules.cold_start import ColdStartModule
from descore.modules.options import Optimization
from descore.video.settings import VideoSettings

HOSTILE = (
    "# A *red* ball | <img src=x onerror=alert(1)> ![pixel](http://tracker.example/p.png)\n"
    "1. [here](javascript:alert(1)) `code` _it_ & &lt; \\* ~~~\n"
    "    <script>alert(1)</script> <http://link.example>"
)


def data(world):
    tables = {name: str(world / name / "pairs.jsonl") for name in ("train", "val", "ood")}
    return PreferencePairDataModule(tables.pop("train"), tables, batch_size=2, val_batch_size=2, num_workers=0)


def system(world, kind=ColdStartModule, **options):
    return kind(
        backbone=str(world / "backbone"),
        template="rendered",
        video=VideoSettings(min_frames=2, max_frames=2, min_pixels=1024, max_pixels=1024),
        max_thought_tokens=4,
        optimization=Optimization({"query": 1e-3, "head": 1e-3}),
        **options,
    )


def trainer(folder, *callbacks, **options):
    options = {"max_epochs": 1, "num_sanity_val_steps": 0, "enable_checkpointing": False} | options
    options.setdefault("logger", TensorBoardLogger(folder, name="run"))
    if not any(isinstance(callback, CompactProgressBar) for callback in callbacks):
        options["enable_progress_bar"] = False
    return Trainer(accelerator="cpu", enable_model_summary=False, callbacks=list(callbacks), **options)


def events(folder):
    found = EventAccumulator(str(folder / "run" / "version_0"), size_guidance={"tensors": 0, "images": 0})
    return found.Reload()
