"""Imports that must fail, with the tensor or the file named and nothing written, and the command around them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from descore.cli import main
from descore.importing import run
from descore.importing.request import ImportRequest
from descore.importing.run import import_model
from descore.inputs.typed_json import FileError
from descore.model.description import describe
from descore.model.hub import model_card
from tests.helpers.commands import refused
from tests.helpers.published import Published, write_videoreward

LAYER = "base_model.model.model.layers.1.self_attn.q_proj"
NORM = "base_model.model.visual.blocks.0.norm1.weight"
State = dict[str, Any]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return write_videoreward(tmp_path_factory.mktemp("videoreward"))


@pytest.fixture
def copy(published: Published, tmp_path: Path) -> dict[str, Any]:
    """Options of an import from a copy of the published files that a test may damage."""
    source = tmp_path / "source"
    for path in published.source.rglob("*"):
        if path.is_file():
            target = source / path.relative_to(published.source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return published.options | {"source": str(source), "output": tmp_path / "export"}


def change(options: dict[str, Any], how: Callable[[State], object]) -> None:
    path = Path(options["source"]) / "checkpoint-20/model.pth"
    state = torch.load(path, weights_only=True)
    how(state)
    torch.save(state, path)


def set_nan(state: State) -> None:
    state[NORM] = torch.full_like(state[NORM], torch.nan)


def cut_rows(state: State) -> None:
    state[NORM] = state[NORM][:-1]


def untie(state: State) -> None:
    state["base_model.model.lm_head.weight"] = state["base_model.model.lm_head.weight"] + 1


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (lambda state: state.pop(NORM), "missing model.visual.blocks.0.norm1.weight"),
        (lambda state: state.pop(f"{LAYER}.base_layer.bias"), "missing .*layers.1.self_attn.q_proj.bias"),
        (lambda state: state.pop(f"{LAYER}.base_layer.weight"), "missing .*layers.1.self_attn.q_proj.weight"),
        (lambda state: state.pop(f"{LAYER}.lora_A.default.weight"), "missing .*q_proj.lora_A.weight"),
        (lambda state: [state.pop(f"{LAYER}.lora_{half}.default.weight") for half in "AB"], "q_proj.lora_A.weight, "),
        (lambda state: state.pop("base_model.model.rm_head.weight"), "missing rm_head.weight"),
        (lambda state: state.update({"base_model.model.more.weight": torch.ones(2)}), "extra .*more.weight"),
        (lambda state: state.update({f"{LAYER}.weight": torch.ones(64, 64)}), "q_proj.weight and .*base_layer.weight"),
        (lambda state: state.update({"base_model.model.rm_head.weight": torch.ones(2, 64)}), r"rm_head.*\[2, 64\]"),
        (cut_rows, r"visual.blocks.0.norm1.weight has shape \[31\], expected \[32\]"),
        (set_nan, "visual.blocks.0.norm1.weight has numbers that are not finite"),
        (untie, "lm_head.weight differs from .*embed_tokens.weight"),
    ],
)
def test_a_wrong_tensor_fails_and_is_named(
    copy: dict[str, Any], how: Callable[[State], object], reason: str, tmp_path: Path
) -> None:
    change(copy, how)
    with pytest.raises(FileError, match=reason):
        import_model(ImportRequest("videoreward", **copy))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_query_token_of_another_backbone_is_refused(copy: dict[str, Any]) -> None:
    path = Path(copy["source"]) / "checkpoint-20/tokenizer/tokenizer.json"
    content = json.loads(path.read_text())
    for token in content["added_tokens"]:
        token["id"] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(FileError, match=r"the published query token has the id .*, and <Reward_VQ> has"):
        import_model(ImportRequest("videoreward", **copy))


@pytest.mark.parametrize(
    ("keys", "value", "reason"),
    [
        (("model_config", "reward_token"), "last", 'expected "special" for model_config.reward_token, got "last"'),
        (("peft_lora_config", "lora_r"), 8, r"has shape \[4, 64\], expected \[8, 64\]"),
        (("inference_config", "MQ_std"), 0.0, "expected deviations above 0"),
        (("inference_config", "MQ_mean"), None, "inference_config.MQ_mean: expected float, got null"),
        (("data_config", "fps"), "two", "data_config.fps: expected float"),
    ],
)
def test_another_configuration_is_refused(
    copy: dict[str, Any], keys: tuple[str, str], value: object, reason: str
) -> None:
    path = Path(copy["source"]) / "model_config.json"
    content = json.loads(path.read_text())
    content[keys[0]][keys[1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(FileError, match=reason):
        import_model(ImportRequest("videoreward", **copy))


def test_the_instruction_is_needed_to_the_letter(copy: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"got none: write DETAILED_PROMPT_WITH_SPECIAL_TOKEN .* with --template"):
        import_model(ImportRequest("videoreward", **copy | {"template": None}))
    (tmp_path / "other.txt").write_text("{text_prompt} <|VQ_reward|> <|MQ_reward|>")
    with pytest.raises(FileError, match=r"expected <\|TA_reward\|> once, found it 0 times"):
        import_model(ImportRequest("videoreward", **copy | {"template": str(tmp_path / "other.txt")}))


def test_files_of_the_hub_are_downloaded_by_the_layout_and_their_commit_is_recorded(
    copy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "b8e421fe" * 5
    snapshot = Path(copy["source"]).rename(Path(copy["source"]).with_name(commit))

    def download(name: str, patterns: list[str], revision: str | None) -> Path:
        assert (name, revision) == ("KlingTeam/VideoReward", "main")
        assert {"model_config.json", "checkpoint-*/model.pth"} <= set(patterns)
        return snapshot

    monkeypatch.setattr(run, "download", download)
    asked = copy | {"source": "KlingTeam/VideoReward", "revision": "main"}
    origin = import_model(ImportRequest("videoreward", **asked))
    assert (origin.source, origin.revision) == ("KlingTeam/VideoReward", commit)


def arguments(options: dict[str, Any], layout: str = "videoreward") -> list[str]:
    named = {key: value for key, value in options.items() if key != "source"}
    return ["import", layout, options["source"], *(word for key in named for word in (f"--{key}", str(named[key])))]


def test_the_command_writes_an_export_and_doctor_and_the_card_show_its_origin(
    copy: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments(copy), "--revision", "b8e421fe"]) == 0
    printed = capsys.readouterr().out
    assert "license: apache-2.0" in printed
    assert "revision b8e421fe" in printed
    assert main(["doctor", "--device", "cpu", "--model", str(copy["output"])]) == 0
    shown = capsys.readouterr().out
    assert "origin     videoreward from" in shown
    described = describe(copy["output"])
    total = described.origin.files["checkpoint-20/model.pth"]
    assert f"sha256     {total} checkpoint-20/model.pth" in shown
    card = model_card(described, "owner/name")
    assert "license: apache-2.0" in card
    assert f"| checkpoint-20/model.pth | `{total}` |" in card


def test_what_cannot_be_imported_ends_the_command_in_one_line(
    copy: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    refused(capsys, "neither an existing folder nor a hub id", *arguments(copy | {"source": "nowhere"}))
    refused(capsys, "HPSv3.safetensors is missing", *arguments(copy, "hpsv3"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    refused(capsys, "exists and is not an exported folder", *arguments(copy | {"output": tmp_path / "full"}))
