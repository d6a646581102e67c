"""Files of strangers that would run code: exports, backbones, checkpoints, and YAML. None of them runs anything."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import struct
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from descore.evaluation.benchmark import load_benchmark
from descore.model.export import ExportError
from descore.model.reward_model import RewardModel
from descore.model.sums import sum_files
from descore.model.trainable import make_trainable
from descore.runtime.checkpoints import AtomicCheckpointIO, CheckpointError, save_summed
from descore.runtime.resume import find_checkpoint
from descore.train import main
from tests.helpers.examples import make_frames
from tests.helpers.gadgets import Runs


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """The file that every payload would make."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "a file of a stranger ran code"


def touch(canary: Path) -> Runs:
    return Runs(exec, f"open({str(canary)!r}, 'w')")


def saved(value: Any, *, legacy: bool = False) -> bytes:
    """What `torch.save` writes: a zip archive, or the plain pickle of old versions."""
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


WEIGHTS = ("backbone/model.safetensors", "reward.safetensors", "adapter/adapter_model.safetensors")
BESIDE = (
    "backbone/pytorch_model.bin",
    "backbone/.metadata",
    "adapter/adapter_model.bin",
    "training_args.bin",
    "reward.pt",
    "backbone/generation_config.pkl",
)


def payload(kind: str, canary: Path) -> bytes:
    """The bytes of a hostile file of weights."""
    match kind:
        case "archive":
            return saved({"head.weight": touch(canary)})
        case "pickle":
            return pickle.dumps(touch(canary))
        case "header of 2^60 bytes":
            return struct.pack("<Q", 2**60) + b"{}" * 100
    raise AssertionError(kind)


