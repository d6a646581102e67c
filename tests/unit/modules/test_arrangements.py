"""Both stages train a model wherever its head reads, in whatever form: real runs of a few steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from descore.heads.settings import HeadSettings
from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.modules.cold_start import ColdStartModule
from descore.modules.options import Optimization
from descore.modules.rl import RLModule
from descore.objectives.preference import PreferenceObjective
from descore.rewards import Rubric
from descore.scoring.scorer import Scorer
from descore.video.settings import VideoSettings
from tests.helpers.fitting import data, trainer

VIDEO = VideoSettings(min_frames=2, max_frames=2, min_pixels=1024, max_pixels=1024)
ARRANGEMENTS = {
    "query_in_prompt": ("Of {prompt} score: {query:overall}", HeadSettings(query="each")),
    "query_in_prompt_mlp": ("{prompt} {query}", HeadSettings(kind="mlp", hidden=(8, 4), bias=True)),
    "last_token": ("{prompt} {video}", HeadSettings(query="last", bias=True)),
    "last_token_gated": ("{prompt}", HeadSettings(query="last", kind="gated", criteria=4)),
}


@pytest.mark.parametrize("thoughts", [False, True], ids=["discriminative", "thinking"])
@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_a_model_of_every_arrangement_trains_in_both_stages_and_scores(
    world: Path, tmp_path: Path, name: str, thoughts: bool
) -> None:
    text, head = ARRANGEMENTS[name]
    (tmp_path / "template.txt").write_text(text)
    rates = {"language": 1e-3, "head": 1e-2} | ({} if head.query == "last" else {"query": 1e-2})
    stage1 = ColdStartModule(
        backbone=str(world / "backbone"),
        template=str(tmp_path / "template.txt"),
        video=VIDEO,
        head=head,
        thoughts=thoughts,
        max_thought_tokens=4,
        objective=PreferenceObjective(loss="rao_kupper", cot_masking="both" if thoughts else "sampled"),
        optimization=Optimization(rates),
        own_thought_pairs=2,
    )
    run = trainer(tmp_path, limit_train_batches=3)
    run.fit(stage1, data(world))
    assert run.logged_metrics["val/preference_accuracy"] >= 0
    start = RewardModel.create(stage1.settings)
    assert all(moved(stage1.model.head, start.head))
    stage1.model.save_pretrained(str(tmp_path / "export"))
    clip = str(next((world / "val").rglob("*.mp4")))
    (score,) = Scorer(str(tmp_path / "export"), device="cpu").score(clip, "a red circle")
    assert score.error is None
    if not thoughts:
        return
    stage2 = RLModule(
        str(tmp_path / "export"),
        sampling=Sampling(num_thoughts=2, temperature=1.0),
        rubric=Rubric({"tests.helpers.rules.even_codes": 1.0}),
        optimization=Optimization(rates),
        own_thought_pairs=2,
    )
    trainer(tmp_path, limit_train_batches=2).fit(stage2, data(world))
    assert any(moved(stage2.model.head, stage1.model.head))


def moved(ours: torch.nn.Module, theirs: torch.nn.Module) -> list[bool]:
    """Return for each tensor of two heads whether they differ; the bias of a pair's rewards cancels out."""
    pairs = zip(ours.named_parameters(), theirs.named_parameters(), strict=True)
    return [not torch.equal(one, other) for (name, one), (_, other) in pairs if name != "bias"]


def test_a_query_that_is_not_there_cannot_train(world: Path) -> None:
    module = ColdStartModule(backbone=str(world / "backbone"), template="rendered", head=HeadSettings(query="last"))
    with pytest.raises(ValueError, match=r"no query token to train.*learning_rates.query 0"):
        module.configure_model()
