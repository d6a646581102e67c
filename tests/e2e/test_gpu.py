"""On a GPU: both stages train, scores are those of a CPU, and thoughts that share a prefix those of whole sequences."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from descore.families import FAMILIES
from descore.inputs.settings import ModelSettings
from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.scoring.scorer import Scorer
from descore.tables.writer import write_pairs
from descore.thinking.graphs import GraphedStep, cuda_graph, fastest_step
from descore.thinking.think import think
from descore.train import main
from descore.types import Group, Pair, Side, Thought
from descore.video.settings import VideoSettings
from tests.helpers.examples import make_frames, make_prefixes, make_thought
from tests.helpers.finished_runs import logged_values
from tests.helpers.small_families import write_family
from tests.parity.plain import plain_forward, stock

ROOT = Path(__file__).parents[2]
DEVICE = "cuda"
SCORES = {"subject": 2, "dynamics": 1, "camera": None, "environment": 2, "style": 0}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none"),
]


@pytest.fixture(scope="module")
def start(build: Callable[..., RewardModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model with random weights."""
    folder = tmp_path_factory.mktemp("start") / "export"
    build(max_thought_tokens=6).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def table(clips: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "pairs.jsonl"
    sides = [Side(clip, scores=SCORES, thought=f"<think>a red circle {index}") for index, clip in enumerate(clips)]
    write_pairs(path, [Pair(f"p{i}", f"a circle {i}", sides[i % 4], sides[(i + 1) % 4], (1.0,)) for i in range(8)])
    return path


def fit(run: Path, stage: str, table: Path, *overrides: str) -> Path:
    """Train four steps of a stage on the GPU, in mixed precision, and return the folder of the run."""
    main([
        *("fit", "-c", str(ROOT / f"conf/{stage}.yaml"), "--data", "data_modules.preference.PreferencePairDataModule"),
        *("--data.train", str(table), "--data.val", json.dumps({"val": str(table)}), "--data.batch_size", "2"),
        *("--data.num_workers", "1", "--data.val_batch_size", "4", "--trainer.max_steps", "4"),
        *("--trainer.accelerator", "gpu", "--trainer.devices", "1", "--trainer.precision", "bf16-mixed"),
        *("--trainer.logger.save_dir", str(run), "--trainer.log_every_n_steps", "1", "--trainer.val_check_interval"),
        *("4", "--trainer.enable_model_summary", "false", *overrides),
    ])
    return run / stage / "version_0"


@pytest.mark.parametrize("overlay", ["none", "fsdp", "fsdp1"])
@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_stage_trains(stage: str, overlay: str, tmp_path: Path, start: Path, table: Path) -> None:
    if stage == "stage1":
        source = ("--model.backbone", str(start / "backbone"), "--model.template", "descore")
        source = (*source, "--model.max_thought_tokens", "6")
    else:
        source = ("--model.pretrained", str(start), "--model.sampling.num_thoughts", "4")
        source = (*source, "--model.rubric.weights", "{tests.helpers.rules.even_codes: 1.0}")
    lora = (
        "--model.optimization.lora.parts",
        "[language]",
        "--model.optimization.lora.rank",
        "4",
        "--model.optimization.lora.alpha",
        "8",
    )
    if overlay != "none":
        source = ("-c", f"conf/overlay/{overlay}.yaml", "--trainer.devices", "1", *source)
    run = fit(
        tmp_path, stage, table, *source, *lora, "--model.optimization.learning_rates", "{language: 1e-2, head: 1e-2}"
    )
    losses = logged_values(run)["train/loss"]
    assert len(losses) >= 2
    assert all(map(math.isfinite, losses))
    before, after = (load_file(folder / "reward.safetensors") for folder in (start, run / "export/last"))
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_score_is_that_of_a_cpu(start: Path, clips: list[str]) -> None:
    prompts = [f"a circle {index}" for index in range(len(clips))]
    for thoughts in (False, True):
        here = Scorer(str(start), device="cpu", thoughts=thoughts)
        there = Scorer(str(start), device=DEVICE, dtype="float32", thoughts=thoughts)
        narrow = Scorer(str(start), device=DEVICE, thoughts=thoughts)  # in bfloat16
        expected, found = here.score(clips, prompts), there.score(clips, prompts)
        assert [score.thought for score in found] == [score.thought for score in expected]
        rewards = [score.reward for score in expected]
        assert [score.reward for score in found] == pytest.approx(rewards, abs=1e-4)
        assert max(rewards) - min(rewards) > 1e-2
        assert [score.reward for score in narrow.score(clips, prompts)] == pytest.approx(rewards, abs=0.1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)], ids=str)
