"""Pushes an exported folder to the hub, with a model card that says what is known of the model, and what is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, ModelCardData

from descore.inputs.backbone import TINY, is_hub_id
from descore.inputs.prompts import PromptTemplate
from descore.inputs.typed_json import read_json
from descore.model.description import FILE, Description, ExportError, Origin, describe, find

CARD = "README.md"
_OURS = (FILE, "reward.safetensors", "backbone/", "adapter/")
_NOT_IN_CARD = ("logger", "callbacks", "default_root_dir")


def push(
    folder: str | Path,
    repo_id: str,
    *,
    recipe: str | Path | None = None,
    evaluations: Sequence[str | Path] = (),
    license: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    api: HfApi | None = None,
) -> str:
    """Push an exported folder to the hub, in one commit: other users see all of the model or none of it.

    Files of an earlier export that this one does not have are removed from the repository; other files stay.

    Args:
        folder: Exported folder, or a run.
        repo_id: Id of the repository, such as `owner/name`; it is created if it does not exist.
        recipe: `config.yaml` of the training run, for the card; that of the run that the folder lies in if not given.
        evaluations: Output folders of `descore evaluate`, for the accuracies in the card.
        license: License of the weights, such as "apache-2.0", for the card.
        private: Whether a new repository is private; as the owner's settings say if not given.
        token: Token of the hub; the one that was stored by `hf auth login` if not given.
        api: Client of the hub; a new one if not given.

    Returns:
        Address of the commit.

    Raises:
        ExportError: If the folder is not an exported one, or is an adapter whose backbone is not on the hub.
        FileNotFoundError: If an evaluation is not finished.
    """
    folder = find(folder)
    described = describe(folder)
    if described.weights == "none":
        raise ExportError(f"{folder} is a settings file; expected an exported folder, which has weights to push")
    _check_backbone(folder)
    card = model_card(described, repo_id, recipe=_find_recipe(folder, recipe), evaluations=evaluations, license=license)
    api = api or HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files.pop(CARD, None)
    stale = [name for name in api.list_repo_files(repo_id) if name.startswith(_OURS) and name not in files]
    operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
        *(CommitOperationAdd(name, str(path)) for name, path in files.items()),
        CommitOperationAdd(CARD, card.encode()),
        *(CommitOperationDelete(name) for name in stale),
    ]
    return str(api.create_commit(repo_id, operations, commit_message="Push a DeScore model").commit_url)


def model_card(
    described: Description,
    name: str,
    *,
    recipe: str | Path | None = None,
    evaluations: Sequence[str | Path] = (),
    license: str | None = None,
) -> str:
    """Write the card of a model: use, data, recipe, accuracy and limits. What is not known is said to be unknown.

    Args:
        described: Content of `descore.json`.
        name: Id of its repository.
        recipe: `config.yaml` of the training run; None if it is not known.
        evaluations: Output folders of `descore evaluate`.
        license: License of the weights; that of an imported model, or unknown, if not given.

    Returns:
        Markdown, with the metadata of the hub in front.
    """
    backbone, origin = described.settings.backbone, described.origin
    data = ModelCardData(
        base_model=backbone if is_hub_id(backbone) else None,
        library_name="descore",
        license=license or (origin.license if origin else None),
        tags=["descore", "reward-model", "video"],
    )
    config = yaml.safe_load(Path(recipe).read_text(encoding="utf-8")) if recipe else {}
    sections = {
        "Use": _use(name),
        "Model": _model(described),
        **({"Origin": _origin(origin)} if origin else {}),
        "Data": _data(config),
        "Recipe": _recipe(config),
        "Accuracy": "\n\n".join(map(_accuracy, evaluations)) or _UNMEASURED,
        "Limits": "\n".join(f"- {limit}" for limit in _limits(described)),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"---\n{data}\n---\n\n# {name.rpartition('/')[2]}\n\n{_WHAT}\n\n{body}\n"


_WHAT = (
    "A reward model for generated video: given a prompt and a video, it writes a thought with dimension scores, and a "
    "head on the query token behind the thought gives one reward."
)
_UNMEASURED = (
    "Not measured: no evaluation was given when this model was pushed. `descore evaluate` measures the agreement with "
    "people on a benchmark or your own table."
)


def _use(name: str) -> str:
    return f"""```python
from descore import Scorer

scorer = Scorer("{name}")
(score,) = scorer.score("video.mp4", "The text that the video was generated from.")
print(score.reward, score.dimension_scores, score.thought)
```"""


def _model(described: Description) -> str:
    settings, known = described.settings, described.calibration
    video = settings.video
    named = settings.backbone if is_hub_id(settings.backbone) or settings.backbone == TINY else "a local folder"
    rows = {
        "backbone": named,
        "weights": "whole" if described.weights == "merged" else "an adapter, loaded with the backbone",
        "rewards": ", ".join(settings.reward_names),
        "reward from": settings.reward_from,
        "thoughts": f"up to {settings.max_thought_tokens} tokens" if settings.thoughts else "none: trained without",
        "frames": f"{video.fps:g} per second, {video.min_frames} to {video.max_frames}",
        "shown as": "loose pictures" if PromptTemplate(settings.template).is_loose else "a video",
        "pixels of a frame": f"{video.min_pixels:,} to {video.max_pixels:,}",
        "prompt": f"up to {settings.max_prompt_tokens} tokens",
        "mean of rewards (validation)": ", ".join(f"{x:.4g}" for x in known.mean) if known else "not known",
        "deviation of rewards (validation)": ", ".join(f"{x:.4g}" for x in known.std) if known else "not known",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])


def _origin(origin: Origin) -> str:
    """Return where an imported model comes from, with the sums of the published files."""
    sums = [f"| {name} | `{total}` |" for name, total in origin.files.items()]
    return "\n".join([
        f"Imported by `descore import {origin.layout}` from {origin.source}, revision "
        f"{origin.revision or 'not known'}; license {origin.license or 'not known'}. {origin.protocol}",
        "",
        "| file | SHA-256 |",
        "|---|---|",
        *sums,
    ])


def _data(config: Mapping[str, Any]) -> str:
    if not (data := config.get("data")):
        return "Not known: no configuration of the training was given when this model was pushed."
    return f"What the training read:\n\n```yaml\n{yaml.safe_dump({'data': data}, sort_keys=False).rstrip()}\n```"


def _recipe(config: Mapping[str, Any]) -> str:
    trainer = {key: value for key, value in (config.get("trainer") or {}).items() if value is not None}
    shown = {
        "seed_everything": config.get("seed_everything"),
        "model": config.get("model"),
        "trainer": {key: value for key, value in trainer.items() if key not in _NOT_IN_CARD},
    }
    if not config.get("model"):
        return "Not known: no configuration of the training was given when this model was pushed."
    return f"```yaml\n{yaml.safe_dump(shown, sort_keys=False).rstrip()}\n```"


def _accuracy(evaluation: str | Path) -> str:
    """Return the accuracies of an evaluation, with their intervals and its protocol."""
    path = Path(evaluation) / "summary.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a finished evaluation; repeat its command to finish it")
    found = read_json(path)
    protocol, failed = found["protocol"], f"{found.get('num_failed_videos')} failed"
    if "num_failed_pairs" in found:
        failed = f"{found['num_failed_pairs']} pairs failed"
    thoughts = f"{protocol['thoughts']} thoughts per video" if protocol["thoughts"] else "no thoughts"
    lines = [
        f"{found['benchmark']}, {thoughts}, {found['num_videos']} videos of which {failed}:",
        "",
        "| dimension | without ties | 95 % interval | decided pairs | with ties | pairs |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in found["dimensions"].items():
        cells = [name, _number(one["without_ties"]), _interval(one["without_ties_interval"]), one["num_decided"]]
        lines.append(f"| {' | '.join(map(str, [*cells, _number(one['with_ties']), one['num_pairs']]))} |")
    return "\n".join(lines)


def _limits(described: Description) -> Iterator[str]:
    settings = described.settings
    yield "A reward compares videos of one prompt. Rewards of different prompts are on no common scale."
    yield "A claim about other generators, prompts or lengths than those of the data needs a measurement of its own."
    yield "A generator that is trained on a reward finds its weak spots: hold a second judge out, and stop early."
    video = settings.video
    yield f"It sees at most {video.max_frames} frames of a video, of at most {video.max_pixels:,} pixels each."
    if settings.thoughts:
        yield f"A thought is cut after {settings.max_thought_tokens} tokens. It may be wrong while the reward is right."
    if described.calibration is None:
        yield "It does not know the mean and deviation of its rewards: normalised rewards are not available."
    if settings.backbone == TINY:
        yield "Its backbone is the tiny one that ships with DeScore, which has seen rendered shapes, and no real video."


def _find_recipe(folder: Path, given: str | Path | None) -> Path | None:
    """Return the given configuration, or that of the run that an exported folder lies in, `<run>/export/last`."""
    if given is not None:
        return Path(given)
    beside = folder.resolve().parent.parent / "config.yaml"
    return beside if beside.is_file() else None


def _check_backbone(folder: Path) -> None:
    content = read_json(folder / FILE)
    name = content["settings"]["backbone"]
    if content["weights"] == "adapter" and name != TINY and not is_hub_id(name):
        raise ExportError(
            f"{folder} is an adapter of {name}, which nobody else has: push a merged export "
            '(save_pretrained(..., weights="merged")), or push the backbone and name it by its id'
        )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(ends: Sequence[float | None]) -> str:
    return "-" if None in ends else f"{ends[0]:.3f} to {ends[1]:.3f}"
