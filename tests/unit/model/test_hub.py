"""A push to the hub gives the model back to who downloads it, and its card says what is known and what is not."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, RepoCard

from descore.model.export import ExportError, RewardStatistics, describe, digest
from descore.model.hub import model_card, push
from descore.model.reward_model import RewardModel
from descore.model.trainable import make_trainable

CONFIG = {
    "seed_everything": 3,
    "model": {"class_path": "descore.modules.cold_start.ColdStartModule", "init_args": {"thoughts": True}},
    "data": {"class_path": "data_modules.preference.PreferencePairDataModule", "init_args": {"train": "train.csv"}},
    "trainer": {"max_epochs": 2, "logger": {"class_path": "secret"}, "max_time": None},
}
SUMMARY = {
    "benchmark": "rendered_ood",
    "protocol": {"thoughts": 1},
    "num_videos": 40,
    "num_failed_videos": 1,
    "dimensions": {
        "overall": {
            "without_ties": 0.8125,
            "without_ties_interval": [0.7, 0.9],
            "num_decided": 16,
            "with_ties": None,
            "num_pairs": 20,
        }
    },
}


class FakeHub:
    """The calls of `HfApi` that a push makes, on a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, []

    def create_repo(self, repo_id, *, private=None, exist_ok=False):
        self.calls.append(("create", repo_id, private, exist_ok))
        self.folder.mkdir(exist_ok=True)

    def list_repo_files(self, repo_id):
        return [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()]

    def create_commit(self, repo_id, operations, *, commit_message):
        self.calls.append(("commit", repo_id, len(operations)))
        for one in operations:
            path = self.folder / one.path_in_repo
            if isinstance(one, CommitOperationDelete):
                path.unlink()
                continue
            assert isinstance(one, CommitOperationAdd)
            path.parent.mkdir(parents=True, exist_ok=True)
            content = one.path_or_fileobj
            path.write_bytes(content if isinstance(content, bytes) else Path(content).read_bytes())
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")


@pytest.fixture
def hub(tmp_path: Path) -> FakeHub:
    return FakeHub(tmp_path / "hub")


@pytest.fixture
def run(build, tmp_path: Path) -> Path:
    """A run with its configuration and its export."""
    folder = tmp_path / "run" / "version_0"
    build().save_pretrained(str(folder / "export/last"), calibration=RewardStatistics((0.25,), (1.5,)))
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return folder.parent


def test_a_pushed_run_is_loaded_as_the_model_that_it_was(run, hub):
    assert push(run, "owner/judge", private=True, api=hub) == "https://hub/owner/judge/commit/1"
    assert hub.calls[0] == ("create", "owner/judge", True, True)
    assert [kind for kind, *_ in hub.calls] == ["create", "commit"]
    (hub.folder / ".gitattributes").touch()
    assert digest(hub.folder) == digest(run)
    ours, theirs = RewardModel.from_pretrained(str(hub.folder)), RewardModel.from_pretrained(str(run))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert not (run / "version_0/export/last/README.md").exists()


def test_the_method_pushes_an_export_of_the_model(build, hub):
    model = build()
    calibration = RewardStatistics((0.5,), (2.0,))
    assert model.push_to_hub("owner/judge", calibration=calibration, license="apache-2.0", api=hub)
    assert describe(hub.folder).calibration == calibration
    assert torch.equal(RewardModel.from_pretrained(str(hub.folder)).head.weight, model.head.weight)
    assert RepoCard((hub.folder / "README.md").read_text()).data.license == "apache-2.0"


def test_what_an_earlier_export_left_is_removed_and_other_files_stay(run, hub):
    (hub.folder / "adapter").mkdir(parents=True)
    for name in ("adapter/adapter_model.safetensors", "picture.png"):
        (hub.folder / name).touch()
    push(run, "owner/judge", api=hub)
    assert not (hub.folder / "adapter/adapter_model.safetensors").exists()
    assert (hub.folder / "picture.png").exists()


def test_the_card_states_model_data_recipe_accuracy_and_limits(run, hub, tmp_path):
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation/summary.json").write_text(json.dumps(SUMMARY))
    push(run, "owner/judge", evaluations=[tmp_path / "evaluation"], api=hub)
    card = RepoCard((hub.folder / "README.md").read_text())
    assert card.data.to_dict() == {"library_name": "descore", "tags": ["descore", "reward-model", "video"]}
    headings = [line[3:] for line in card.text.splitlines() if line.startswith("## ")]
    assert headings == ["Use", "Model", "Data", "Recipe", "Accuracy", "Limits"]
    assert 'scorer = Scorer("owner/judge")' in card.text
    assert "| mean of rewards (validation) | 0.25 |" in card.text
    assert "| frames | 2 per second, " in card.text
    assert "train: train.csv" in card.text
    assert "max_epochs: 2" in card.text
    assert "secret" not in card.text
    assert "rendered_ood, 1 thoughts per video, 40 videos of which 1 failed" in card.text
    assert "| overall | 0.812 | 0.700 to 0.900 | 16 | - | 20 |" in card.text
    assert "It sees at most 6 frames of a video, of at most 1,024 pixels each." in card.text


def test_what_is_not_known_is_said_to_be_unknown(build, tmp_path):
    build(thoughts=False).save_pretrained(str(tmp_path / "export"))
    card = model_card(describe(tmp_path / "export"), "owner/judge")
    assert card.count("Not known: no configuration of the training was given") == 2
    assert "Not measured: no evaluation was given" in card
    assert "| thoughts | none: trained without |" in card
    assert "normalised rewards are not available" in card
    assert str(tmp_path) not in card


def test_an_evaluation_that_is_not_finished_is_refused_before_anything_is_pushed(run, hub, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"summary\.json: expected a finished evaluation"):
        push(run, "owner/judge", evaluations=[tmp_path], api=hub)
    assert hub.calls == []


def test_an_adapter_of_a_local_backbone_is_refused(build, hub, tmp_path):
    model = build()
    make_trainable(model, ("language", "query", "head"), lora_parts=("language",), lora_rank=2, lora_alpha=4)
    model.save_pretrained(str(tmp_path / "export"), weights="adapter")
    with pytest.raises(ExportError, match="which nobody else has: push a merged export"):
        push(tmp_path / "export", "owner/judge", api=hub)
    assert hub.calls == []
    described = json.loads((tmp_path / "export/descore.json").read_text())
    described["settings"]["backbone"] = "Qwen/Qwen3-VL-8B-Instruct"
    (tmp_path / "export/descore.json").write_text(json.dumps(described))
    push(tmp_path / "export", "owner/judge", api=hub)
    assert RepoCard((hub.folder / "README.md").read_text()).data.base_model == "Qwen/Qwen3-VL-8B-Instruct"


def test_a_folder_that_is_no_export_is_refused(hub, tmp_path):
    shutil.rmtree(tmp_path / "none", ignore_errors=True)
    (tmp_path / "none").mkdir()
    with pytest.raises(ExportError, match="is not an exported folder"):
        push(tmp_path / "none", "owner/judge", api=hub)
