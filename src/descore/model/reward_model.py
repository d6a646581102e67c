"""The reward model: a backbone that thinks, query tokens, and a head that scores."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache, PreTrainedModel

from descore.families.known_layers import check_layers
from descore.heads.reward_head import RewardHead
from descore.inputs.processor import Processor
from descore.inputs.settings import ModelSettings
from descore.inputs.settings_file import is_settings_file
from descore.model.export import RewardStatistics, Weights, describe, load, save
from descore.model.sampling import Sampling
from descore.model.shared_prefix import SHARED_PREFIX
from descore.model.thought_cache import ThoughtCache
from descore.model.vision_attention import SEGMENTS
from descore.seeding import generator
from descore.types import Branches, VideoFeatures

LOGIT_BYTES = 2**26
"""Largest block of thought logits in bytes; more are computed in pieces, and recomputed in the backward pass."""


class Forward(NamedTuple):
    """Result of one packed forward: a tuple, so that the hooks of DDP and FSDP find its tensors.

    Attributes:
        rewards: Rewards of each branch.
        logprobs: Log-probability of each predicted token of the thoughts; empty unless requested.
    """

    rewards: Tensor  # [B, K] float32
    logprobs: Tensor  # [M] float32


class RewardModel(nn.Module):
    """Reward model: a backbone that thinks, query tokens, and a head that scores.

    One packed forward scores all branches of a batch. Build a model with `create` (new head and query token) or
    `from_pretrained` (exported folder).

    Args:
        processor: Processor that turns prompts, videos and thoughts into inputs; it carries the settings.
        network: The transformers model, or PEFT's wrapper around it.
    """

    def __init__(self, processor: Processor, network: nn.Module) -> None:
        super().__init__()
        self.processor = processor
        self.network = network
        text = self.base.config.get_text_config()
        text._attn_implementation = SHARED_PREFIX
        if processor.family.packed_vision:
            self.base.config.vision_config._attn_implementation = SEGMENTS
        processor.family.prepare(self.base.model)
        check_layers(self.base, processor.family)
        settings = processor.settings
        self.head = RewardHead(text.hidden_size, len(settings.reward_names), settings.head)

    @classmethod
    def create(cls, settings: ModelSettings, *, seed: int = 0) -> RewardModel:
        """Load a backbone and give it a new head and new query tokens.

        The rows of the query tokens start as the mean of all embedding rows, the head as `RewardHead.reset` draws it.

        Args:
            settings: Settings of the model, among them its backbone.
            seed: Seed of the head's initial weights.
        """
        processor = Processor(settings)
        model = cls(processor, processor.backbone.load_weights())
        with torch.no_grad():
            embedding = model.base.get_input_embeddings().weight
            embedding[processor.query_ids] = embedding.mean(0)
        model.head.reset(generator(seed, "head"))
        return model

    @classmethod
    def from_pretrained(cls, folder: str, *, backbone: str | None = None) -> RewardModel:
        """Load a model from an exported folder or hub id, in float32 and eval mode.

        Args:
            folder: Path of the folder, or its id on the hub; or a settings file, for a backbone as it was published.
            backbone: Hub id or folder of an adapter's backbone, if it is not where the exported folder says.

        Raises:
            ExportError: If a file is missing or damaged, or a tensor is missing, extra, not finite or of another shape.
                No tensor is ever left at random values.
        """
        if is_settings_file(folder):
            return cls.create(describe(folder, backbone).settings).eval()
        return load(folder, cls, backbone).eval()

    def save_pretrained(
        self, folder: str, *, weights: Weights = "merged", calibration: RewardStatistics | None = None
    ) -> None:
        """Write an exported folder; the arguments and errors are those of `descore.model.export.save`."""
        save(self, folder, weights=weights, calibration=calibration)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        weights: Weights = "merged",
        calibration: RewardStatistics | None = None,
        **card: Any,
    ) -> str:
        """Push the model to the hub with a model card, in one commit.

        Args:
            repo_id: Id of the repository, such as `owner/name`; it is created if it does not exist.
            weights: As for `save_pretrained`.
            calibration: Statistics of the rewards, as for `save_pretrained`.
            **card: What the card and the repository need beyond that: recipe, evaluations, license, private and token,
                see `descore.model.hub.push`, which pushes an exported folder as it is.

        Returns:
            Address of the commit.

        Raises:
            ExportError: If the model is an adapter whose backbone is not on the hub.
        """
        from descore.model.hub import push

        with tempfile.TemporaryDirectory(prefix="descore-") as folder:
            self.save_pretrained(f"{folder}/export", weights=weights, calibration=calibration)
            return push(f"{folder}/export", repo_id, **card)

    @property
    def settings(self) -> ModelSettings:
        """Settings of the model: backbone, template, video sampling, and the names of its rewards."""
        return self.processor.settings

    @property
    def base(self) -> PreTrainedModel:
        """The transformers model without PEFT's wrapper."""
        network: Any = self.network
        return network.get_base_model() if hasattr(network, "get_base_model") else network

    def forward(
        self,
        branches: Branches,
        *,
        with_logprobs: bool = False,
        sampling: Sampling | None = None,
        seen: Sequence[VideoFeatures] | None = None,
    ) -> Forward:
        """Score every branch of a packed batch, and compute the log-probabilities of its thought if requested.

        Args:
            branches: Packed batch on the model's device.
            with_logprobs: Whether to compute log-probabilities; `lm_head` runs only at the positions that predict
                thought tokens.
            sampling: Sampling options of the thoughts, which the log-probabilities take into account; temperature 1 if
                not given.
            seen: Output of `see` for these videos. If given, the vision tower does not run again.

        Returns:
            Rewards `[B, K]` and log-probabilities `[M]`, both float32.
        """
        hidden = self._hidden(branches, None, seen)
        rewards = self.head(hidden[branches.query_index])
        if not with_logprobs:
            return Forward(rewards, rewards.new_empty(0))
        logprobs = self._thought_logprobs(hidden[branches.source_index], branches.target_ids, sampling or Sampling())
        return Forward(rewards, logprobs)

    def see(self, branches: Branches) -> tuple[VideoFeatures, ...]:
        """Run the vision tower once over every video of a packed batch; pass the result on as `seen`."""
        return self._see(branches)

    def hidden(
        self,
        branches: Branches,
        past_key_values: Cache | None = None,
        *,
        seen: Sequence[VideoFeatures] | None = None,
    ) -> Tensor:
        """Compute the last hidden states of a packed row.

        Args:
            branches: Packed batch on the model's device.
            past_key_values: Empty cache that is filled with the row's keys and values, to continue it by generation.
            seen: Output of `see` for these videos. If given, the vision tower does not run again.

        Returns:
            Hidden states, `[T, hidden]`.
        """
        return self._hidden(branches, past_key_values, seen)

    def step(self, tokens: Tensor, position_ids: Tensor, cache: ThoughtCache) -> Tensor:
        """Run one decoding step: feed one token to every row of a cache.

        Args:
            tokens: Tokens to feed, by id `[rows, 1]` or embedded `[rows, 1, hidden]`.
            position_ids: `[R, rows, 1]` positions of these tokens.
            cache: Cache of the prefixes and of the thoughts so far; it grows by one token.

        Returns:
            Hidden states of the tokens, `[rows, hidden]`.
        """
        hidden = self._language(tokens, position_ids, past_key_values=cache, thought_cache=cache)
        cache.step()
        return hidden[:, 0]

    def next_logits(self, hidden: Tensor) -> Tensor:
        """Compute the logits of the next token, `[M, vocabulary]` float32, from hidden states `[M, hidden]`.

        Placeholders, query tokens and other control tokens get -inf: a thought is text and the end of turn.
        """
        logits: Tensor = self.base.get_output_embeddings()(hidden).float()
        return logits.index_fill_(1, _on_device(tuple(self.processor.forbidden_ids), logits.device), -torch.inf)

    # The methods below call no public method: on a sharded model each public method is an FSDP forward of its own.

    def _see(self, branches: Branches) -> tuple[VideoFeatures, ...]:
        patches = self.processor.normalise(branches.patches)
        return self.processor.family.see(self.base.model, patches, branches.grids)

    def _hidden(self, branches: Branches, cache: Cache | None, seen: Sequence[VideoFeatures] | None) -> Tensor:
        seen = self._see(branches) if seen is None else seen
        return self._language(
            branches.input_ids,
            branches.position_ids,
            mm_encoder_outputs=self.processor.family.outputs(seen),
            layout=branches.layout,
            past_key_values=cache,
        )[0]

    def _thought_logprobs(self, hidden: Tensor, target_ids: Tensor, sampling: Sampling) -> Tensor:
        """Compute the log-probability of each target, [M], while never holding more than `LOGIT_BYTES` of logits."""
        rows = max(1, LOGIT_BYTES // (4 * self.base.config.get_text_config().vocab_size))
        if len(hidden) <= rows:
            return self._logprobs(hidden, target_ids, sampling)
        pieces = zip(torch.split(hidden, rows), torch.split(target_ids, rows), strict=True)
        return torch.cat([checkpoint(self._logprobs, *piece, sampling, use_reentrant=False) for piece in pieces])

    def _logprobs(self, hidden: Tensor, target_ids: Tensor, sampling: Sampling) -> Tensor:
        logits = sampling.warp(self.next_logits(hidden), target_ids)
        return logits.gather(1, target_ids[:, None])[:, 0] - logits.logsumexp(-1)

    def _language(self, tokens: Tensor, position_ids: Tensor, **inputs: Any) -> Tensor:
        # transformers passes a four-dimensional mask on unchanged; this attention uses layout or cache instead of it.
        no_mask = torch.empty(1, 1, 1, 0, device=tokens.device)
        inputs |= {"inputs_embeds" if tokens.is_floating_point() else "input_ids": tokens}
        output = self.base.model(
            position_ids=position_ids.squeeze(0),  # one row is [rows, length] for transformers
            attention_mask=no_mask,
            use_cache=inputs.get("past_key_values") is not None,
            **inputs,
        )
        return output.last_hidden_state  # type: ignore[no-any-return]


@lru_cache
def _on_device(indices: tuple[int, ...], device: torch.device) -> Tensor:
    """Copy indices to a device and keep the copy: copying them on every call would wait for the device every time."""
    with torch.inference_mode(False):  # validation may make the copy, and autograd refuses an inference tensor
        return torch.tensor(indices, dtype=torch.int64, device=device)
