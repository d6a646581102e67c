"""An exported folder gives the model back, is refused when anything in it does not fit, and is never half written."""

import hashlib
import json
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoModelForImageTextToText

from descore.heads.settings import HeadSettings
from descore.inputs.backbone import resolve
from descore.model.export import ExportError, RewardStatistics, digest, save
from descore.model.reward_model import RewardModel
from descore.model.trainable import make_trainable, trainable
from tests.helpers.examples import make_prefixes, make_thought

LORA = {"lora_parts": ("language",), "lora_rank": 3, "lora_alpha": 6}
PARTS = ("language", "merger", "query", "head")


def train(model: RewardModel, seed: int = 0, **lora: object) -> RewardModel:
    """Give everything that trains other values, as training would."""
    make_trainable(model, PARTS, **lora)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (parameter for group in trainable(model).values() for parameter in group):
            parameter.add_(torch.empty_like(parameter).normal_(0, 0.05, generator=generator))
    return model


def outputs(model: RewardModel) -> tuple[torch.Tensor, torch.Tensor]:
    thoughts = [[make_thought(5, seed=index), make_thought(2, seed=index)] for index in range(2)]
    with torch.no_grad():
        forward = model(model.processor.pack(make_prefixes(model, 2), thoughts), with_logprobs=True)
    return forward.rewards, forward.logprobs


