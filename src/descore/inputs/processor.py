"""Turns prompts, frames and thoughts into the inputs of a backbone: prefixes of videos, and packed batches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from descore.inputs.backbone import Backbone
from descore.inputs.prompts import PromptError, PromptTemplate, check_prompt, neutralise
from descore.inputs.settings import ModelSettings
from descore.types import Branches, Frames, Layout, Prefix, Thought
from descore.video.frames import VideoReader
from descore.video.isolation import IsolatedReader

THINKING = ("<think>", "</think>")
"""What opens and closes the reasoning of a thought; some tokenizers have tokens for them."""

MAX_CHARACTERS_PER_TOKEN = 64
"""A prompt with more characters per token of its limit is refused before it is tokenised."""


class Processor:
    """Turns prompts, videos and thoughts into the inputs of one backbone, without its weights.

    Args:
        settings: Settings of the model.
        folder: Exported folder with the backbone's configuration and tokenizer; None reads them from the backbone.

    Raises:
        ValueError: If the backbone cannot be found or is not supported, or the template does not have one `{prompt}`.

    >>> processor = Processor(ModelSettings(backbone="tiny", template="Does it show {prompt}?"))
    >>> frames = Frames(torch.zeros(4, 3, 32, 64, dtype=torch.uint8), (0, 8, 16, 24), 8.0, 25)
    >>> prefix = processor.prefix("a cat", frames)
    >>> prefix.grids  # the tiny backbone has patches of 2 frames and 8 x 8 pixels
    tensor([[2, 4, 8]])
    >>> branches = processor.pack([prefix], [[processor.thought("A cat."), Thought()]])
    >>> branches.layout.num_branches, branches.query_index.shape
    (2, torch.Size([2, 1]))
    """

    def __init__(self, settings: ModelSettings, folder: Path | None = None) -> None:
        self.settings = settings
        self.template = PromptTemplate(settings.template)
        self.backbone = Backbone.read(settings.backbone, settings.query_tokens, folder, loose=self.template.is_loose)
        self.family = self.backbone.family
        self.tokenizer = self.backbone.tokenizer
        self.query_ids: list[int] = self.tokenizer.convert_tokens_to_ids(list(settings.query_tokens))
        self.appended_ids: list[int] = [] if self.template.queries else self.query_ids
        self.end_id: int = self.tokenizer.convert_tokens_to_ids(self.family.end_of_turn)
        self._control_tokens = [*self.tokenizer.get_added_vocab(), self.family.medium.text]
        # A thought may hold tokens of its own form, such as <think> and <answer>, which are added but not special.
        special = [str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        self._special_tokens = [*special, *settings.query_tokens]
        self.opening = self._read_chat_template()
        self.forbidden_ids = self._forbidden()
        self.video_reader = VideoReader(settings.video, **self.family.reading)
        self._decode = IsolatedReader(self.video_reader)
        self._mean = torch.tensor(self.backbone.image_mean).view(3, 1) * 255
        self._std = torch.tensor(self.backbone.image_std).view(3, 1) * 255

    def read(self, path: str) -> Frames:
        """Read the frames of a video file in a child process, resized for the backbone.

        Raises:
            VideoError: If the file cannot be read, or it hangs or crashes the decoder.
        """
        return self._decode(path)

    def prefix(self, prompt: str, *videos: Frames) -> Prefix:
        """Build everything before a thought: the user turn with the video, and the assistant header.

        Control tokens in the prompt become plain text, see `neutralise`.

        Args:
            prompt: Text that the videos were generated from.
            *videos: Frames of the video, or of the two that the template compares, in their order.

        Raises:
            PromptError: If the prompt is not text, is blank, is not valid Unicode, or is longer than the model's limit.
            ValueError: If the template has another number of videos.
        """
        if len(videos) != (expected := self.template.num_videos):
            raise ValueError(f"the template of this model has {expected} videos, got {len(videos)}")
        seen = [self.family.patches(frames.pixels) for frames in videos]
        texts = [self.family.texts(frames, grid) for frames, (_, grid) in zip(videos, seen, strict=True)]
        pieces = self._chat(self._clean(prompt), [len(own) for own in texts]).split(self.family.medium.text)
        text = "".join(chain.from_iterable(zip(pieces, [*chain(*texts), ""], strict=True)))
        token_ids = self.tokenizer.encode(text, add_special_tokens=False)
        queries = tuple(map(token_ids.index, self.query_ids)) if self.template.queries else ()
        input_ids, grids = torch.tensor(token_ids), torch.stack([grid for _, grid in seen])
        patches = seen[0][0] if len(seen) == 1 else torch.cat([patches for patches, _ in seen])  # a copy is large
        return Prefix(input_ids, self.family.positions(input_ids, videos, grids), patches, grids, queries)

    def check(self, prompt: str) -> None:
        """Check that a prompt can be asked about.

        Raises:
            PromptError: If the prompt is not text, is blank, is not valid Unicode, or is longer than the model's limit.
        """
        self._clean(prompt)

    def normalise(self, patches: Tensor) -> Tensor:
        """Normalise pixels for the vision tower, on the device where they are.

        Normalising late keeps patches at one byte per value in the loader and on the way to the device.

        Args:
            patches: [N, patch_dim] uint8 patches, as in `Prefix`.

        Returns:
            [N, patch_dim] float32 patches.
        """
        channels = patches.view(len(patches), 3, -1).float()
        return channels.sub_(self._mean.to(patches.device)).div_(self._std.to(patches.device)).flatten(1)

    def thought(self, text: str) -> Thought:
        """Tokenise a thought and cut it at the length limit; an empty text gives `Thought()`.

        Control tokens in the thought become plain text. What the chat template opens itself is left out.
        """
        if not text:
            return Thought()
        token_ids = tuple(self.tokenizer.encode(self.clean_thought(text), add_special_tokens=False))
        limit = self.settings.max_thought_tokens
        return Thought(token_ids[:limit], closed=len(token_ids) <= limit)

    def clean_thought(self, text: str) -> str:
        """Return a thought with its control tokens as plain text, and without what the chat template opens itself."""
        text = neutralise(text, self._special_tokens)
        return text.lstrip().removeprefix(THINKING[0]).lstrip("\n") if self.opening else text

    def thought_text(self, token_ids: Sequence[int]) -> str:
        """Decode a thought; what the chat template opens itself stands in front of it."""
        text: str = self.tokenizer.decode(token_ids)
        return self.opening + text

    def pack(self, prefixes: Sequence[Prefix], branches: Sequence[Sequence[Thought]]) -> Branches:
        """Pack the prefix and the branches of each video into one row.

        Each branch is a thought, and the query tokens unless they stand in the prefix or the head reads the last token.

        Args:
            prefixes: Prefix of each video, all on the device where the row is to be.
            branches: Thoughts of each video, one for each branch; `Thought()` is a branch without a thought.
        """
        device = prefixes[0].input_ids.device
        ids, positions, sources, targets, owners = [], [], [], [], []
        queries: list[list[int]] = []
        start, owner = 0, 0
        for prefix, thoughts in zip(prefixes, branches, strict=True):
            ids.append(prefix.input_ids)
            length = len(prefix.input_ids)
            positions.append(torch.cat([torch.arange(length, device=device)[None], prefix.position_ids]))
            end = start + length
            cursor = end
            if thoughts and prefix.turns:  # what the model said before is predicted too, as part of the first branch
                said = torch.cat([torch.arange(*turn) for turn in prefix.turns])
                sources.append(start + said - 1)
                targets.append(prefix.input_ids.cpu()[said])
                owners.append(torch.full_like(said, owner))
            for thought in thoughts:
                size, closed = len(thought.token_ids), thought.closed
                own = torch.tensor([*thought.token_ids, *self.appended_ids], dtype=torch.int64, device=device)
                ids.append(own)
                positions.append(positions_after(prefix, len(own)))
                queries.append(self._read_at(prefix, start, cursor, size))
                sources.append(torch.tensor([end - 1, *range(cursor, cursor + size)])[: size + closed])
                targets.append(torch.tensor([*thought.token_ids, self.end_id])[: size + closed])
                owners.append(torch.full((size + closed,), owner))
                cursor += len(own)
                owner += 1
            start = cursor
        return Branches(
            input_ids=torch.cat(ids)[None],
            position_ids=torch.cat(positions, dim=1)[:, None],
            layout=self._layout(prefixes, branches),
            query_index=torch.tensor(queries, dtype=torch.int64).view(-1, len(self.query_ids) or 1).to(device),
            source_index=_concatenate(sources).to(device),
            target_ids=_concatenate(targets).to(device),
            target_branch=_concatenate(owners).to(device),
            patches=torch.cat([prefix.patches for prefix in prefixes]),
            grids=torch.cat([prefix.grids for prefix in prefixes]),
        )

    def _read_at(self, prefix: Prefix, start: int, cursor: int, size: int) -> list[int]:
        """Return the indices of the states that the head reads for a branch.

        Args:
            prefix: Prefix of the branch.
            start: Index in the row where the prefix begins.
            cursor: Index in the row where the branch begins.
            size: Number of tokens of its thought.
        """
        if prefix.query_index:
            return [start + index for index in prefix.query_index]
        if self.appended_ids:
            return list(range(cursor + size, cursor + size + len(self.appended_ids)))
        return [cursor + size - 1 if size else start + len(prefix.input_ids) - 1]

    def _chat(self, prompt: str, num_pictures: Sequence[int] = (), *, header: bool = True) -> str:
        """Render the user turn with a text for each video or picture, and the assistant header if asked for."""
        messages = self.template.messages(prompt, num_pictures)
        text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=header)
        return text

    def _clean(self, prompt: str) -> str:
        """Check a prompt, and make its control tokens plain text."""
        limit = self.settings.max_prompt_tokens
        if len(check_prompt(prompt)) <= MAX_CHARACTERS_PER_TOKEN * limit:
            clean = neutralise(prompt, self._control_tokens)
            if (length := len(self.tokenizer.encode(clean, add_special_tokens=False))) <= limit:
                return clean
            raise PromptError(f"expected a prompt of at most {limit} tokens, got {length}: shorten it")
        raise PromptError(f"expected a prompt of at most {limit} tokens, got {len(prompt)} characters: shorten it")

    def _read_chat_template(self) -> str:
        """Return what the chat template itself writes of a thought, such as `<think>`; most write nothing.

        Raises:
            ValueError: If there is no chat template, or it leaves the video out.
        """
        name = self.backbone.name
        if not getattr(self.tokenizer, "chat_template", None):
            raise ValueError(f"backbone {name!r} has no chat template; expected an instruction-tuned model")
        turn, text = self._chat("-", header=False), self._chat("-")
        if text.count(written := self.family.medium.text) != self.template.num_videos:
            kind = "picture" if self.template.is_loose else "video"
            raise ValueError(f"the chat template of backbone {name!r} has no {kind}s: expected {written} for a {kind}")
        header = text[len(turn) :] if text.startswith(turn) else text.rpartition("\n")[2]
        _, opens, rest = header.rpartition(THINKING[0])
        return opens + rest if opens and THINKING[1] not in rest else ""

    def _forbidden(self) -> list[int]:
        """Return the token ids that a thought must not have: control and query tokens, and ids beyond the tokenizer."""
        control = {token_id for token_id, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        control = (control | set(self.query_ids)) - {self.end_id}
        beyond = range(len(self.tokenizer), self.backbone.config.get_text_config().vocab_size)
        return sorted(control | set(beyond))

    def _layout(self, prefixes: Sequence[Prefix], branches: Sequence[Sequence[Thought]]) -> Layout:
        lengths = tuple(tuple(len(thought.token_ids) + len(self.appended_ids) for thought in row) for row in branches)
        queries = tuple(prefix.query_index for prefix in prefixes) if self.template.queries else ()
        num_grids = tuple(len(prefix.grids) for prefix in prefixes)
        return Layout(tuple(len(prefix.input_ids) for prefix in prefixes), lengths, queries, num_grids)


def positions_after(prefix: Prefix, length: int) -> Tensor:
    """Return the positions of a branch, [R, length]; they start where the positions of its prefix end."""
    steps = torch.arange(length, device=prefix.input_ids.device)
    return torch.cat([(len(prefix.input_ids) + steps)[None], prefix.position_ids[:, -1:] + 1 + steps])


def prefixes_of(branches: Branches) -> list[Prefix]:
    """Return the prefix of each video in a packed batch, without its branches and turns; the inverse of `pack`."""
    lengths = branches.layout.prefix_lengths
    queries = branches.layout.query_indices or [()] * len(lengths)
    sizes = [prefix + sum(own) for prefix, own in branches.layout.videos]
    ids = torch.split(branches.input_ids[0], sizes)
    positions = torch.split(branches.position_ids[1:, 0], sizes, dim=1)
    grids = torch.split(branches.grids, list(branches.layout.num_grids))
    patches = torch.split(branches.patches, [int(own.prod(1).sum()) for own in grids])
    videos = zip(ids, positions, patches, grids, queries, lengths, strict=True)
    return [Prefix(row[:length], places[:, :length], *rest) for row, places, *rest, length in videos]


def _concatenate(indices: list[Tensor]) -> Tensor:
    """Concatenate index tensors; an empty list gives an empty tensor."""
    return torch.cat(indices) if indices else torch.empty(0, dtype=torch.int64)
