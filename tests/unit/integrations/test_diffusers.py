"""Best-of-N with a pipeline that is called as one of diffusers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from descore.integrations.diffusers import best_of_n
from descore.scoring.folder import ScoringError


class Pipeline:
    """Noise in the shape that WanPipeline returns for output_type="np": [1, T, H, W, 3] in [0, 1]."""

    def __init__(self, scale: float = 1.0) -> None:
        self.calls, self.scale = [], scale

    def __call__(self, prompt=None, *, height=32, width=48, num_frames=81, generator=None, output_type="np"):
        assert output_type == "np"
        self.calls.append((prompt, num_frames, generator.initial_seed()))
        video = torch.rand((1, num_frames, height, width, 3), generator=generator) * self.scale
        return SimpleNamespace(frames=video.numpy())


def test_the_best_of_n_seeds_is_returned_with_all_places(scorer):
    pipeline = Pipeline()
    best = best_of_n(pipeline, "a bar", scorer, n=4, fps=16, first_seed=7, num_thoughts=2, num_frames=9)
    assert pipeline.calls == [("a bar", 9, seed) for seed in (7, 8, 9, 10)]
    assert len(best.ranked) == 4
    assert best.score.reward == max(one.score.reward for one in best.ranked)
    again = Pipeline()("a bar", num_frames=9, generator=torch.Generator("cpu").manual_seed(best.seed)).frames[0]
    assert np.array_equal(best.frames, again)
    assert scorer.score(again, "a bar", fps=16, num_thoughts=2) == [best.score]
    assert best.ranked[0].probability is not None


def test_where_none_has_a_reward_it_says_why(scorer):
    with pytest.raises(ScoringError, match=r"none of 2 videos has a reward; the first one: .*from 0 to 1"):
        best_of_n(Pipeline(scale=5.0), "a bar", scorer, n=2, fps=16, num_frames=9)
    with pytest.raises(ScoringError, match="number of videos of at least 1, got 0"):
        best_of_n(Pipeline(), "a bar", scorer, n=0, fps=16)