def assert_same_outputs(ours: RewardModel, theirs: RewardModel) -> None:
    assert_close(outputs(ours), outputs(theirs), atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def exports(build, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One export of each kind, to be copied and spoilt."""
    folder = tmp_path_factory.mktemp("exports")
    model = train(build(), **LORA)
    for weights in ("merged", "adapter"):
        save(model, folder / weights, weights=weights)
    return {weights: folder / weights for weights in ("merged", "adapter")}


@pytest.mark.parametrize("weights", ["merged", "adapter"])
@pytest.mark.parametrize("query", ["shared", "each"])
def test_an_export_of_lora_and_a_fully_trained_merger_comes_back(model, build, tmp_path, weights, query):
    several = {"reward_names": ("motion", "look"), "head": HeadSettings(query=query)}
    trained = train(build(model.base.config.model_type, **several), **LORA)
    untrained = build(model.base.config.model_type, **several)
    assert (outputs(trained)[0] - outputs(untrained)[0]).abs().max() > 0.01
    trained.save_pretrained(str(tmp_path / "export"), weights=weights)
    loaded = RewardModel.from_pretrained(str(tmp_path / "export"))
    assert_same_outputs(loaded, trained)
    assert loaded.settings == trained.settings
    assert not loaded.training
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_an_export_of_a_model_trained_in_full_comes_back(model, build, tmp_path):
    trained = train(build(model.base.config.model_type))
    trained.save_pretrained(str(tmp_path / "export"))
    assert_same_outputs(RewardModel.from_pretrained(str(tmp_path / "export")), trained)


def test_an_export_can_be_trained_and_exported_again(build, tmp_path):
    """Stage 2 goes on from the folder of stage 1; what stage 1 learned stays in."""
    train(build(), **LORA).save_pretrained(str(tmp_path / "stage1"))
    second = train(RewardModel.from_pretrained(str(tmp_path / "stage1")), seed=1, **LORA)
    second.save_pretrained(str(tmp_path / "stage2"))
    assert_same_outputs(RewardModel.from_pretrained(str(tmp_path / "stage2")), second)
    with pytest.raises(ValueError, match='"adapter" would leave out what that model learned'):
        second.save_pretrained(str(tmp_path / "adapter"), weights="adapter")


def test_frozen_weights_of_half_precision_keep_head_and_query_exact(build, tmp_path):
    trained = train(build(), **LORA)
    for parameter in trained.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    trained.save_pretrained(str(tmp_path / "export"))
    loaded = RewardModel.from_pretrained(str(tmp_path / "export"))
    assert_same_outputs(loaded, trained.float())


def test_a_merged_backbone_is_one_that_transformers_loads(exports, build):
    trained = train(build(), **LORA)
    plain = AutoModelForImageTextToText.from_pretrained(exports["merged"] / "backbone")
    embedding = plain.get_input_embeddings().weight
    assert plain.get_output_embeddings().weight is embedding
    original = trained.base.get_input_embeddings().weight  # PEFT keeps the rows that train beside it
    query = trained.processor.query_ids
    assert_close(embedding[query], load_file(exports["merged"] / "reward.safetensors")["query.weight"])
    kept = [index for index in range(320) if index not in query]
    assert torch.equal(embedding[kept], original[kept])


def test_an_adapter_is_one_that_peft_loads(exports, backbones):
    plain = AutoModelForImageTextToText.from_pretrained(exports["merged"] / "backbone").eval()
    base = AutoModelForImageTextToText.from_pretrained(backbones["qwen3_vl"])
    base.resize_token_embeddings(plain.get_input_embeddings().num_embeddings)
    adapted = PeftModel.from_pretrained(base, exports["adapter"] / "adapter").eval()
    query = json.loads((exports["adapter"] / "adapter/adapter_config.json").read_text())["trainable_token_indices"]
    token_ids = torch.tensor([[5, 17, 200, *query["embed_tokens"], 3]])
    with torch.no_grad():
        assert_close(adapted(token_ids).logits, plain(token_ids).logits, atol=1e-4, rtol=0)


def test_an_export_of_an_adapter_holds_nothing_but_tensors_and_json(exports):
    assert {path.suffix for path in exports["adapter"].rglob("*") if path.is_file()} <= {
        ".safetensors",
        ".json",
        ".jinja",
    }


@pytest.mark.parametrize("weights", ["merged", "adapter"])
def test_a_save_leaves_the_model_as_it_is(build, tmp_path, weights):
    model = train(build(), **LORA)
    twin = deepcopy(model)
    branches = model.processor.pack(make_prefixes(model, 2), [[make_thought(4)]] * 2)
    for trained in (model, twin):
        optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            trained(branches).rewards.sum().backward()
            optimizer.step()
            if trained is model:
                trained.save_pretrained(str(tmp_path / "export"), weights=weights)
    pairs = zip(model.named_parameters(), twin.named_parameters(), strict=True)
    for (name, ours), (other_name, theirs) in pairs:
        assert name == other_name
        assert ours.requires_grad == theirs.requires_grad
        assert torch.equal(ours, theirs), name


REWARD, ADAPTER, BACKBONE = "reward.safetensors", "adapter/adapter_model.safetensors", "backbone/model.safetensors"
LORA_A = "base_model.model.model.language_model.layers.0.mlp.up_proj.lora_A.weight"
MERGER = "network.model.visual.merger.linear_fc1.bias"
TENSORS = [
    ("merged", REWARD, "head.weight"),
    ("merged", REWARD, "query.weight"),
    ("adapter", REWARD, MERGER),
    ("adapter", ADAPTER, LORA_A),
    ("merged", BACKBONE, "model.language_model.norm.weight"),
]


def spoil(tensors: dict[str, torch.Tensor], name: str, how: str) -> str:
    """Change what a file holds; return the name that the error has to give."""
    if how == "missing":
        del tensors[name]
    elif how == "misshapen":
        tensors[name] = torch.zeros(2, 2)
    else:
        name = name.replace("weight", "wait").replace("bias", "byas")
        tensors[name] = torch.zeros(2)
    return name


@pytest.mark.parametrize("how", ["missing", "extra", "misshapen"])
@pytest.mark.parametrize(("weights", "file", "name"), TENSORS, ids=[f"{file}:{name}" for _, file, name in TENSORS])
def test_a_tensor_that_does_not_fit_is_refused_by_name(exports, tmp_path, weights, file, name, how):
    folder = shutil.copytree(exports[weights], tmp_path / "export")
    tensors = load_file(folder / file)
    named = spoil(tensors, name, how)
    save_file(tensors, folder / file, metadata={"format": "pt"})
    with pytest.raises(ExportError, match=named.replace(".", r"\.")):
        RewardModel.from_pretrained(str(folder))


@pytest.mark.parametrize(
    ("weights", "name", "how"),
    [
        ("merged", "head.weight", "missing"),
        ("merged", "head.weight", "extra"),
        ("merged", "head.weight", "misshapen"),
        ("merged", "query.weight", "misshapen"),
        ("adapter", MERGER, "extra"),
        ("adapter", MERGER, "misshapen"),
    ],
)
def test_what_the_folder_says_of_itself_is_not_enough(exports, tmp_path, weights, name, how):
    """The tensors of a folder fit its own list, but not the model."""
    folder = shutil.copytree(exports[weights], tmp_path / "export")
    tensors, description = load_file(folder / REWARD), json.loads((folder / "descore.json").read_text())
    named = spoil(tensors, name, how)
    description["tensors"] = {name: list(tensor.shape) for name, tensor in tensors.items()}
    save_file(tensors, folder / REWARD)
    (folder / "descore.json").write_text(json.dumps(description))
    with pytest.raises(ExportError, match=named.replace(".", r"\.")):
        RewardModel.from_pretrained(str(folder))


@pytest.mark.parametrize(("weights", "file"), [("merged", REWARD), ("adapter", ADAPTER)])
def test_a_file_that_is_missing_is_named(exports, tmp_path, weights, file):
    folder = shutil.copytree(exports[weights], tmp_path / "export")
    (folder / file).unlink()
    with pytest.raises(ExportError, match=f"{file} is missing"):
        RewardModel.from_pretrained(str(folder))


@pytest.mark.parametrize(("weights", "file"), [("adapter", ADAPTER), ("merged", BACKBONE)])
def test_a_pickle_in_place_of_safetensors_is_not_read(exports, tmp_path, weights, file):
    folder = shutil.copytree(exports[weights], tmp_path / "export")
    pickled = {"backbone/model.safetensors": "backbone/pytorch_model.bin"}.get(
        file, file.replace(".safetensors", ".bin")
    )
    torch.save(load_file(folder / file), folder / pickled)
    (folder / file).unlink()
    with pytest.raises((ExportError, OSError), match=r"\.safetensors"):
        RewardModel.from_pretrained(str(folder))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("weights", "file", "name"),
    [("merged", REWARD, "head.weight"), ("adapter", REWARD, MERGER), ("adapter", ADAPTER, LORA_A)],
)
def test_numbers_that_are_not_finite_are_refused(exports, tmp_path, weights, file, name, value):
    folder = shutil.copytree(exports[weights], tmp_path / "export")
    tensors = load_file(folder / file)
    tensors[name].flatten()[0] = value
    save_file(tensors, folder / file)
    with pytest.raises(ExportError, match=rf"{file}: {name} has numbers that are not finite"):
        RewardModel.from_pretrained(str(folder))


@pytest.mark.parametrize(("weights", "file", "name"), TENSORS, ids=[f"{file}:{name}" for _, file, name in TENSORS])
def test_integers_are_refused(exports, tmp_path, weights, file, name):
    folder = shutil.copytree(exports[weights], tmp_path / "export")
    tensors = load_file(folder / file)
    save_file(tensors | {name: tensors[name].int()}, folder / file)
    with pytest.raises(ExportError, match=rf"{file}: {name} has the type I32; expected one of BF16, F16, F32, F64"):
        RewardModel.from_pretrained(str(folder))


@pytest.mark.parametrize(("weights", "file"), [("merged", BACKBONE), ("merged", REWARD), ("adapter", ADAPTER)])
def test_a_flipped_bit_of_a_weight_is_found(exports, tmp_path, weights, file):
    folder = shutil.copytree(exports[weights], tmp_path / "export")
    content = bytearray((folder / file).read_bytes())
    content[-8] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(ExportError, match=rf"{file} is damaged: its SHA-256 is [0-9a-f]+, expected .*copy the folder"):
        RewardModel.from_pretrained(str(folder))


def test_text_that_was_edited_is_warned_of(exports, tmp_path):
    folder = shutil.copytree(exports["merged"], tmp_path / "export")
    path = folder / "backbone/chat_template.jinja"
    path.write_text(path.read_text() + " ")
    with pytest.warns(UserWarning, match=r"chat_template\.jinja is not as it was exported: damaged, or edited by hand"):
        RewardModel.from_pretrained(str(folder))


def test_sums_are_those_that_sha256sum_prints(exports):
    sums = json.loads((exports["merged"] / "descore.json").read_text())["sums"]
    assert sums[REWARD] == hashlib.sha256((exports["merged"] / REWARD).read_bytes()).hexdigest()
    assert set(sums) == set(contents(exports["merged"])) - {"descore.json"}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("r", 10**9, "r is 1000000000, but the tensors have rank 3"),
        ("r", 0, "r is 0, but the tensors have rank 3"),
        ("r", "3", "r: expected int"),
        ("lora_alpha", None, "lora_alpha: expected int"),
        ("target_modules", "(a+)+$", "target_modules: expected list"),
        ("target_modules", ["lm_head"], "missing"),
        ("layer_replication", [[0, 10**9]], "expected null for layer_replication"),
        ("modules_to_save", ["model"], "expected null for modules_to_save"),
        ("megatron_core", "antigravity", "for megatron_core"),
        ("use_dora", True, "expected false for use_dora"),
        ("rank_pattern", {"(a+)+$": 4}, "for rank_pattern"),
        ("peft_type", "PREFIX_TUNING", 'expected "LORA" for peft_type'),
        ("trainable_token_indices", {"embed_tokens": [10**9]}, "for trainable_token_indices"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(exports, tmp_path, key, value, message):
    folder = shutil.copytree(exports["adapter"], tmp_path / "export")
    path = folder / "adapter/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ExportError, match=message):
        RewardModel.from_pretrained(str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": True}, "has format true"),
        ({"format": None}, "has format null"),
        ({"weights": "whole"}, "weights: expected one of merged, adapter"),
        ({"settings": None}, "settings: expected an object with backbone"),
        ({"tensors": {"head.weight": "1"}}, r"tensors\.head\.weight: expected list"),
        ({"tensors": {}}, "head.weight has the shape"),
        ({"calibration": {"mean": [0.0], "std": [-1.0]}}, "calibration: expected a mean and a std of at least 0"),
        ({"calibration": {"mean": [0.0, 1.0], "std": [1.0, 1.0]}}, "calibration: expected a mean and a std"),
        ({"calibration": [0.0]}, "calibration: expected an object"),
        ({"sums": []}, "sums: expected"),
        ({"name": "x"}, r'unknown \["name"\]'),
    ],
)
def test_a_description_of_another_shape_is_refused(exports, tmp_path, change, message):
    description = json.loads((exports["merged"] / "descore.json").read_text())
    (tmp_path / "descore.json").write_text(json.dumps(description | change))
    with pytest.raises(ExportError, match=message) as error:
        RewardModel.from_pretrained(str(tmp_path))
    assert str(tmp_path / "descore.json") in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "null", '"text"', "[" * 100_000, '{"format": NaN}', '{"format": ' + "9" * 5000 + "}"]
)
def test_a_description_that_is_no_object_is_refused(tmp_path, text):
    (tmp_path / "descore.json").write_text(text)
    with pytest.raises(ExportError, match=r"descore\.json"):
        RewardModel.from_pretrained(str(tmp_path))


def test_no_export_holds_a_pickle(exports):
    suffixes = {path.suffix for folder in exports.values() for path in folder.rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".safetensors", ".jinja", ".md"}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_save_that_is_cut_short_leaves_the_older_export_whole(build, tmp_path, monkeypatch):
    model, folder = train(build(), **LORA), tmp_path / "export"
    model.save_pretrained(str(folder))
    before = contents(folder)
    with torch.no_grad():
        model.head.weight.add_(1)
    with monkeypatch.context() as broken:
        broken.setattr("descore.model.export.save_file", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
        with pytest.raises(OSError, match="no space left"):
            model.save_pretrained(str(folder))
    assert contents(folder) == before
    model.save_pretrained(str(folder))
    assert contents(folder)["reward.safetensors"] != before["reward.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["export"], "no draft is left behind"


def test_a_folder_of_something_else_is_not_overwritten(qwen3, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="exists and is not an exported folder"):
        qwen3.save_pretrained(str(tmp_path))
    assert (tmp_path / "thesis.txt").exists()


def test_an_adapter_is_asked_of_a_model_that_has_none(qwen3, tmp_path):
    with pytest.raises(ValueError, match="needs a model with an adapter"):
        qwen3.save_pretrained(str(tmp_path / "export"), weights="adapter")
    assert not list(tmp_path.iterdir())


def test_the_calibration_travels(qwen3, tmp_path):
    qwen3.save_pretrained(str(tmp_path / "export"), calibration=RewardStatistics((0.5,), (2.0,)))
    assert json.loads((tmp_path / "export/descore.json").read_text())["calibration"] == {"mean": [0.5], "std": [2.0]}


def test_a_name_that_is_too_long_is_refused():
    with pytest.raises(ExportError, match=r"^a{200}\.\.\. cannot be read: File name too long$"):
        RewardModel.from_pretrained("a" * 5000)


@pytest.mark.parametrize("path", ["no/such/folder", "./nothing", "nothing"])
def test_a_folder_that_is_nowhere_is_refused(path):
    with pytest.raises(ExportError, match="neither an existing folder nor a hub id"):
        RewardModel.from_pretrained(path)


def test_a_mistyped_folder_that_could_be_a_hub_id_is_refused_by_its_name(monkeypatch):
    """The hub is not reached: offline, what was never fetched is not there."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    expected = "runs/nothing is not a local folder, and could not be downloaded from the hub"
    with pytest.raises(ExportError, match=expected):
        RewardModel.from_pretrained("runs/nothing")
    with pytest.raises(ValueError, match=expected):
        resolve("runs/nothing", metadata_only=True)


def test_a_folder_that_is_no_export_is_refused(exports, tmp_path):
    with pytest.raises(ExportError, match=r"has no descore\.json"):
        RewardModel.from_pretrained(str(tmp_path))
    description = json.loads((exports["merged"] / "descore.json").read_text())
    (tmp_path / "descore.json").write_text(json.dumps(description | {"format": 99}))
    with pytest.raises(ExportError, match="has format 99; this version reads format 1"):
        RewardModel.from_pretrained(str(tmp_path))


def test_a_digest_goes_by_the_names_and_the_bytes_of_all_files(tmp_path):
    def digest_of(files: dict[str, str]) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        return digest(folder)

    files = {"descore.json": "{}", "backbone/config.json": "[]"}
    assert digest_of(files) == digest_of(files)
    others = [
        {"descore.json": "{ }", "backbone/config.json": "[]"},
        {"descore.json": "{}", "backbone/config.json": "[ ]"},
        {"descore.json": "{}", "backbone/settings.json": "[]"},
        {"descore.json": "{}", "config.json": "[]"},
        {"descore.json": "{}"},
    ]
    assert len({digest_of(one) for one in (files, *others)}) == 1 + len(others)
