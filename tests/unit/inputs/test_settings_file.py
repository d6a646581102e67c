"""A settings file: a backbone as it was published is asked and read by it, and is refused what nobody trained."""

import json
import math

import pytest
import torch
import yaml

from descore.inputs.settings_file import read_settings
from descore.model.description import ExportError, describe
from descore.model.export import digest, load_processor
from descore.model.hub import push
from descore.model.reward_model import RewardModel
from descore.scoring import together as scoring
from descore.scoring.scorer import Scorer
from descore.thinking.readout import read_answers
from descore.types import Group, Thought

VIDEO = {"min_pixels": 256, "max_pixels": 1024, "max_frames": 6}


@pytest.fixture
def judge(tmp_path, backbones):
    """Write a settings file, with what is given instead of the defaults."""

    def write(**values):
        path = tmp_path / "judge.yaml"
        defaults = {"backbone": str(backbones["qwen3_vl"]), "template": "Judge it: {prompt}", "video": VIDEO}
        path.write_text(yaml.safe_dump(defaults | values))
        return str(path)

    return write


def test_questions_of_a_file_are_answered_by_a_backbone_that_nobody_trained(judge, tmp_path, clips):
    (tmp_path / "ask.csv").write_text("question,weight\nIs it red?,0.5\nIs it sharp?,2\n")
    (tmp_path / "ask.txt").write_text("Look: {prompt}")
    path = judge(
        template="ask.txt",
        thoughts=False,
        reward_from="checklist",
        checklist="ask.csv",
        probes={"answers": "hard", "combine": "mean"},
    )
    assert read_settings(path).template == "Look: {prompt}"
    scorer = Scorer(path, device="cpu")
    (score,) = scorer.score(clips[:1], ["a bar"])
    prefix = scorer.model.processor.prefix("a bar", scorer.model.processor.read(clips[0]))
    answers = read_answers(scorer.model, scorer.model.processor.pack([prefix], [[Thought()]]))
    signs = (answers[0] > 0.5).float() * 2 - 1
    assert score.reward == pytest.approx((signs @ torch.tensor([0.5, 2.0])).item() / 2)
    assert load_processor(path).settings == scorer.model.settings


def test_what_it_says_is_read_where_the_settings_say_and_fails_by_name(judge, clips, monkeypatch):
    answer = {"fields": {"visual": r"visual: (\d)", "motion": "$.motion"}, "combine": "sum"}
    scorer = Scorer(judge(reward_from="overall_score", answer=answer), device="cpu")

    def think(*_, **__):
        texts = ('visual: 4 {"motion": 2}', "visual: 4")
        ids = [tuple(scorer.model.processor.tokenizer.encode(text)) for text in texts]
        thoughts = tuple(Thought(one, closed=True) for one in ids)
        return [Group(thoughts, texts, (), torch.zeros(2, 1))]

    monkeypatch.setattr(scoring, "think", think)
    (score,) = scorer.score(clips[:1], ["a bar"], num_thoughts=2)
    assert (score.reward, score.overall_score) == (6.0, 6.0)
    assert math.isnan(score.each[1].reward)
    assert "has no motion" in score.each[1].error


def test_the_digest_is_that_of_what_it_says_and_of_the_weights(judge, backbones):
    names = ("overall_score", "expected_score", "overall_score")
    first, other, again = (digest(judge(reward_from=name)) for name in names)
    assert first == again != other
    assert digest(judge(reward_from="overall_score"), str(backbones["qwen2_5_vl"])) != first


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "a model that was not trained has no head; expected reward_from overall_score"),
        ({"reward_from": "sum"}, "reward_from: expected one of head, overall_score"),
        (
            {"reward_from": "overall_score", "template": "nowhere"},
            "nowhere: expected descore, .*, rendered, .*or the path",
        ),
        ({"reward_from": "overall_score", "answr": {}}, 'unknown .*"answr"'),
        ({"reward_from": "overall_score", "answer": {"fields": {"a": "a"}}}, "settings.answer: .* with one group"),
        ({"reward_from": "overall_score", "backbone": "/nowhere/at all"}, "a hub id, a folder or tiny"),
    ],
)
def test_a_wrong_value_is_told_with_the_file(judge, values, reason):
    with pytest.raises(ValueError, match=rf"judge\.yaml: .*{reason}"):
        describe(judge(**values))


def test_what_is_no_settings_is_refused(judge, tmp_path):
    for text in ("- 1", "a: [", "3"):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ValueError, match=r"bad\.yaml"):
            describe(tmp_path / "bad.yaml")
    with pytest.raises(ExportError, match="which has weights to push"):
        push(judge(reward_from="overall_score"), "owner/name")


def test_its_model_can_be_exported_whole(judge, tmp_path):
    RewardModel.from_pretrained(judge(reward_from="overall_score")).save_pretrained(str(tmp_path / "export"))
    assert describe(tmp_path / "export").settings.reward_from == "overall_score"
    content = json.loads((tmp_path / "export/descore.json").read_text())
    (tmp_path / "export/descore.json").write_text(json.dumps(content | {"weights": "none"}))
    with pytest.raises(ExportError, match="expected one of merged, adapter"):
        describe(tmp_path / "export")
