"""Stage 2 from the command line to the exported folder: what is learnt, what moves, what a kill changes."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from descore.cli import main as descore
from descore.losses.preference import bradley_terry_loss
from descore.model.export import ExportError
from descore.model.reward_model import RewardModel
from descore.tables.pairs import read_pairs
from descore.tables.writer import write_pairs
from descore.train import main
from descore.types import Pair, Side, Thought
from tests.helpers.comparing import differences
from tests.helpers.finished_runs import exported_weights, logged_values
from tests.helpers.killing import kill_at
from tests.helpers.small_runs import EVERY_STEP

ROOT = Path(__file__).parents[2]
SCORES = {"subject": 2, "dynamics": 1, "camera": None, "environment": 2, "style": 0}
THREADS = {"OMP_NUM_THREADS": "1"}  # another number sums in another order
EVEN = ("--model.rubric.weights", "{tests.helpers.rules.even_codes: 1.0}")

Fit = Callable[..., Path]


@pytest.fixture(scope="module")
def start(build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stage 1 would hand over: an exported folder, here with random weights."""
    folder = tmp_path_factory.mktemp("stage1") / "export"
    build(max_thought_tokens=6).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def table(clips: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pairs of real mp4 files, one of them a tie."""
    path = tmp_path_factory.mktemp("table") / "pairs.jsonl"
    sides = [Side(clip, scores=SCORES) for clip in clips]
    pairs = [
        Pair(f"p{i}", f"a circle {i}", sides[i % 4], sides[(i + 1 + i // 4) % 4], (float((i % 3) - 1 or 1),))
        for i in range(7)
    ]
    write_pairs(path, [*pairs, replace(pairs[0], id="tie", preference=(0.0,))])
    return path


def arguments(run: Path, start: Path, table: Path, *overrides: str) -> list[str]:
    """A few steps of conf/stage2.yaml."""
    return [
        *("fit", "-c", str(ROOT / "conf/stage2.yaml"), "--data", "data_modules.preference.PreferencePairDataModule"),
        *("--data.train", str(table), "--data.val", json.dumps({"val": str(table)})),
        *("--data.batch_size", "4", "--data.num_workers", "0", "--data.val_batch_size", "4"),
        *("--model.pretrained", str(start), "--model.sampling.num_thoughts", "4", "--trainer.accelerator", "cpu"),
        *("--trainer.logger.save_dir", str(run), "--trainer.log_every_n_steps", "1"),
        *("--trainer.enable_model_summary", "false", "--trainer.max_steps", "2", "--trainer.val_check_interval", "2"),
        *overrides,
    ]


@pytest.fixture
def fit(tmp_path: Path, start: Path, table: Path) -> Fit:
    """Train, and return the folder of the run."""

    def run(name: str, *overrides: str) -> Path:
        main(arguments(tmp_path / name, start, table, *overrides))
        return tmp_path / name / "stage2/version_0"

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, start: Path, table: Path) -> Path:
    run = tmp_path_factory.mktemp("run")
    main(arguments(run, start, table, *EVEN))
    return run / "stage2/version_0"


def chance_of_a_vowel(model: RewardModel, table: Path) -> float:
    """Mean probability, over the videos of a table, that a thought begins with a vowel."""
    pairs = read_pairs(table).pairs
    processor = model.processor
    prefixes = [processor.prefix(p.prompt, processor.read(side.video)) for p in pairs for side in (p.a, p.b)]
    with torch.no_grad():
        hidden = model.hidden(processor.pack(prefixes, [[Thought()]] * len(prefixes)))
        ends = [end - 2 for end in _ends(prefixes)]
        probabilities = model.next_logits(hidden[ends]).softmax(-1)
    return float(probabilities[:, processor.tokenizer.convert_tokens_to_ids(list("aeiou"))].sum(1).mean())


def _ends(prefixes) -> list[int]:
    return torch.tensor([len(prefix.input_ids) + 1 for prefix in prefixes]).cumsum(0).tolist()


def test_the_thought_that_pays_becomes_probable(fit: Fit, start: Path, table: Path) -> None:
    """A bandit: thoughts of one token, of which five are worth 1 and all others 0.

    The weights that do not train bound the logits, and with them these probabilities, to about 0.4.
    """
    run = fit(
        "bandit",
        *("--model.rubric.weights", "{tests.helpers.rules.says_a_vowel: 1.0}", "--model.sampling.max_tokens", "1"),
        *("--model.sampling.num_thoughts", "32", "--model.optimization.learning_rates", "{language: 5.0e-3}"),
        *("--trainer.max_steps", "10", "--trainer.limit_val_batches", "0"),
    )
    before = chance_of_a_vowel(RewardModel.from_pretrained(str(start)), table)
    after = chance_of_a_vowel(RewardModel.from_pretrained(str(run / "export/last")), table)
    assert before < 0.05
    assert after > 0.25


def test_what_trains_moves_and_the_rest_stays(trained: Path, start: Path) -> None:
    before, after = exported_weights(start), exported_weights(trained / "export/last")
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    language = {name for name in before if "language_model.layers" in name and "_proj" in name}
    assert moved >= language | {"head.weight", "query.weight"}
    assert not {name for name in moved if ".visual." in name}


def test_tensorboard_shows_what_the_thoughts_and_the_losses_do(trained: Path) -> None:
    found = logged_values(trained)
    rollout = {"reward", "reward_spread", "tests.helpers.rules.even_codes", "no_spread_share", "thought_tokens"}
    expected = {f"rollout/{name}" for name in rollout | {"truncated_share", "failed_share"}}
    losses = {"loss", "policy_loss", "kl_loss", "calibration_loss", "kl", "entropy", "skipped_share"}
    expected |= {f"train/{name}" for name in losses | {"clipped_low", "clipped_high", "clipped_dual"}}
    expected |= {f"grad/{name}" for name in ("policy", "calibration", "language", "head", "query")}
    expected |= {f"time/{name}" for name in ("think", "reference", "forward", "backward")}
    expected |= {f"time/{name}_tokens_per_second" for name in ("think", "forward", "backward")}
    expected |= {"val/preference_accuracy", "val/preference_accuracy_no_thought", "val/dimension_accuracy"}
    assert expected <= found.keys()
    assert "val/preference_accuracy_teacher_thought" not in found, "the table has no teacher's thoughts"
    assert all(value >= 0 for tag in ("grad/policy", "rollout/thought_tokens") for value in found[tag])
    assert found["train/kl"][0] == pytest.approx(0, abs=1e-6), "the first step is taken from the reference itself"
    assert found["train/kl"][1] > 0


def test_the_export_scores_videos(trained: Path, clips: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code = descore(["score", "--model", str(trained / "export/best"), "--prompt", "A circle.", "--json", *clips[:2]])
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert [record["video"] for record in records] == clips[:2]
    assert all(record["error"] is None for record in records)


@pytest.mark.parametrize(
    "algorithm", ["descore", *(pytest.param(name, marks=pytest.mark.slow) for name in ("grpo", "dr_grpo", "vl_norm"))]
)
def test_accumulation_does_not_change_the_result(fit: Fit, start: Path, algorithm: str) -> None:
    """One forward of four pairs, or four of one: the same weights up to the order of a sum."""
    options = (*EVEN, "--model.algorithm.name", algorithm, "--trainer.limit_val_batches", "0")
    whole, split = (
        exported_weights(fit(name, *options, "--model.batching.micro_batch_pairs", str(size)) / "export/last")
        for name, size in (("whole", 0), ("split", 1))
    )
    before = exported_weights(start)
    for name, tensor in whole.items():
        step = (tensor - before[name]).norm()
        assert (split[name] - tensor).norm() <= 1e-2 * step + 1e-7, name


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path: Path, fit: Fit, start: Path, table: Path) -> None:
    """Four pairs a step on one process, or two on each of two: the same weights up to the order of a sum."""
    options = (*EVEN, "--trainer.limit_val_batches", "0", "--model.optimization.warmup", "0")
    one = fit("one", *options)
    ranks = ("-c", "conf/overlay/ddp.yaml", "--trainer.accelerator", "cpu", "--trainer.precision", "32-true")
    ranks += ("--trainer.devices", "2", "--data.batch_size", "2")
    arguments_of_two = arguments(tmp_path / "two", start, table, *options)
    command = [sys.executable, "-m", "descore.train", *arguments_of_two, *ranks]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | THREADS, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    before, ours = exported_weights(start), exported_weights(one / "export/last")
    theirs = exported_weights(tmp_path / "two/stage2/version_0/export/last")
    for name, tensor in ours.items():
        assert (theirs[name] - tensor).norm() <= 1e-2 * (tensor - before[name]).norm() + 1e-7, name
    logged = [logged_values(run)["rollout/reward"] for run in (one, tmp_path / "two/stage2/version_0")]
    assert logged[0] == pytest.approx(logged[1], abs=1e-6)


def test_several_update_epochs_leave_the_old_policy(fit: Fit) -> None:
    """The second pass over a rollout batch sees other probabilities than those that were sampled from."""
    options = (
        *EVEN,
        "--model.batching.mini_batch_pairs",
        "2",
        "--trainer.limit_val_batches",
        "0",
        "--trainer.max_steps",
        "8",
    )
    run = fit(
        "twice",
        *options,
        "--model.batching.update_epochs",
        "2",
        "--model.optimization.learning_rates",
        "{language: 1.0e-2}",
    )
    assert len(logged_values(run)["train/loss"]) == 2, "four optimizer steps for each of two rollout batches"
    assert max(map(abs, logged_values(run)["train/kl_to_old"])) > 1e-3


def test_whole_weights_train_against_a_frozen_copy(fit: Fit) -> None:
    full = (
        "--model.optimization.lora.parts",
        "[]",
        "--model.optimization.learning_rates",
        "{language: 1.0e-3}",
        "--model.weights.kl",
        "0.1",
    )
    run = fit("full", *EVEN, *full, "--trainer.max_steps", "3")
    kl = logged_values(run)["train/kl"]
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert kl[2] > 1e-6


def test_bfloat16_keeps_float32_weights_that_move_at_a_tiny_learning_rate(fit: Fit, start: Path) -> None:
    """At 1e-6 a bfloat16 weight of 0.02 would stand still: its neighbours are 6e-5 away."""
    run = fit(
        "bf16",
        *(
            *EVEN,
            "--trainer.precision",
            "bf16-mixed",
            "--model.optimization.lora.parts",
            "[]",
            "--model.optimization.warmup",
            "0",
        ),
        *("--model.optimization.learning_rates", "{language: 1.0e-6}", "--trainer.max_steps", "3"),
    )
    before, after = exported_weights(start), exported_weights(run / "export/last")
    names = [name for name in before if "language_model.layers" in name and "_proj" in name]
    moved = torch.cat([(before[name] != after[name]).flatten() for name in names])
    assert all(after[name].dtype == torch.float32 for name in names)
    assert moved.float().mean() > 0.95
    assert all(value == 0 for value in logged_values(run)["train/skipped_share"])


def test_steps_that_are_not_finite_are_skipped_then_stop_the_run(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("descore.objectives.dual.bradley_terry_loss", lambda a, b, preference: (a - b) * math.inf)
    with pytest.raises(FloatingPointError, match="3 steps in a row"):
        fit("exploding", *EVEN, "--model.optimization.max_skipped", "2", "--trainer.max_steps", "9")


def test_one_step_that_is_not_finite_changes_nothing(fit: Fit, start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first mini-batch explodes, the second does not: the run ends where the second alone takes it."""
    calls = []

    def explode_once(reward_a: Tensor, reward_b: Tensor, preference: Tensor) -> Tensor:
        calls.append(preference)
        return (math.inf if len(calls) == 1 else 1.0) * bradley_terry_loss(reward_a, reward_b, preference)

    monkeypatch.setattr("descore.objectives.dual.bradley_terry_loss", explode_once)
    run = fit("once", *EVEN, "--trainer.max_steps", "1", "--trainer.limit_val_batches", "0")
    assert logged_values(run)["train/skipped_share"] == [1.0, 0.0]
    after = exported_weights(run / "export/last")
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert not torch.equal(after["head.weight"], exported_weights(start)["head.weight"])


def test_a_run_that_is_killed_and_resumed_ends_the_same(tmp_path: Path, fit: Fit, start: Path, table: Path) -> None:
    """Five steps at once, or three, a kill in the middle of an epoch, and two in a new process: the same bits."""
    steps = (*EVEN, "--trainer.max_steps", "5", "--data.batch_size", "2", *EVERY_STEP)
    whole = fit("whole", *steps)
    kill = kill_at("on_train_batch_start", 3)
    command = [sys.executable, "-m", "descore.train", *arguments(tmp_path / "killed", start, table, *steps, *kill)]
    killed = subprocess.run(command, cwd=ROOT, env=os.environ | THREADS, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    assert not differences(whole, fit("killed", *steps, "--resume", "auto"))


def test_pairs_that_cannot_be_graded_stop_the_run_at_its_start(fit: Fit, tmp_path: Path, clips: list[str]) -> None:
    ungraded = tmp_path / "ungraded.jsonl"
    write_pairs(ungraded, [Pair("p0", "a circle", Side(clips[0]), Side(clips[1], scores=SCORES), (1.0,))])
    with pytest.raises(ValueError, match=r"1 of 1 training pairs lack them, such as p0.*scores_a"):
        fit("ungraded", "--data.train", str(ungraded))


def test_an_export_that_is_not_there_is_named(fit: Fit) -> None:
    with pytest.raises(
        ExportError, match=r"runs/nothing/export/last is neither an existing folder.*a run of either stage"
    ):
        fit("nothing", "--model.pretrained", "runs/nothing/export/last")
