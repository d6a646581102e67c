"""Where an export and its backbone are: by hub id, beside each other, moved together, moved apart."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from descore.inputs.settings import ModelSettings
from descore.model.export import ExportError, describe, digest
from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.model.trainable import make_trainable
from descore.modules.rl import RLModule
from descore.runtime.starts import find_start
from descore.scoring.scorer import Scorer


@pytest.fixture
def house(backbones, tmp_path) -> Path:
    """A backbone and an adapter export beside it."""
    shutil.copytree(backbones["qwen3_vl"], tmp_path / "house/backbone")
    model = RewardModel.create(ModelSettings(str(tmp_path / "house/backbone"), "Judge it: {prompt}"))
    make_trainable(model, ("language", "query", "head"), lora_parts=("language",), lora_rank=2, lora_alpha=4)
    model.save_pretrained(str(tmp_path / "house/run/export"), weights="adapter")
    return tmp_path / "house"


def weights_of(model: RewardModel) -> torch.Tensor:
    return torch.cat([parameter.flatten() for parameter in model.parameters()])


def test_a_backbone_is_named_relative_to_the_export_and_moves_with_it(house, tmp_path, monkeypatch):
    recorded = json.loads((house / "run/export/descore.json").read_text())["settings"]["backbone"]
    assert recorded == "../../backbone"
    before = weights_of(RewardModel.from_pretrained(str(house / "run/export")))
    moved = house.rename(tmp_path / "moved")
    monkeypatch.chdir(moved / "run")
    loaded = RewardModel.from_pretrained("export")
    assert torch.equal(weights_of(loaded), before)
    assert loaded.settings.backbone == str(moved / "backbone")


def test_a_backbone_given_from_the_working_directory_is_found_from_another(house, tmp_path, monkeypatch):
    monkeypatch.chdir(house)
    model = RewardModel.create(ModelSettings("backbone", "Judge it: {prompt}"))
    make_trainable(model, ("query", "head"))
    model.save_pretrained("elsewhere/export", weights="adapter")
    monkeypatch.chdir(tmp_path)
    RewardModel.from_pretrained("house/elsewhere/export")


@pytest.mark.parametrize("name", ["tiny", "Qwen/Qwen3-VL-8B-Instruct"])
def test_a_hub_id_stays_as_it_is(house, name):
    path = house / "run/export/descore.json"
    content = json.loads(path.read_text())
    content["settings"]["backbone"] = name
    path.write_text(json.dumps(content))
    assert describe(house / "run/export").settings.backbone == name


def test_an_export_that_moved_alone_says_where_its_backbone_was_and_takes_another(house, tmp_path):
    before = weights_of(RewardModel.from_pretrained(str(house / "run/export")))
    moved = (house / "run/export").rename(tmp_path / "export")
    with pytest.raises(
        ExportError, match=r"holds an adapter, and its backbone is not at .*: name it with --backbone"
    ) as error:
        RewardModel.from_pretrained(str(moved))
    assert "\n" not in str(error.value)
    backbone = str(house / "backbone")
    assert torch.equal(weights_of(RewardModel.from_pretrained(str(moved), backbone=backbone)), before)
    assert torch.equal(weights_of(Scorer(str(moved), device="cpu", backbone=backbone).model), before)
    module = RLModule(str(moved), sampling=Sampling(2, temperature=1.0), backbone=backbone)
    module.configure_model()
    assert module.model.settings.backbone == backbone
    assert find_start(str(moved), None, backbone) == moved
    with pytest.raises(ExportError, match=r"--model\.backbone in stage 2"):
        find_start(str(moved), None)
    with pytest.raises(ExportError, match="its backbone is not at nowhere"):
        describe(moved, "nowhere")


def test_the_digest_is_of_the_backbone_that_is_used(house, tmp_path):
    export, other = house / "run/export", shutil.copytree(house / "backbone", tmp_path / "other")
    first = digest(export)
    assert digest(export, str(other)) == first == digest(export, str(house / "backbone"))
    damaged = bytearray((other / "model.safetensors").read_bytes())
    damaged[-1] ^= 1
    (other / "model.safetensors").write_bytes(damaged)
    assert digest(export, str(other)) != first


def test_another_backbone_for_a_whole_export_is_refused(qwen3, backbones, tmp_path):
    qwen3.save_pretrained(str(tmp_path / "export"))
    with pytest.raises(ExportError, match=r"holds its whole backbone.*leave --backbone out"):
        RewardModel.from_pretrained(str(tmp_path / "export"), backbone=str(backbones["qwen3_vl"]))


def test_a_backbone_of_other_sizes_is_refused(house):
    with pytest.raises(ExportError, match=r"adapter_model\.safetensors: .* has shape"):
        RewardModel.from_pretrained(str(house / "run/export"), backbone="tiny")
