"""Every form of head gives what a network of plain torch modules gives, and its settings know its tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from descore.heads.reward_head import RewardHead
from descore.heads.settings import HeadSettings

SIZE, REWARDS, BRANCHES = 6, 3, 4
FORMS = {
    "linear": HeadSettings(),
    "linear_bias": HeadSettings(bias=True),
    "mlp": HeadSettings(kind="mlp", hidden=(8, 5), bias=True),
    "mlp_no_bias": HeadSettings(kind="mlp", hidden=(8,)),
    "gated": HeadSettings(kind="gated", hidden=(8, 5), criteria=7, bias=True),
    "gated_linear": HeadSettings(kind="gated", criteria=7),
}


def drawn(form: HeadSettings) -> RewardHead:
    head = RewardHead(SIZE, REWARDS, form)
    head.reset(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for number, parameter in enumerate(head.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    return head


def by_hand(form: HeadSettings, tensors: dict[str, Tensor]) -> tuple[nn.Sequential, nn.Sequential | None]:
    """Return the network of the rewards (of the criteria), and that of the gate, made of plain modules."""

    def linear(name: str) -> nn.Linear:
        weight, bias = tensors[f"{name}weight"], tensors.get(f"{name}bias")
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        layer.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
        return layer

    trunk = [part for index in range(len(form.hidden)) for part in (linear(f"layers.{index}."), nn.ReLU())]
    if form.kind == "gated":
        return nn.Sequential(linear("")), nn.Sequential(*trunk, linear("gate."))
    return nn.Sequential(*trunk, linear("")), None


def reward_by_hand(form: HeadSettings, head: RewardHead, state: Tensor, index: int) -> Tensor:
    """Reward of one name from one hidden state."""
    values, gate = by_hand(form, head.state_dict())
    if gate is None:
        return values(state)[index]
    shares = gate(state).view(REWARDS, form.criteria)[index].softmax(0)
    return (shares * values(state)).sum()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("num_states", [1, REWARDS])
def test_a_head_gives_what_plain_modules_give(form: HeadSettings, num_states: int) -> None:
    head = drawn(form)
    states = torch.randn(BRANCHES, num_states, SIZE, generator=torch.Generator().manual_seed(9))
    found = head(states)
    assert found.shape == (BRANCHES, REWARDS)
    for branch in range(BRANCHES):
        for index in range(REWARDS):
            expected = reward_by_hand(form, head, states[branch, index % num_states], index)
            assert_close(found[branch, index], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_settings_know_the_tensors_of_the_head(form: HeadSettings) -> None:
    found = {name: tensor.shape[0] for name, tensor in RewardHead(SIZE, REWARDS, form).state_dict().items()}
    assert found == form.rows(REWARDS)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_head_is_float32_under_autocast_and_in_half_precision(form: HeadSettings) -> None:
    head = drawn(form)
    states = torch.randn(BRANCHES, 1, SIZE, generator=torch.Generator().manual_seed(9)).bfloat16()
    expected = head(states.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = head(states)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert head.bfloat16()(states).dtype == torch.float32


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_new_weights_go_by_their_generator_alone(form: HeadSettings) -> None:
    heads = [RewardHead(SIZE, REWARDS, form) for _ in range(3)]
    for head, seed in zip(heads, (0, 0, 1), strict=True):
        head.reset(torch.Generator().manual_seed(seed))
    states = torch.ones(1, 1, SIZE)
    first, same, other = (head(states) for head in heads)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert first.abs().max() < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "deep"}, "head.kind is 'deep'; expected one of linear, mlp, gated"),
        ({"query": "none"}, "head.query is 'none'; expected one of shared, each, last"),
        ({"kind": "mlp"}, r"head.hidden is \[\]; expected 1 to 8 widths for head.kind mlp"),
        ({"hidden": (4,)}, r"head.hidden is \[4\]; expected none for head.kind linear"),
        ({"kind": "mlp", "hidden": (0,)}, "head.hidden has a width of 0; expected 1 to 16384"),
        ({"kind": "mlp", "hidden": (10**9,)}, "head.hidden has a width of 1000000000; expected 1 to 16384"),
        ({"kind": "mlp", "hidden": (1,) * 9}, "expected 1 to 8 widths"),
        ({"kind": "gated"}, "head.criteria is 0; expected 2 to 16384 for head.kind gated"),
        ({"criteria": 3}, "head.criteria is 3; expected none for head.kind linear"),
    ],
)
def test_a_form_that_does_not_fit_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HeadSettings(**options)  # type: ignore[arg-type]
