"""From what a layout read to a reward model: every tensor is used once and every parameter filled once, or it fails."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import torch

from descore.heads.reward_head import RewardHead
from descore.importing.tensors import Named, Tensors, put_all
from descore.inputs.network import network_of, parameter_shapes
from descore.inputs.processor import Processor
from descore.inputs.settings import ModelSettings
from descore.inputs.typed_json import FileError
from descore.model.description import RewardStatistics
from descore.model.reward_model import RewardModel

MOST_TOLD = 8
"""Tensors that an error names; of more it tells the number."""


@dataclass(frozen=True, slots=True)
class Published:
    """What a layout read from published files, in the names of this project.

    Attributes:
        settings: Settings of the model.
        tensors: Tensors by the name of the parameter that they fill; those of the head begin with `head.`.
        path: File or folder of the tensors, for errors.
        files: Files that were read, by the name to record.
        protocol: How the published code reads a video and its score, and what the import does otherwise.
        backbone: Folder of the backbone's configuration and tokenizer, if they are among the published files.
        token_ids: Published id of each query token, as far as it is known.
        calibration: Statistics of the rewards, if they are known.
    """

    settings: ModelSettings
    tensors: Tensors
    path: Path
    files: Mapping[str, Path]
    protocol: str
    backbone: Path | None = None
    token_ids: Mapping[str, int] = field(default_factory=dict)
    calibration: RewardStatistics | None = None


def assemble(published: Published) -> RewardModel:
    """Build the reward model of published files, in float32.

    Raises:
        FileError: If a tensor is missing, extra or of another shape, a tied output layer differs from the embedding, or
            a query token has another id than in the published tokenizer; the message names each.
        ValueError: If the backbone cannot be found or is not supported.
    """
    settings, path = published.settings, published.path
    processor = Processor(settings, published.backbone)
    _check_tokens(published, processor)
    config = deepcopy(processor.backbone.config)
    text, tensors = config.get_text_config(), dict(published.tensors)
    name = next((name for name in tensors if name.endswith("embed_tokens.weight")), None)
    if name is not None:
        text.vocab_size = _check_rows(tensors[name], len(processor.tokenizer), path)
        if config.tie_word_embeddings:
            _check_tied(tensors.pop("lm_head.weight", tensors[name]), tensors[name], path)
    head = RewardHead(text.hidden_size, len(settings.reward_names), settings.head)
    shapes = {f"head.{name}": list(parameter.shape) for name, parameter in head.named_parameters()}
    if settings.reward_from != "head":  # a model that says its scores has a head that nothing reads
        put_all(tensors, {name: Named(name, torch.zeros(shape)) for name, shape in shapes.items()}, path)
    check(tensors, parameter_shapes(config) | shapes, path)
    state = {name: one.tensor for name, one in tensors.items()}
    weights = {name.removeprefix("head."): state.pop(name) for name in shapes}
    model = RewardModel(processor, network_of(config, state, processor.backbone.folder))
    model.head.load_state_dict(weights)
    return model.eval()


def check(tensors: Tensors, expected: Mapping[str, list[int]], path: Path) -> None:
    """Check that tensors fill the expected parameters, each once, and that none is left over.

    Raises:
        FileError: If a tensor is missing, extra or of another shape; the message names each as the file does.
    """
    problems = [f"missing {name}" for name in sorted(expected.keys() - tensors.keys())]
    problems += [f"extra {tensors[name].source}" for name in sorted(tensors.keys() - expected.keys())]
    problems += [
        f"{one.source} has shape {list(one.tensor.shape)}, expected {expected[name]}"
        for name, one in tensors.items()
        if name in expected and list(one.tensor.shape) != expected[name]
    ]
    if problems:
        more = [f"and {len(problems) - MOST_TOLD} more"] if len(problems) > MOST_TOLD else []
        raise FileError(f"{path}: {'; '.join(problems[:MOST_TOLD] + more)}")


def _check_tokens(published: Published, processor: Processor) -> None:
    for token, own in zip(published.settings.query_tokens, processor.query_ids, strict=True):
        if (theirs := published.token_ids.get(token, own)) != own:
            raise FileError(
                f"{published.path}: the published query token has the id {theirs}, and {token} has {own} in "
                f"{published.settings.backbone}: expected the backbone that the published model was trained from"
            )


def _check_rows(embedding: Named, num_tokens: int, path: Path) -> int:
    if embedding.tensor.ndim != 2 or (rows := len(embedding.tensor)) < num_tokens:
        raise FileError(
            f"{path}: {embedding.source} has shape {list(embedding.tensor.shape)}, expected at least {num_tokens} "
            "rows, one for each token with the query tokens"
        )
    return rows


def _check_tied(output: Named, embedding: Named, path: Path) -> None:
    if not torch.equal(output.tensor, embedding.tensor):
        raise FileError(f"{path}: {output.source} differs from {embedding.source}, which its configuration ties to it")
