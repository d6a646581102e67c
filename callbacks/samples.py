"""Validation pairs to look at: texts, frames, and how the rewards spread."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.nn.functional import interpolate, pad
from torch.utils.tensorboard import SummaryWriter

from descore.answer import NOT_ASKED, AnswerError, parse_answer
from descore.types import DIMENSIONS, DimensionScores, Frames, Group, Pair, PairBatch, Side
