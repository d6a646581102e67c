"""The two layouts of DeScore's own code: an adapter beside its backbone, and shards of FSDP."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing import assert_close
from torch.testing._internal.distributed.fake_pg import FakeStore

from descore.importing.request import ImportRequest
from descore.importing.run import import_model
from descore.inputs.settings import ModelSettings
from descore.inputs.typed_json import FileError
from descore.model.reward_model import RewardModel
from descore.types import Thought
from tests.helpers.examples import make_frames, make_thought
from tests.parity.plain import plain_sequence, stock

TEMPLATE = "Judge it: {prompt}"
TARGETS = ["q_proj", "v_proj"]


@pytest.fixture(scope="module")
def trained(backbones: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> RewardModel:
    """A model with a query row and a head of its own, whose layers have LoRA adapters."""
    folder = tmp_path_factory.mktemp("template") / "template.txt"
    folder.write_text(TEMPLATE)
    model = RewardModel.create(ModelSettings(str(backbones["qwen3_vl"]), TEMPLATE), seed=3).eval()
    names = [
        name
        for name, module in model.base.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(tuple(TARGETS)) and "language_model" in name
    ]
    model.network = get_peft_model(model.network, LoraConfig(r=2, lora_alpha=128, target_modules=names))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, parameter in model.network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.01)
        model.base.get_input_embeddings().weight[model.processor.query_ids] = 0.1
        model.head.weight.mul_(10)
    return model


@pytest.fixture
def template(tmp_path: Path) -> str:
    (tmp_path / "template.txt").write_text(TEMPLATE)
    return str(tmp_path / "template.txt")


def rewards_of(model: RewardModel, *, plain: bool = False) -> Tensor:
    """Rewards of a thought and of none, in this project's forward or in transformers' own."""
    prefix = model.processor.prefix("a red circle", make_frames())
    thoughts = [make_thought(5), Thought()]
    if plain:
        other = stock(model)
        return torch.stack([plain_sequence(other, prefix, thought)[0] for thought in thoughts])
    return model(model.processor.pack([prefix], [thoughts])).rewards


def plain_state(model: RewardModel) -> dict[str, Tensor]:
    """The backbone without its adapters."""
    state = model.base.state_dict()
    kept = {name.replace(".base_layer", ""): tensor for name, tensor in state.items() if "lora_" not in name}
    return {name: tensor.clone() for name, tensor in kept.items() if name != "lm_head.weight"}


def write_metadata(model: RewardModel, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.base.config.save_pretrained(folder)
    model.processor.tokenizer.save_pretrained(folder)
    statistics = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics))


def write_stage1(model: RewardModel, folder: Path) -> None:
    write_metadata(model, folder)
    save_file(plain_state(model), folder / "model.safetensors")
    network: Any = model.network
    network.save_pretrained(str(folder / "lora_adapter"), save_embedding_layers=False)
    torch.save({"base_model.model.rm_head.weight": model.head.weight.detach()}, folder / "rm_head.pth")


@torch.no_grad()
def test_stage_1_is_the_backbone_with_its_adapter(trained: RewardModel, tmp_path: Path, template: str) -> None:
    write_stage1(trained, tmp_path / "checkpoint-10")
    import_model(ImportRequest("descore-stage1", str(tmp_path / "checkpoint-10"), tmp_path / "export", None, template))
    model = RewardModel.from_pretrained(str(tmp_path / "export"))
    assert model.settings.thoughts
    expected = rewards_of(trained, plain=True)
    assert_close(rewards_of(model), expected, atol=1e-5, rtol=1e-5)
    without = deepcopy(trained)
    without.network = without.network.unload()
    assert (rewards_of(without) - expected).abs().max() > 1e-3


def test_a_layer_that_the_adapter_leaves_out_is_named(trained: RewardModel, tmp_path: Path, template: str) -> None:
    write_stage1(trained, tmp_path / "source")
    path = tmp_path / "source/lora_adapter/adapter_model.safetensors"
    left = {name: tensor for name, tensor in load_file(path).items() if "layers.1.self_attn.v_proj" not in name}
    save_file(left, path)
    with pytest.raises(FileError, match=r"missing model.language_model.layers.1.self_attn.v_proj.lora_A.weight"):
        import_model(ImportRequest("descore-stage1", str(tmp_path / "source"), tmp_path / "export", None, template))


@pytest.fixture(scope="module")
def one_of_two() -> Iterator[Any]:
    """A mesh of two processes, of which only this one is there."""
    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield init_device_mesh("cpu", (2,), mesh_dim_names=("fsdp",))
    dist.destroy_process_group()


def write_shards(state: Mapping[str, Tensor], folder: Path, mesh: Any) -> None:
    """Write what FSDP saves on each of two ranks: the first dimension in halves, the first the larger one."""
    for rank in range(2):
        shards = {}
        for name, tensor in state.items():
            local = (*tensor.chunk(2), tensor[:0])[rank]
            shards[name] = DTensor.from_local(
                local.clone(), mesh, [Shard(0)], run_check=False, shape=tensor.shape, stride=tensor.stride()
            )
        torch.save(shards, folder / f"model_world_size_2_rank_{rank}.pt")


def write_stage2(model: RewardModel, folder: Path, mesh: Any) -> dict[str, Tensor]:
    merged = deepcopy(model.network).merge_and_unload()
    write_metadata(model, folder / "actor/huggingface")
    state = {name: tensor for name, tensor in merged.state_dict().items() if name != "lm_head.weight"}
    write_shards(state, folder / "actor", mesh)
    torch.save({"model": {"rm_head.weight": model.head.weight.detach()}}, folder / "actor/rm_head.pth")
    return state


@torch.no_grad()
def test_stage_2_is_its_shards_joined(trained: RewardModel, tmp_path: Path, template: str, one_of_two: Any) -> None:
    write_stage2(trained, tmp_path / "source", one_of_two)
    import_model(ImportRequest("descore-stage2", str(tmp_path / "source"), tmp_path / "export", None, template))
    model = RewardModel.from_pretrained(str(tmp_path / "export"))
    assert_close(rewards_of(model), rewards_of(trained, plain=True), atol=1e-5, rtol=1e-5)


def test_shards_that_do_not_fit_are_refused(
    trained: RewardModel, tmp_path: Path, template: str, one_of_two: Any
) -> None:
    state = write_stage2(trained, tmp_path / "source", one_of_two)
    request = ImportRequest("descore-stage2", str(tmp_path / "source"), tmp_path / "export", None, template)
    actor, name = tmp_path / "source/actor", next(name for name in state if name.endswith("norm.weight"))
    shards = torch.load(actor / "model_world_size_2_rank_1.pt", weights_only=True)
    torch.save({key: one for key, one in shards.items() if key != name}, actor / "model_world_size_2_rank_1.pt")
    with pytest.raises(FileError, match=f"rank 1 is missing {name}"):
        import_model(request)
    (actor / "model_world_size_2_rank_1.pt").unlink()
    with pytest.raises(FileError, match=r"is missing model_world_size_2_rank_1\.pt"):
        import_model(request)
