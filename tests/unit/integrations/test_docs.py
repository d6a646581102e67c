"""Every snippet of docs/integrations.md runs, on the model that ships with the package."""

import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from descore.cli import main
from descore.integrations import flow_factory
from descore.tables.writer import write_rows

PAGE = Path(__file__).parents[3] / "docs" / "integrations.md"


def snippets_of(title: str, language: str = "python") -> list[str]:
    """Code blocks of a section."""
    (section,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def run(snippet: str, **given: object) -> dict:
    exec(compile(snippet.replace("cuda:0", "cpu"), str(PAGE), "exec"), given)
    return given


@pytest.fixture(autouse=True)
def folder(clips, tmp_path, monkeypatch) -> Path:
    """A folder with the videos that the snippets name."""
    monkeypatch.chdir(tmp_path)
    Path("videos").mkdir()
    Path("videos/a.mp4").symlink_to(clips[0])
    rows = [{"prompt": "a bar", "video": clip, "seed": seed} for seed, clip in enumerate(clips)]
    write_rows("videos.csv", rows)
    return tmp_path


VIDEOS = torch.rand((2, 9, 3, 32, 48), generator=torch.Generator().manual_seed(0))


def test_a_failed_video() -> None:
    (snippet,) = snippets_of("A failed video is NaN")
    run(snippet)


def test_flow_grpo() -> None:
    rewards, advantages = snippets_of("Flow-GRPO")
    score = run(rewards)["score_functions"]["descore"]("cpu")
    assert score(VIDEOS, ["a", "b"], [{}, {}])[0].isfinite().all()
    tracker = SimpleNamespace(update=lambda prompts, rewards: rewards - rewards.mean(0))
    gathered = {"avg": np.array([[1.0, 1.0], [np.nan, np.nan], [3.0, 3.0]])}
    found = run(advantages, gathered_rewards=gathered, prompts=["a"] * 3, stat_tracker=tracker)["advantages"]
    assert found.tolist() == [[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]]


def test_longcat_grpo() -> None:
    (snippet,) = snippets_of("LongCat-GRPO")
    rewards, _ = run(snippet)["descore_score"](torch.device("cpu"))(VIDEOS, ["a", "b"], None)
    assert rewards.shape == (2,)


def test_dance_grpo(capsys) -> None:
    (snippet,) = snippets_of("DanceGRPO")
    run(snippet)
    reward, error = capsys.readouterr().out.split()
    assert float(reward)
    assert error == "None"


def test_flow_factory_names_the_class_and_its_options() -> None:
    (snippet,) = snippets_of("Flow-Factory", "yaml")
    (entry,) = yaml.safe_load(snippet)["rewards"]
    assert entry["reward_model"] == f"{flow_factory.__name__}.{flow_factory.NAME}"
    example = yaml.safe_load(flow_factory.__doc__.partition("\n\n")[2].rpartition("\n\n")[0])
    assert example["rewards"][0].keys() == entry.keys()


def test_flow_dpo(capsys) -> None:
    ((command,), (snippet,)) = snippets_of("Flow-DPO", ""), snippets_of("Flow-DPO")
    assert main([*command.split()[1:], "--min-margin", "0", "--device", "cpu"]) == 0
    capsys.readouterr()
    run(snippet)
    words = capsys.readouterr().out.split()
    assert words[:2] == ["a", "bar"]
    assert words[2].endswith(f"{words[3]}.mp4")
    assert words[4].endswith(f"{words[5]}.mp4")


def test_best_of_n(capsys) -> None:
    def pipe(*, prompt, generator, output_type, num_frames):
        return SimpleNamespace(frames=torch.rand((1, num_frames, 32, 48, 3), generator=generator).numpy())

    (snippet,) = snippets_of("Best-of-N")
    best = run(snippet, pipe=pipe)["best"]
    assert capsys.readouterr().out.startswith(f"{best.seed} {best.score.reward} [")


def test_ray_is_called_with_arguments_that_it_has() -> None:
    for title, name in (("Ray Data", "run"), ("Ray Serve", "build")):
        (snippet,) = snippets_of(title)
        call = run(snippet)[name]
        assert inspect.signature(call.func).bind(*call.args, **call.keywords)
