"""A backbone is built from its own files alone, and only after its configuration was compared with them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from descore.inputs.backbone import Backbone
from descore.inputs.network import load_network
from descore.inputs.tensor_files import weight_files
from descore.inputs.typed_json import FileError

HUGE = 10**9


@pytest.fixture
def backbone(backbones, tmp_path) -> Path:
    return Path(shutil.copytree(backbones["qwen3_vl"], tmp_path / "backbone"))


@pytest.fixture
def sharded(backbone) -> Path:
    network = load_network(backbone)
    (backbone / "model.safetensors").unlink()
    network.save_pretrained(backbone, max_shard_size="300KB")
    assert len(weight_files(backbone)) > 1
    return backbone


def change(path: Path, **values: object) -> None:
    """Set values of a JSON file; a double underscore separates the keys of a place."""
    content = json.loads(path.read_text())
    for place, value in values.items():
        *parents, name = place.split("__")
        inner = content
        for parent in parents:
            inner = inner[parent]
        inner[name] = value
    path.write_text(json.dumps(content))


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_an_attention_of_the_configuration_is_not_fetched(backbone, backbones):
    kernel = "kernels-community/flash-attn"
    change(
        backbone / "config.json",
        attn_implementation=kernel,
        _attn_implementation=kernel,
        text_config__attn_implementation=kernel,
        vision_config__attn_implementation=kernel,
    )
    network = load_network(backbone)
    assert same(network, load_network(backbones["qwen3_vl"]))
    parts = (network.config, network.config.text_config, network.config.vision_config)
    assert {part._attn_implementation for part in parts} == {"sdpa"}


@pytest.mark.parametrize("place", ["quantization_config", "text_config__fusion_config"])
def test_another_way_to_build_the_model_is_refused(backbone, place):
    change(backbone / "config.json", **{place: {"quant_method": "fp8"}})
    with pytest.raises(FileError, match=rf"config\.json has a {place.split('__')[-1]}, which is not supported"):
        load_network(backbone)


def test_no_other_file_of_the_folder_leads_elsewhere(backbone, backbones):
    """transformers itself would follow each of these."""
    change(
        backbone / "config.json", transformers_weights="../other.safetensors", auto_map={"AutoConfig": "code.Config"}
    )
    (backbone / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/name"}')
    (backbone / ".metadata").write_bytes(b"a pickle")
    (backbone / "code.py").write_text("raise SystemExit")
    assert same(load_network(backbone), load_network(backbones["qwen3_vl"]))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("text_config__vocab_size", HUGE, "vocab_size is 1000000000, but the weights have 320"),
        ("text_config__vocab_size", 300, "vocab_size is 300, but the weights have 320"),
        ("text_config__num_hidden_layers", HUGE, "num_hidden_layers is 1000000000, but the weights have 2"),
        ("text_config__num_hidden_layers", 1, "num_hidden_layers is 1, but the weights have 2"),
        ("text_config__num_hidden_layers", -1, "num_hidden_layers is -1"),
        ("vision_config__depth", HUGE, "depth is 1000000000, but the weights have 2"),
        ("vision_config__deepstack_visual_indexes", [0] * 10_000, "deepstack_visual_indexes has more entries"),
        ("text_config__intermediate_size", HUGE, r"asks for [\d,]+ weights, but the files beside it hold"),
        ("vision_config__num_position_embeddings", HUGE, r"asks for [\d,]+ weights"),
        ("vision_config__num_position_embeddings", 2**62, "cannot be read: RuntimeError"),
        ("text_config__head_dim", 2**40, "config.json"),
        ("text_config__intermediate_size", 96, r"mismatched_keys.*mlp"),
        ("text_config__rope_parameters__mrope_section", [4, 2], "expected three whole numbers that add up to 8"),
        ("text_config__rope_parameters__mrope_section", [HUGE, 2, 3], "expected three whole numbers"),
    ],
)
def test_a_configuration_that_asks_for_other_sizes_builds_nothing(backbone, place, value, message):
    change(backbone / "config.json", **{place: value})
    with pytest.raises(FileError, match=message) as error:
        load_network(backbone)
    assert "config.json" in str(error.value) or "does not hold the weights" in str(error.value)


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/other.safetensors", "link.safetensors", "model.bin"])
def test_an_index_never_points_outside_its_folder(sharded, name):
    outside = sharded.parent / "other.safetensors"
    shutil.copy(weight_files(sharded)[0], outside)
    (sharded / "link.safetensors").symlink_to(outside)
    index = sharded / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"][min(content["weight_map"])] = name
    index.write_text(json.dumps(content))
    with pytest.raises(FileError, match=rf"index\.json names '{name}'; expected a safetensors file inside"):
        load_network(sharded)


@pytest.mark.parametrize("weight_map", [None, [], {}, {"a": 1}, {"a": None}, "model.safetensors"])
def test_an_index_of_another_shape_is_refused(sharded, weight_map):
    change(sharded / "model.safetensors.index.json", weight_map=weight_map)
    with pytest.raises(FileError, match=r"index\.json: expected a weight_map"):
        load_network(sharded)


def test_links_within_the_folder_and_of_the_hubs_cache_are_followed(sharded):
    first, second, *_ = weight_files(sharded)
    whole = load_network(sharded)
    (sharded / "parts").mkdir()
    first.rename(sharded / "parts/first")
    first.symlink_to("parts/first")
    assert same(load_network(sharded), whole)
    cache = sharded.parent / "models--owner--name"
    (cache / "blobs").mkdir(parents=True)
    store = sharded.parent / "store"  # a blob may itself be a link, to a store that several caches share
    second.rename(store)
    (cache / "blobs/0123").symlink_to(store)
    snapshot = cache / "snapshots/abcd"
    shutil.copytree(sharded, snapshot)
    (snapshot / second.name).symlink_to("../../blobs/0123")
    assert same(load_network(snapshot), whole)


def test_a_tensor_that_is_missing_is_never_random(backbone):
    tensors = load_file(backbone / "model.safetensors")
    del tensors["model.language_model.norm.weight"]
    save_file(tensors, backbone / "model.safetensors")
    with pytest.raises(FileError, match=r"missing_keys.*model\.language_model\.norm\.weight"):
        load_network(backbone, exact=False)


def test_a_tensor_that_is_extra_is_left_out_of_a_backbone_and_refused_in_an_export(backbone, backbones):
    tensors = load_file(backbone / "model.safetensors")
    save_file(tensors | {"value_head.weight": torch.zeros(1, 64)}, backbone / "model.safetensors")
    assert same(load_network(backbone, exact=False), load_network(backbones["qwen3_vl"]))
    with pytest.raises(FileError, match=r"unexpected_keys.*value_head\.weight"):
        load_network(backbone)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool])
def test_a_tensor_of_integers_is_refused(backbone, dtype):
    tensors = load_file(backbone / "model.safetensors")
    name = "model.language_model.norm.weight"
    save_file(tensors | {name: tensors[name].to(dtype)}, backbone / "model.safetensors")
    with pytest.raises(FileError, match=rf"model\.safetensors: {name} has the type [IB].*; expected one of BF16"):
        load_network(backbone)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_other_precisions_are_read_in_float32(backbone, dtype):
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(backbone / "model.safetensors").items()}
    save_file(tensors, backbone / "model.safetensors")
    assert {parameter.dtype for parameter in load_network(backbone).parameters()} == {torch.float32}


def test_a_tokenizer_that_does_not_fit_is_refused(backbone):
    right = json.loads((backbone / "config.json").read_text())["video_token_id"]
    change(backbone / "config.json", video_token_id=3)
    with pytest.raises(FileError, match=r"config\.json: video_token_id is 3; .*tokenizer\*\.json has \d+"):
        Backbone.read(str(backbone))
    change(backbone / "config.json", video_token_id=right)
    for path in backbone.glob("tokenizer*.json"):
        path.write_text(path.read_text().replace("<|im_end|>", "<|im_fin|>"))
    with pytest.raises(FileError, match=r"tokenizer\*\.json has no <\|im_end\|>"):
        Backbone.read(str(backbone))
