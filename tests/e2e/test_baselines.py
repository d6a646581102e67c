"""Every baseline from its YAML to the exported folder, which scores real files by what the baseline is about."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data_modules.world.labels import Labels
from descore.inputs.checklist import ProbeSettings
from descore.model.export import describe
from descore.model.reward_model import RewardModel
from descore.scoring.scorer import Scorer
from descore.tables.pairs import read_pairs
from descore.tables.writer import write_pairs
from descore.thinking.readout import weights_of
from descore.train import main
from descore.types import Pair, Side
from tests.helpers.finished_runs import exported_weights, logged_values
from tests.helpers.ranks import train

ROOT = Path(__file__).parents[2]
BASELINES = ROOT / "conf/baselines"
THINKING = ("coupled", "lift", "unifiedreward_think", "videoscore2", "vr_thinker")
STARTS = {
    "coupled_grpo": "coupled",
    "llava_critic_r1": "unifiedreward_think",
    "r1_reward": "coupled",
    "unifiedreward_think_grpo": "unifiedreward_think",
    "videoscore2_grpo": "videoscore2",
    "vlm_r1": "coupled",
}
"""Baselines of stage 2, and what each starts from."""
SOURCES = {
    "checklist": "checklist",
    "coupled": "overall_score",
    "coupled_grpo": "overall_score",
    "r1_reward": "overall_score",
    "vlm_r1": "overall_score",
    "discriminative": "head",
    "discriminative_mse": "head",
    "llava_critic_r1": "choice",
    "rewarddance": "choice",
    "unifiedreward": "choice",
    "unifiedreward_think": "choice",
    "unifiedreward_think_grpo": "choice",
    "lift": "overall_score",
    "videoalign": "head",
    "videoscore": "head",
    "videoscore2": "top_share",
    "videoscore2_grpo": "top_share",
    "visionreward": "checklist",
    "vr_thinker": "head",
}
"""What the reward of each baseline is read from."""
PAIRWISE = tuple(name for name, source in SOURCES.items() if source == "choice")
"""Baselines that compare two videos."""
FIELDS = ("lift", "videoscore2", "videoscore2_grpo")
"""Baselines whose answer is not yet learnt after a few steps: a reward that is not found is nan, with its reason."""
LABELS = {
    "videoalign": ("visual", "motion", "alignment"),
    "videoscore": ("subject", "dynamics", "camera", "environment", "style"),
    "videoscore2": ("visual", "motion", "alignment"),
    "videoscore2_grpo": ("visual", "motion", "alignment"),
}
"""Labels of the baselines with several rewards."""


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rendered")


def world_of(name: str, rendered: Path) -> Path:
    """The folder of the pairs that a baseline is trained on."""
    return rendered / "moments" if name == "vr_thinker" else rendered


class Runs(dict[str, Path]):
    """The folder of a run of each baseline, which is trained when it is first asked for.

    Args:
        folder: Folder of all runs.
        rendered: Folder of the rendered pairs.
    """

    def __init__(self, folder: Path, rendered: Path) -> None:
        super().__init__()
        self.folder, self.rendered = folder, rendered

    def __missing__(self, name: str) -> Path:
        """Train a baseline for a few steps, one of stage 2 on the export of the one that it starts from."""
        own = ["--model.own_thought_pairs", "2"] if name in (*THINKING, *STARTS) else []
        if name in STARTS:
            own += ["--model.pretrained", str(self[STARTS[name]] / "export/last"), "--model.sampling.num_thoughts", "2"]
        if name in ("checklist", "visionreward"):
            own += ["--model.fit_pairs", "4"]
        main([
            *("fit", "-c", str(BASELINES / f"{name}.yaml"), "--trainer.accelerator", "cpu"),
            *("--trainer.logger.save_dir", str(self.folder), "--trainer.log_every_n_steps", "1"),
            *("--trainer.max_steps", "3", "--trainer.val_check_interval", "3"),
            *("--trainer.enable_model_summary", "false", "--trainer.enable_progress_bar", "false"),
            *("--trainer.callbacks", json.dumps([{"class_path": "callbacks.export.ExportModel"}])),
            *("--data.root", str(world_of(name, self.rendered)), "--data.num_train", "6", "--data.num_val", "4"),
            *("--data.batch_size", "2", "--data.num_workers", "0", "--data.max_val_pairs", "2"),
            *own,
        ])
        self[name] = self.folder / name / "version_0"
        return self[name]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, rendered: Path) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"), rendered)


def test_every_baseline_is_listed_with_its_source() -> None:
    assert sorted(SOURCES) == sorted(path.stem for path in BASELINES.glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_baseline_exports_what_its_reward_is_read_from(name: str, runs: Runs) -> None:
    assert describe(runs[name] / "export/last").settings.reward_from == SOURCES[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRWISE)
def test_the_headline_of_a_comparison_is_what_the_export_gives(name: str, runs: Runs, rendered: Path) -> None:
    scorer = Scorer(str(runs[name] / "export/last"), device="cpu")
    pairs = read_pairs(rendered / "val/pairs.jsonl").pairs[:2]
    a, b = ([getattr(pair, side).video for pair in pairs] for side in "ab")
    found, logged = scorer.compare(a, b, [pair.prompt for pair in pairs]), logged_values(runs[name])
    labels = [pair.preference[0] for pair in pairs]
    decided = [(one.margin, label) for one, label in zip(found, labels, strict=True) if label and one.error is None]
    accuracy = sum(margin * label > 0 for margin, label in decided) / len(decided) if decided else math.nan
    assert logged["val/preference_accuracy"][-1] == pytest.approx(accuracy, nan_ok=True)
    known = [one.order_disagreement for one in found if one.error is None]
    if name in ("rewarddance", "unifiedreward"):
        assert len(known) == len(found)
        assert logged["train/loss"][-1] > 0
    assert logged["val/failed_share"][-1] == 1 - len(known) / len(found), "a verdict is not yet learnt in a few steps"
    if known:
        assert logged["val/order_disagreement"][-1] == pytest.approx(sum(known) / len(known), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SOURCES.keys() - set(PAIRWISE)))
def test_the_headline_is_the_accuracy_of_the_scalar_that_the_export_gives(
    name: str, runs: Runs, rendered: Path
) -> None:
    """Scoring the validation pairs with the last export gives the rewards and the accuracy that were logged."""
    scorer = Scorer(str(runs[name] / "export/last"), device="cpu")
    labels = Labels(LABELS.get(name, ("overall",)))
    pairs = read_pairs(world_of(name, rendered) / "val/pairs.jsonl").pairs[:2]
    pairs = [labels(pair) for pair in pairs] if name in LABELS else pairs
    a, b = (scorer.score([getattr(p, side).video for p in pairs], [p.prompt for p in pairs]) for side in "ab")
    rewards = torch.tensor([[list(score.rewards.values()) or [score.reward] for score in side] for side in (a, b)])
    logged = logged_values(runs[name])
    assert logged["val/failed_share"][-1] == rewards.isnan().float().mean()
    if name in FIELDS:
        assert all("of the answer is" in score.error or "has no" in score.error for score in (*a, *b) if score.error)
    else:
        assert rewards.isfinite().all(), [score.error for score in (*a, *b)]
        accuracies = []
        for index, label in enumerate(labels.dimensions):
            suffix = f"/{label}" if len(labels.dimensions) > 1 else ""
            mean = rewards[..., index].mean().item()
            assert logged[f"val/reward_mean{suffix}"][-1] == pytest.approx(mean, abs=1e-4)
            preference = torch.tensor([pair.preference[index] for pair in pairs])
            decided = preference.nan_to_num() != 0
            margin = (rewards[0] - rewards[1])[decided, index]
            accuracies.append((margin.sign() == preference[decided]).float().mean())
        expected = torch.stack(accuracies).nanmean().item()
        assert logged["val/preference_accuracy"][-1] == pytest.approx(expected)
    if name.startswith(("coupled", "r1", "vlm")):
        said = [score.overall_score for score in (*a, *b)]
        assert [score.reward for score in (*a, *b)] == pytest.approx(said, abs=1e-6)
    elif name not in (*FIELDS, "vr_thinker"):
        assert not any(score.thought for score in (*a, *b))


@pytest.mark.slow
def test_a_coupled_model_is_read_by_its_expected_score_too(runs: Runs, rendered: Path) -> None:
    scorer = Scorer(str(runs["coupled_grpo"] / "export/last"), device="cpu", reward_from="expected_score")
    pairs = read_pairs(rendered / "val/pairs.jsonl").pairs[:2]
    for score in scorer.score([pair.a.video for pair in pairs], [pair.prompt for pair in pairs]):
        assert score.error is None
        assert score.overall_score is not None
        fraction = score.overall_score % 1
        assert 1 <= score.reward - fraction <= 5
        assert score.reward != score.overall_score


@pytest.mark.slow
def test_the_fitted_weights_are_in_the_exported_folder(runs: Runs) -> None:
    questions = describe(runs["checklist"] / "export/last").settings.checklist
    weights = weights_of(RewardModel.from_pretrained(str(runs["checklist"] / "export/last")).settings.checklist)
    assert weights.tolist() == [question.weight for question in questions]
    assert weights.isfinite().all()
    assert weights.abs().sum() > 0
    assert 0 < logged_values(runs["checklist"])["val/answer_accuracy"][-1] <= 1


@pytest.mark.slow
def test_only_a_discriminative_model_has_a_trained_head(runs: Runs) -> None:
    heads = {name: load_file(runs[name] / "export/last/reward.safetensors")["head.weight"] for name in SOURCES}
    one, three = heads["checklist"], heads["videoscore2"]
    trained = {name for name, head in heads.items() if not torch.equal(head, one) and not torch.equal(head, three)}
    assert trained == {"discriminative", "discriminative_mse", "videoalign", "videoscore", "vr_thinker"}


@pytest.mark.slow
def test_hard_answers_have_weights_that_are_not_negative(runs: Runs) -> None:
    settings = describe(runs["visionreward"] / "export/last").settings
    assert settings.probes == ProbeSettings("hard", "mean", nonnegative=True)
    assert weights_of(settings.checklist).min() >= 0


@pytest.mark.slow
def test_the_queries_of_videoalign_stand_in_its_prompt(runs: Runs) -> None:
    model = RewardModel.from_pretrained(str(runs["videoalign"] / "export/last"))
    assert model.processor.template.queries == ("<Reward_visual>", "<Reward_motion>", "<Reward_alignment>")
    assert model.processor.appended_ids == []


@pytest.mark.slow
def test_coupled_training_teaches_the_language(runs: Runs) -> None:
    coupled, grpo = logged_values(runs["coupled"]), logged_values(runs["coupled_grpo"])
    assert coupled["train/loss"] == coupled["train/language_model_loss"]
    assert "train/preference_loss" not in coupled
    assert {"rollout/agreement", "rollout/format"} <= grpo.keys()
    assert all(0 <= value <= 1 for value in grpo["rollout/agreement"])
    assert "train/preference_accuracy" not in grpo
    assert grpo["rollout/reward"] == pytest.approx([
        0.9 * one + 0.1 * other for one, other in zip(grpo["rollout/agreement"], grpo["rollout/format"], strict=True)
    ])


def test_a_checklist_needs_annotated_scores(clips: list[str], tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", [Pair("p0", "a bar", Side(clips[0]), Side(clips[1]), (1.0,))])
    with pytest.raises(ValueError, match=r"1 of 1 training pairs lack them, such as p0.*scores_a"):
        main([
            *("fit", "-c", str(BASELINES / "checklist.yaml"), "--trainer.accelerator", "cpu"),
            *("--data", "data_modules.preference.PreferencePairDataModule", "--data.num_workers", "0"),
            *("--data.train", str(tmp_path / "pairs.jsonl"), "--trainer.logger.save_dir", str(tmp_path)),
        ])


@pytest.mark.slow
def test_stage_2_refuses_a_model_that_does_not_think(runs: Runs, rendered: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stage 2 trains thoughts"):
        main([
            *("fit", "-c", str(ROOT / "conf/stage2.yaml"), "--trainer.accelerator", "cpu"),
            *("--model.pretrained", str(runs["checklist"] / "export/last"), "--data.root", str(rendered)),
            *("--data.num_train", "6", "--data.num_val", "4", "--trainer.logger.save_dir", str(tmp_path)),
        ])


def test_a_run_without_a_step_has_no_weights_to_score_with(clips: list[str], tmp_path: Path) -> None:
    """What nothing was fitted for is exported as it is, and gives no reward, never a default."""
    cli = main(["-c", str(BASELINES / "checklist.yaml"), "--trainer.accelerator", "cpu"], run=False)
    cli.model.configure_model()
    cli.model.model.save_pretrained(str(tmp_path / "export"))
    (score,) = Scorer(str(tmp_path / "export"), device="cpu").score(clips[:1], ["a bar"])
    assert math.isnan(score.reward)
    assert "not fitted" in score.error


@pytest.mark.slow
def test_a_checklist_is_fitted_the_same_on_two_processes_and_after_a_break(rendered: Path, tmp_path: Path) -> None:
    """Sharded over two processes, or stopped after two of four steps and gone on with, it ends as a whole run does."""
    common = [
        *("fit", "-c", str(BASELINES / "checklist.yaml"), "--trainer.accelerator", "cpu", "--model.fit_pairs", "4"),
        *("--trainer.logger.save_dir", str(tmp_path), "--trainer.val_check_interval", "2"),
        *(
            "--model.optimization.schedule",
            "constant_with_warmup",
            "--model.optimization.warmup",
            "0",
            "--trainer.log_every_n_steps",
            "1",
        ),
        *("--trainer.enable_model_summary", "false", "--data.root", str(rendered), "--data.num_train", "16"),
        *("--data.num_val", "4", "--data.max_val_pairs", "4", "--data.num_workers", "0"),
    ]

    def leg(name: str, batch_size: int, max_steps: int, *more: str) -> list[str]:
        named = ["--trainer.logger.name", name, "--data.batch_size", str(batch_size)]
        return [*common, *named, "--trainer.max_steps", str(max_steps), *more]

    main(leg("whole", 4, 4))
    main(leg("broken", 4, 2))
    main(leg("broken", 4, 4, "--resume", "auto"))
    sharded = ("-c", str(ROOT / "conf/overlay/fsdp.yaml"), "--trainer.precision", "32-true")
    train([*common[:3], *sharded, *leg("two", 2, 4)[3:]], 2, tmp_path / "two.txt")
    exports = {name: tmp_path / name / "version_0/export/last" for name in ("whole", "broken", "two")}
    fitted = {
        name: weights_of(RewardModel.from_pretrained(str(path)).settings.checklist) for name, path in exports.items()
    }
    whole = exported_weights(exports["whole"])
    for name, within in (("broken", 0), ("two", 1e-5)):
        torch.testing.assert_close(fitted[name], fitted["whole"], atol=10 * within, rtol=0)
        torch.testing.assert_close(exported_weights(exports[name]), whole, atol=within, rtol=0)
    assert fitted["whole"].abs().max() > 0.01
