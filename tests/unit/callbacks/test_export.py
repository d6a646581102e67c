"""What an export says of the rewards that a model gives."""

import json
import os
import shlex
from types import SimpleNamespace

import pytest

from callbacks import export
from callbacks.export import ExportModel
from descore.cli import make_parser
from descore.types import Pair, Side


def test_an_export_knows_mean_and_spread_of_every_reward_across_a_resume(build, tmp_path):
    model = build(reward_names=("motion", "look"))
    metrics = {"val/reward_mean/motion": 1.0, "val/reward_std/motion": 2.0}
    metrics |= {"val/reward_mean/look": 3.0, "val/reward_std/look": 4.0}
    strategy = SimpleNamespace(barrier=lambda _: None)
    trainer = SimpleNamespace(
        fast_dev_run=False, callback_metrics=metrics, is_global_zero=True, log_dir=None, strategy=strategy
    )
    trainer.sanity_checking, trainer.datamodule = False, None
    module = SimpleNamespace(full_model=lambda: model, model=model)
    before = ExportModel()
    before.on_validation_end(trainer, module)
    after = ExportModel(folder=str(tmp_path))
    after.load_state_dict(before.state_dict())
    after.on_train_end(trainer, module)
    assert json.loads((tmp_path / "last/descore.json").read_text())["calibration"] == {"mean": [1, 3], "std": [2, 4]}


@pytest.fixture
def saved(monkeypatch) -> list[tuple[str, dict]]:
    """What is exported: the path, and the options."""
    calls: list[tuple[str, dict]] = []
    monkeypatch.setattr(export, "save", lambda model, path, **options: calls.append((path.as_posix(), options)))
    return calls


def run_of(**metrics: float) -> SimpleNamespace:
    strategy = SimpleNamespace(barrier=lambda _: None)
    return SimpleNamespace(
        fast_dev_run=False,
        callback_metrics=metrics,
        is_global_zero=True,
        log_dir="run",
        strategy=strategy,
        sanity_checking=False,
        datamodule=None,
    )


SETTINGS = SimpleNamespace(reward_names=("r",), is_pairwise=False)
MODULE = SimpleNamespace(full_model=lambda: None, model=SimpleNamespace(settings=SETTINGS))


def test_every_new_best_is_exported_across_a_resume(saved):
    callback = ExportModel("val/accuracy", weights="adapter")
    values = [0.5, 0.4, 0.6]
    for value in values:
        callback.on_validation_end(run_of(**{"val/accuracy": value, "val/preference_accuracy": 1 - value}), MODULE)
    assert saved == [("run/export/best", {"weights": "adapter", "calibration": None})] * 2
    resumed = ExportModel("val/accuracy")
    resumed.load_state_dict(callback.state_dict())
    for value in (0.55, 0.6, 0.7):
        resumed.on_validation_end(run_of(**{"val/accuracy": value}), MODULE)
    assert len(saved) == 3


def test_what_was_not_measured_and_the_sanity_check_are_no_best(saved):
    callback, run = ExportModel(), run_of(**{"val/preference_accuracy": 0.9})
    callback.on_validation_end(run_of(), MODULE)
    run.sanity_checking = True
    callback.on_validation_end(run, MODULE)
    assert saved == []


NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "exported"),
    [([NAN], 1), ([NAN, NAN], 1), ([NAN, 0.2, NAN, 0.1], 2), ([0.2, NAN], 1), ([0.0], 1), ([NAN, -1.0], 2)],
)
def test_nan_is_the_worst_value(saved, values, exported):
    callback = ExportModel()
    for value in values:
        callback.on_validation_end(run_of(**{"val/preference_accuracy": value}), MODULE)
    assert len(saved) == exported


def test_a_run_whose_validations_were_all_nan_says_what_its_best_is(saved):
    before, after = ExportModel(), ExportModel()
    before.on_validation_end(run_of(**{"val/preference_accuracy": NAN}), MODULE)
    after.load_state_dict(before.state_dict())
    with pytest.warns(
        UserWarning, match="export/best is the model after its first validation: val/preference_accuracy"
    ):
        after.on_train_end(run_of(), MODULE)
    assert [path.rpartition("/")[2] for path, _ in saved] == ["best", "last"]


def test_a_run_without_a_best_says_why(saved):
    callback, run = ExportModel(monitor="val/acuracy"), run_of(**{"val/accuracy": 0.5, "train/loss": 1.0})
    callback.on_validation_end(run, MODULE)
    with pytest.warns(UserWarning, match=r"no export/best: val/acuracy was never measured, .*: val/accuracy\. Set"):
        callback.on_train_end(run, MODULE)
    assert [path for path, _ in saved] == ["run/export/last"]


@pytest.mark.parametrize("kind", ["mean", "std"])
def test_statistics_that_are_not_finite_are_left_out(saved, kind):
    metrics = {"val/reward_mean": 0.0, "val/reward_std": 1.0} | {f"val/reward_{kind}": NAN}
    ExportModel().on_validation_end(run_of(**metrics, **{"val/preference_accuracy": 0.5}), MODULE)
    assert saved[0][1]["calibration"] is None


def test_the_end_of_training_is_exported_once_and_by_rank_0(saved):
    callback, run = ExportModel(folder="elsewhere"), run_of()
    run.strategy.root_device = None
    callback.on_train_end(run, MODULE)
    callback.on_fit_end(run, MODULE)
    assert [path for path, _ in saved] == ["elsewhere/last"]
    run.is_global_zero = False
    callback.on_train_end(run, MODULE)
    assert len(saved) == 1


def test_a_run_that_was_killed_before_its_export_makes_it_when_it_is_resumed(saved):
    run = run_of()
    run.strategy.root_device = None
    ExportModel().on_fit_end(run, SimpleNamespace(to=lambda device: None, **vars(MODULE)))
    assert [path for path, _ in saved] == ["run/export/last"]


@pytest.mark.parametrize("on_path", [True, False])
def test_the_end_shows_a_command_that_scores_a_video_of_the_run(saved, monkeypatch, tmp_path, on_path):
    said: list[str] = []
    monkeypatch.setattr(export, "rank_zero_info", said.append)
    monkeypatch.setattr(export.shutil, "which", lambda name: name if on_path else None)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/descore").touch()
    monkeypatch.setattr(export.sys, "executable", str(tmp_path / "bin/python"))
    run = run_of()
    pair = Pair("p", "a cat's toy", Side("clips/a 1.mp4"), Side("b.mp4"), (1.0,))
    run.datamodule = SimpleNamespace(val_pairs={"val": [], "ood": [pair]}, train_pairs=[])
    ExportModel().on_train_end(run, MODULE)
    command, *args = shlex.split(said[-1].partition("Score a video: ")[2])
    assert command == ("descore" if on_path else os.path.relpath(tmp_path / "bin/descore"))
    options = make_parser().parse_args(args)
    assert (options.model, options.prompt, options.inputs) == ("run/export/last", "a cat's toy", ["clips/a 1.mp4"])


def test_the_end_of_a_run_that_compares_shows_a_command_that_compares(saved, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(export, "rank_zero_info", said.append)
    settings = SimpleNamespace(reward_names=("r",), is_pairwise=True)
    ExportModel().on_train_end(
        run_of(), SimpleNamespace(**vars(MODULE) | {"model": SimpleNamespace(settings=settings)})
    )
    _, *args = shlex.split(said[-1].partition("Compare two videos: ")[2])
    assert make_parser().parse_args(args).inputs == ["video.mp4", "other.mp4"]
