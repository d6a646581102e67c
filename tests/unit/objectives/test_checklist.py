"""The objective of the checklist by hand: the answers alone count, one as much as the other."""

import pytest
import torch

from descore.objectives.checklist import answer_logprobs, checklist_loss
from descore.types import Thought

ANSWERED = [Thought((7, 8, 9)), Thought((5,)), Thought((3, 4))]
LOGPROBS = torch.tensor([-9.0, -9.0, -1.0, -2.0, -9.0, -6.0])
"""Of all tokens of the three branches; the last one of each is its answer."""


def test_the_answer_is_the_last_token_of_a_branch():
    assert answer_logprobs(LOGPROBS, ANSWERED).tolist() == [-1, -2, -6]


def test_the_loss_is_the_mean_over_the_answers():
    assert checklist_loss(LOGPROBS, ANSWERED).item() == pytest.approx((1 + 2 + 6) / 3)


def test_nothing_is_asked_of_no_video():
    assert checklist_loss(torch.empty(0), []).item() == 0
