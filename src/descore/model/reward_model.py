"""The reward model: a backbone that thinks, a query token, and a linear head that scores."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache, PreTrainedModel

from descore.inputs.processor import Processor
from descore.inputs.settings import ModelSettings
from descore.model.export import RewardStatistics, Weights, load, save
from descore.model.sampling import Sampling
from descore.model.shared_prefix import SHARED_PREFIX
from descore.model.thought_cache import ThoughtCache
from descore.model.vision_attention import SEGMENTS
from descore.seeding import generator
from descore.types import Branches, VideoFeatures

LOGIT_BYTES = 2**26
"""Logits of thoughts that take more memory are made piece by piece, and once more in the backward pass."""


class RewardHead(nn.Module):
    """`r = w . h(<Reward>)`, without bias, always in float32.

    Args:
        hidden_size: Size of a hidden state.
        num_rewards: Number of rewards.
    """

    def __init__(self, hidden_size: int, num_rewards: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_rewards, hidden_size))

    def forward(self, queries: Tensor) -> Tensor:
        """Map the states of the query tokens `[B, Q, hidden]`, Q = 1 or K, to rewards `[B, K]` float32."""
        with torch.autocast(queries.device.type, enabled=False):
            return (queries.float() * self.weight.float()).sum(-1)


class Forward(NamedTuple):
    """What one packed forward gives; a tuple, so that hooks find the tensors in it.

    Attributes:
        rewards: One row per branch.
        logprobs: Log-probability of each predicted token of the thoughts; empty when not asked for.
    """

    rewards: Tensor  # [B, K] float32
    logprobs: Tensor  # [M] float32


class RewardModel(nn.Module):
    """Scores branches of thoughts in one packed forward. Build it with `create` or `from_pretrained`.

    Args:
        processor: How prompts, videos and thoughts become inputs; carries the settings.
        network: The transformers model, or PEFT's wrapper around it.
    """

    def __init__(self, processor: Processor, network: nn.Module) -> None:
        super().__init__()
        self.processor = processor
        self.network = network
        text = self.base.config.get_text_config()
        text._attn_implementation = SHARED_PREFIX
        self.base.config.vision_config._attn_implementation = SEGMENTS
        self.head = RewardHead(text.hidden_size, len(processor.settings.reward_names))

    @classmethod
    def create(cls, settings: ModelSettings, *, seed: int = 0) -> RewardModel:
        """Load the backbone and start a new head and query token.

        The query row starts as the mean of the embedding rows, the head as `N(0, 0.02)` drawn from the seed.
        """
        processor = Processor(settings)
        model = cls(processor, processor.backbone.load_weights())
        with torch.no_grad():
            embedding = model.base.get_input_embeddings().weight
            embedding[processor.query_ids] = embedding.mean(0)
            model.head.weight.normal_(0, 0.02, generator=generator(seed, "head"))
        return model

    @classmethod
    def from_pretrained(cls, folder: str) -> RewardModel:
        """Load an exported folder or hub id, in float32 and eval mode; nothing is ever left at random values.

        Raises:
            ExportError: If a tensor is missing, extra or of another shape.
        """
        return load(folder, cls).eval()

    def save_pretrained(
        self, folder: str, *, weights: Weights = "merged", calibration: RewardStatistics | None = None
    ) -> None:
        """Write an exported folder; see `descore.model.export.save`."""
        save(self, folder, weights=weights, calibration=calibration)

    @property
    def settings(self) -> ModelSettings:
        """How the model reads and what it rewards."""
        return self.processor.settings

    @property
    def base(self) -> PreTrainedModel:
        """The transformers model itself, without PEFT's wrapper."""
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
        """Score every branch, and say how probable its thought is.

        Args:
            branches: A packed batch on the model's device.
            with_logprobs: Also run `lm_head`, at the positions that predict thoughts and nowhere else.
            sampling: How the thoughts were sampled, for the log-probabilities; temperature 1 if not given.
            seen: What `see` gave for these videos, if the vision tower need not look again.
        """
        hidden = self._hidden(branches, None, seen)
        rewards = self.head(hidden[branches.query_index])
        if not with_logprobs:
            return Forward(rewards, rewards.new_empty(0))
        logprobs = self._thought_logprobs(hidden[branches.source_index], branches.target_ids, sampling or Sampling())
        return Forward(rewards, logprobs)

    def see(self, branches: Branches) -> tuple[VideoFeatures, ...]:
        """Run the vision tower once over every video of a packed batch."""
        return self._see(branches)

    def hidden(
        self,
        branches: Branches,
        past_key_values: Cache | None = None,
        *,
        seen: Sequence[VideoFeatures] | None = None,
    ) -> Tensor:
        """Last hidden states of a packed row, `[T, hidden]`; each video passes the vision tower once.

        Args:
            branches: A packed batch on the model's device.
            past_key_values: An empty cache to fill, when the row is to be continued.
            seen: What `see` gave for these videos, if the vision tower need not look again.
        """
        return self._hidden(branches, past_key_values, seen)

    def step(self, input_ids: Tensor, position_ids: Tensor, cache: ThoughtCache) -> Tensor:
        """Feed one token to every slot of a cache.

        Args:
            input_ids: `[rows, 1]`.
            position_ids: `[4, rows, 1]`.
            cache: Prefixes and thoughts so far; it grows by one token.

        Returns:
            `[rows, hidden]`.
        """
        hidden = self._language(input_ids, position_ids, past_key_values=cache, thought_cache=cache)
        cache.step()
        return hidden[:, 0]

    def next_logits(self, hidden: Tensor) -> Tensor:
        """Logits of the next token, `[M, vocabulary]` float32, from states `[M, hidden]`.

        Those of placeholders, query tokens and other control tokens are -inf: a thought is text and the end of turn.
        """
        logits: Tensor = self.base.get_output_embeddings()(hidden).float()
        return logits.index_fill_(1, _on_device(tuple(self.processor.forbidden_ids), logits.device), -torch.inf)

    # What a forward is made of calls no public method: where the model is sharded, those are entrances of their own.

    def _see(self, branches: Branches) -> tuple[VideoFeatures, ...]:
        patches = self.processor.normalise(branches.patches)
        output = self.base.model.get_video_features(patches, branches.grids, return_dict=True)
        layers = getattr(output, "deepstack_features", None) or ()
        deepstack = zip(*layers, strict=True) if layers else [()] * len(output.pooler_output)
        return tuple(VideoFeatures(*features) for features in zip(output.pooler_output, deepstack, strict=True))

    def _hidden(self, branches: Branches, cache: Cache | None, seen: Sequence[VideoFeatures] | None) -> Tensor:
        seen = self._see(branches) if seen is None else seen
        videos = SimpleNamespace(
            pooler_output=[video.main for video in seen],
            deepstack_features=list(zip(*(video.deepstack for video in seen), strict=True)),
        )
        return self._language(
            branches.input_ids,
            branches.position_ids,
            mm_encoder_outputs={"video": videos},
            layout=branches.layout,
            past_key_values=cache,
        )[0]

    def _thought_logprobs(self, hidden: Tensor, target_ids: Tensor, sampling: Sampling) -> Tensor:
        """Log-probability of each target, [M], without ever holding more logits than `LOGIT_BYTES`."""
        rows = max(1, LOGIT_BYTES // (4 * self.base.config.get_text_config().vocab_size))
        if len(hidden) <= rows:
            return self._logprobs(hidden, target_ids, sampling)
        pieces = zip(torch.split(hidden, rows), torch.split(target_ids, rows), strict=True)
        return torch.cat([checkpoint(self._logprobs, *piece, sampling, use_reentrant=False) for piece in pieces])

    def _logprobs(self, hidden: Tensor, target_ids: Tensor, sampling: Sampling) -> Tensor:
        logits = sampling.warp(self.next_logits(hidden), target_ids)
        return logits.gather(1, target_ids[:, None])[:, 0] - logits.logsumexp(-1)

    def _language(self, input_ids: Tensor, position_ids: Tensor, **inputs: Any) -> Tensor:
        # A mask of four dimensions is passed on as it is: the attention goes by layout or cache and needs none.
        no_mask = torch.empty(1, 1, 1, 0, device=input_ids.device)
        output = self.base.model(
            input_ids=input_ids,
            position_ids=position_ids,
            attention_mask=no_mask,
            use_cache=inputs.get("past_key_values") is not None,
            **inputs,
        )
        return output.last_hidden_state  # type: ignore[no-any-return]


@lru_cache
def _on_device(indices: tuple[int, ...], device: torch.device) -> Tensor:
    """Bring indices to a device once: to bring them each time would wait for it each time."""
    with torch.inference_mode(False):  # validation may be first, and training takes a gradient through them
        return torch.tensor(indices, dtype=torch.int64, device=device)