def test_a_packed_forward_is_that_of_whole_sequences(
    build: Callable[..., RewardModel], dtype: torch.dtype, tolerance: float
) -> None:
    """Branches of one prefix go through another kernel on a GPU than on a CPU, in bfloat16 flash attention."""
    model = build().to(DEVICE).eval()
    prefixes = make_prefixes(model, 2)
    thoughts = [[make_thought(7, seed=2 * video), make_thought(12, seed=2 * video + 1)] for video in range(2)]
    branches = model.processor.pack(prefixes, thoughts).to(DEVICE)
    with torch.autocast(DEVICE, dtype, enabled=dtype != torch.float32, cache_enabled=False):
        forward = model(branches, with_logprobs=True)
        (forward.rewards.sum() + forward.logprobs.sum()).backward()
        whole = stock(model)
        found = [
            plain_forward(whole, prefix, thought)
            for prefix, row in zip(prefixes, thoughts, strict=True)
            for thought in row
        ]
    rewards, logprobs = torch.stack([reward for reward, _ in found]), torch.cat([own for _, own in found])
    assert furthest(forward.rewards, rewards) < tolerance
    assert furthest(forward.logprobs, logprobs) < tolerance
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def test_thinking_in_bfloat16_scores_what_it_wrote(build: Callable[..., RewardModel]) -> None:
    model = build(max_thought_tokens=16).to(DEVICE).eval()
    prefixes = make_prefixes(model, 2)
    videos = model.processor.pack(prefixes, [[Thought()]] * 2).to(DEVICE)
    with torch.autocast(DEVICE, torch.bfloat16, cache_enabled=False), torch.no_grad():
        groups = think(model, videos)
        again = model(model.processor.pack(prefixes, [group.thoughts for group in groups]).to(DEVICE)).rewards
    assert furthest(torch.cat([group.rewards for group in groups]), again) < 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_captured_steps_write_what_steps_one_by_one_write(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_family(tmp_path / "backbone", family)
    video = VideoSettings(min_pixels=256, max_pixels=1024, max_frames=6)
    settings = ModelSettings(str(tmp_path / "backbone"), "Judge it: {prompt}", video=video, max_thought_tokens=80)
    model = RewardModel.create(settings).to(DEVICE).eval()
    model.processor.forbidden_ids = sorted(set(range(384)) - {*range(100, 109), model.processor.end_id})
    frames = [make_frames(number, 32, 32, seed=number) for number in (2, 4)]
    prefixes = [model.processor.prefix(f"a circle {index}", one) for index, one in enumerate(frames)]
    videos = model.processor.pack(prefixes, [[Thought()]] * 2).to(DEVICE)
    sampling = Sampling(num_thoughts=4, temperature=1.0)
    with fastest_step(model) as step:
        assert isinstance(step, GraphedStep) == model.processor.family.graphed
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast(DEVICE, dtype, enabled=dtype != torch.float32):
            found = think(model, videos, sampling)
            with monkeypatch.context() as patched:
                patched.setattr("descore.thinking.think.fastest_step", lambda model: nullcontext(model.step))
                expected = think(model, videos, sampling)
        if dtype == torch.float32:
            assert [group.thoughts for group in found] == [group.thoughts for group in expected]
            assert furthest(rewards_of(found), rewards_of(expected)) < 1e-4
        assert rewards_of(found).isfinite().all()


def test_a_step_that_runs_out_of_memory_while_it_is_captured_says_so() -> None:
    """The scorer tells this error from others: it scores the halves of the batch."""
    calls: list[int] = []

    def run() -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("while captured")
        return torch.zeros(1, device=DEVICE)

    with pytest.raises(torch.OutOfMemoryError, match="while captured"):
        cuda_graph(run)
    assert cuda_graph(lambda: torch.ones(1, device=DEVICE) + 1)().item() == 2


def rewards_of(groups: list[Group]) -> Tensor:
    return torch.cat([group.rewards for group in groups])


def furthest(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max())
