"""VideoAlign's interface, called as DanceGRPO calls it."""

import math
import os

import pytest
import torch

from descore.integrations.videoalign import VideoAlignReward
from descore.scoring.score import Score
from descore.scoring.scorer import Scorer


class Given:
    """An object that scores with given records."""

    def __init__(self, *scores: Score) -> None:
        self.scores = list(scores)

    def score(self, videos, prompts, *, num_thoughts=1):
        return self.scores


def dance_grpo_rewards(inferencer, videos, captions):
    """As fastvideo/train_grpo_hunyuan.py calls it: one video at a time, and -1 for whatever is raised."""
    all_vq, all_mq = [], []
    for video, caption in zip(videos, captions, strict=True):
        try:
            reward = inferencer.reward([os.path.abspath(video)], [caption], use_norm=True)
            vq, mq = torch.tensor(reward[0]["VQ"]), torch.tensor(reward[0]["MQ"])
        except Exception:
            vq = mq = torch.tensor(-1.0)
        all_vq.append(vq.unsqueeze(0))
        all_mq.append(mq.unsqueeze(0))
    return torch.cat(all_vq), torch.cat(all_mq)


@pytest.fixture(scope="module")
def calibrated(build, tmp_path_factory) -> str:
    from descore.model.export import RewardStatistics

    folder = tmp_path_factory.mktemp("calibrated") / "export"
    build(max_thought_tokens=4).save_pretrained(str(folder), calibration=RewardStatistics((0.1,), (0.5,)))
    return str(folder)


def test_dance_grpo_gets_normalised_rewards_and_nan_for_a_failed_video(calibrated, clips):
    vq, mq = dance_grpo_rewards(VideoAlignReward(calibrated, device="cpu"), [clips[0], "gone.mp4", clips[1]], ["a"] * 3)
    expected = [one.normalised_reward for one in Scorer(calibrated, device="cpu").score(clips[:2], "a")]
    assert vq[[0, 2]].tolist() == mq[[0, 2]].tolist() == pytest.approx(expected, abs=1e-5)
    assert vq.isnan().tolist() == [False, True, False]


def test_raw_rewards_and_the_reason_of_a_failure(scorer, clips):
    good, bad = VideoAlignReward(scorer).reward([clips[0], "gone.mp4"], ["a", "a"], use_norm=False)
    (score,) = scorer.score(clips[0], "a")
    assert good == dict.fromkeys(("Overall", "VQ", "MQ", "TA"), score.reward)
    assert bad["error"].startswith("gone.mp4: cannot be opened")
    assert all(math.isnan(bad[key]) for key in ("Overall", "VQ", "MQ", "TA"))


def test_several_rewards_are_given_by_name():
    given = Given(Score(3.0, rewards={"VQ": 1.0, "TA": 2.0}))
    (found,) = VideoAlignReward(given, keys=("VQ", "MQ")).reward(["a.mp4"], ["a"], use_norm=False)
    assert found == {"Overall": 3.0, "VQ": 1.0, "MQ": 3.0}


def test_a_model_that_does_not_know_its_statistics_says_so_and_is_no_number():
    (found,) = VideoAlignReward(Given(Score(3.0))).reward(["a.mp4"], ["a"])
    assert "use_norm=False" in found["error"]
    assert math.isnan(found["VQ"])


def test_settings_of_the_frames_are_refused():
    with pytest.raises(ValueError, match="leave out fps, num_frames"):
        VideoAlignReward(Given()).reward(["a.mp4"], ["a"], fps=2.0, num_frames=8)