@pytest.fixture(scope="module")
def exports(build: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A whole export, and an adapter."""
    folder = tmp_path_factory.mktemp("exports")
    build().save_pretrained(str(folder / "whole"))
    model = build()
    make_trainable(model, ("language", "merger", "query", "head"), lora_parts=("language",), lora_rank=2, lora_alpha=4)
    model.save_pretrained(str(folder / "adapter"), weights="adapter")
    return {name: folder / name for name in ("whole", "adapter")}


def copy_of(export: Path, folder: Path) -> Path:
    shutil.copytree(export, folder / "export")
    return folder / "export"


def sign(export: Path) -> None:
    """Give an export the sums of its files, as whoever forges a file can."""
    content = json.loads((export / "descore.json").read_text())
    sums = {name: total for name, total in sum_files(export).items() if name != "descore.json"}
    (export / "descore.json").write_text(json.dumps(content | {"sums": sums}))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def rewards(export: Path) -> list[float] | str:
    """The reward that an export gives, or the reason why it is refused."""
    try:
        model = RewardModel.from_pretrained(str(export))
    except ExportError as error:
        return str(error)
    with torch.no_grad():
        prefix = model.processor.prefix("a cat", make_frames())
        return model(model.processor.pack([prefix], [[model.processor.thought("a cat")]])).rewards[0].tolist()


@pytest.mark.parametrize("kind", ["archive", "pickle", "header of 2^60 bytes"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_something_else_are_refused(exports, tmp_path, canary, name, kind):
    export = copy_of(exports["adapter" if name.startswith("adapter") else "whole"], tmp_path)
    (export / name).write_bytes(payload(kind, canary))
    sign(export)
    assert name in rewards(export)


@pytest.mark.parametrize("name", BESIDE)
def test_pickles_beside_the_weights_are_never_read(exports, tmp_path, canary, name):
    export = copy_of(exports["adapter" if name.startswith("adapter") else "whole"], tmp_path)
    before = rewards(export)
    (export / name).write_bytes(saved(touch(canary), legacy=True))
    sign(export)
    assert rewards(export) == before


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("backbone/config.json", {"auto_map": {"AutoConfig": "code.C", "AutoModelForImageTextToText": "code.C"}}),
        ("backbone/tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["code.C", "code.C"]}}),
        (
            "backbone/preprocessor_config.json",
            {"auto_map": {"AutoProcessor": "code.C", "AutoImageProcessor": "code.C"}},
        ),
        ("backbone/generation_config.json", {"custom_generate": "code", "auto_map": {"GenerationConfig": "code.C"}}),
        ("adapter/adapter_config.json", {"auto_mapping": {"base_model_class": "C", "parent_library": "code"}}),
        ("adapter/adapter_config.json", {"runtime_config": {"parent_library": "code"}, "peft_type": "code.C"}),
        ("descore.json", {"class_path": "code.C", "auto_map": {"AutoModel": "code.C"}}),
    ],
)
def test_a_configuration_that_names_code_runs_none(exports, tmp_path, canary, monkeypatch, name, values):
    export = copy_of(exports["adapter" if name.startswith("adapter") else "whole"], tmp_path)
    before = rewards(export)
    code = f"open({str(canary)!r}, 'w')\nclass C: pass\n"
    for folder in (export, export / name.partition("/")[0], tmp_path):
        if folder.is_dir():
            (folder / "code.py").write_text(code)
    if not (export / name).exists():
        (export / name).write_text("{}")
    change(export / name, **values)
    sign(export)
    monkeypatch.chdir((export / name).parent)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    found = rewards(export)
    assert found == before or isinstance(found, str)


ESCAPES = (
    "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{% for one in [].__class__.__base__.__subclasses__() %}{{ one.__init__.__globals__ }}{% endfor %}",
)


@pytest.mark.parametrize("escape", ESCAPES)
def test_a_chat_template_stays_in_its_sandbox(exports, tmp_path, canary, escape):
    export = copy_of(exports["whole"], tmp_path)
    path = export / "backbone/chat_template.jinja"
    path.write_text(escape.replace("CANARY", str(canary)) + path.read_text())
    sign(export)
    with pytest.raises(ExportError, match=r"unsafe|undefined"):
        RewardModel.from_pretrained(str(export))


CHECKPOINTS = {
    "archive": lambda canary: saved(touch(canary)),
    "pickle": lambda canary: saved({"state_dict": {}, "loops": touch(canary)}, legacy=True),
    "in a value": lambda canary: saved({"state_dict": {"weight": [torch.zeros(1), touch(canary)]}}),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, canary, kind):
    path = tmp_path / "runs/stage1/version_0/checkpoints/last.ckpt"
    path.parent.mkdir(parents=True)
    path.write_bytes(CHECKPOINTS[kind](canary))
    with pytest.raises((pickle.UnpicklingError, CheckpointError)):
        AtomicCheckpointIO().load_checkpoint(path)
    with pytest.raises(ValueError, match=r"last\.ckpt"):
        find_checkpoint(tmp_path / "runs/stage1")


def test_a_checkpoint_with_a_right_sum_is_refused_too(tmp_path, canary):
    save_summed({"loops": touch(canary)}, tmp_path / "last.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt", weights_only=False)


class Silent(SimpleHTTPRequestHandler):
    """Serves the files of a folder without a line for each."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_checkpoint_from_an_address_is_refused_too(tmp_path, canary, monkeypatch):
    (tmp_path / "last.ckpt").write_bytes(saved({"loops": touch(canary)}))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(pickle.UnpicklingError):
            AtomicCheckpointIO().load_checkpoint(f"http://127.0.0.1:{server.server_port}/last.ckpt")
    finally:
        server.shutdown()


TAG = "!!python/object/apply:builtins.exec [\"open('CANARY', 'w')\"]"


def test_a_benchmark_file_is_plain_yaml(tmp_path, canary):
    path = tmp_path / "mine.yaml"
    path.write_text(f"description: {TAG}\ntable: t.csv\n".replace("CANARY", str(canary)))
    with pytest.raises(ValueError, match=r"mine\.yaml"):
        load_benchmark(str(path))


def test_a_recipe_is_plain_yaml(tmp_path, canary, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(f"seed_everything: {TAG}\n".replace("CANARY", str(canary)))
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", str(path)])
    assert ended.value.code == 2
    assert "could not determine a constructor for the tag" in capsys.readouterr().err
