"""An update of stage 2 gives what the plain way gives: policy loss, KL, calibration loss, and their gradients.

Ours is the `Update` of `RLModule`, between its rollouts and its optimizer: one packed forward. Theirs is one full
sequence per thought, once for its log-probabilities and once more for its reward.
"""

from copy import deepcopy
from dataclasses import dataclass, replace
from math import nan

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.testing import assert_close

from descore.losses.policy import policy_loss
from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.modules.options import Lora, Optimization
from descore.modules.rl import RLModule
from descore.modules.step_metrics import Means, Stopwatch
from descore.modules.update import Ranks, Update
from descore.objectives.dual import LossWeights
from descore.rewards import Rubric
from descore.thinking.rollouts import Rollouts
from descore.types import Group, Pair, PairBatch, Side
from tests.helpers.examples import make_prefixes
from tests.parity.plain import plain_forward, stock

FAMILIES = ("qwen3_vl", "qwen2_5_vl")
LANGUAGE = {"language": 1.0, "query": 1.0, "head": 1.0}
EVERYTHING = LANGUAGE | {"vision": 1.0, "merger": 1.0}
LORA = Lora(("language",), rank=4, alpha=8)
TRAINED = {
    "full": Optimization(LANGUAGE),
    "full_recomputed": Optimization(LANGUAGE, gradient_checkpointing=True),
    "lora": Optimization(LANGUAGE, LORA),
    "lora_recomputed": Optimization(LANGUAGE, LORA, gradient_checkpointing=True),
    "vision_too": Optimization(EVERYTHING),
}
WEIGHTS = {"policy": 1.0, "kl": 0.3, "calibration": 0.5}
"""Large, so that none of the three hides behind another."""


ALONE = Ranks(mean=lambda value: value, max=lambda value: value)


@dataclass
class Case:
    """A module that has moved on since it sampled, its rollouts, and the models of the plain way."""

    module: RLModule
    rollouts: Rollouts
    reference: Tensor
    policy: RewardModel
    stage1: RewardModel
    loss: Tensor | None = None


def few_words(model: RewardModel) -> RewardModel:
    """Thoughts of ten words, the end of turn among them, end at all lengths."""
    model.processor.forbidden_ids = sorted(set(range(320)) - {*range(100, 109), model.processor.end_id})
    return model


def batch_of(model: RewardModel) -> PairBatch:
    """Two pairs of unequal prompts and videos; B is preferred in the first, A in the second."""
    preference = torch.tensor([[-1.0], [1.0]])
    return PairBatch(
        pairs=tuple(Pair(f"p{i}", "", Side(""), Side(""), ()) for i in range(2)),
        branches=model.processor.pack(make_prefixes(model, 4), [()] * 4),
        thoughts=((),) * 4,
        preference=preference,
        mos=torch.full((2, 2, 1), nan),
        masked=torch.zeros(2).bool(),
    )


def make_case(model: RewardModel, optimization: Optimization, **sampling: object) -> Case:
    """Sample with the stage-1 model, then move the weights: ratios and KL are not those of the first step."""
    module = RLModule(
        "export",
        sampling=Sampling(num_thoughts=3, **{"temperature": 1.0} | sampling),
        rubric=Rubric({"length": 1.0}, length_low=0, length_high=8),
        weights=LossWeights(kl=WEIGHTS["kl"]),
        optimization=optimization,
    )
    module._build = lambda: deepcopy(model)
    torch.manual_seed(0)  # PEFT draws its adapters from torch's own generator
    module.configure_model()
    module.means, module.clock = Means(), Stopwatch(torch.device("cpu"))
    rollouts = module._roll_out(batch_of(model))
    move(module)
    policy = stock(module.model)
    if optimization.gradient_checkpointing:
        policy.base.gradient_checkpointing_disable()
    return Case(module, rollouts, module._reference_logprobs(rollouts), policy, stock(model))


def move(module: RLModule) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, parameter in module.model.named_parameters():
        if parameter.requires_grad:
            size = 0.05 if "lora_B" in name else 0.3 * parameter.std()
            parameter.data += size * torch.randn(parameter.shape, generator=generator)


def update_of(case: Case, weights: dict[str, float], micro: int = 0) -> Update:
    module = case.module
    return Update(
        module.sharding,
        replace(module.objective, weights=LossWeights(**{name: weights.get(name, 0.0) for name in WEIGHTS})),
        module.rollout_settings.sampling,
        case.rollouts,
        case.reference,
        micro,
        ALONE,
        Tensor.backward,
        module.means,
        module.clock,
    )


def ours(case: Case, weights: dict[str, float], *, micro: int = 0, separately: bool = False) -> dict[str, Tensor]:
    """Gradients by parameter after an update with these weights."""
    case.module.zero_grad()
    case.loss = update_of(case, weights, micro)([0, 1], log_norms=separately)
    return gradients(case.module.model)


def gradients(model: RewardModel) -> dict[str, Tensor]:
    """The trained parameters of both sides have the same names; one that a loss does not reach has a gradient of 0."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in trained}


def plainly(model: RewardModel, groups: tuple[Group, ...]) -> tuple[Tensor, Tensor]:
    """Log-probabilities [N, T] of the tokens of all thoughts, and their rewards [N]."""
    prefixes = make_prefixes(model, len(groups))
    each = [(prefix, thought) for prefix, group in zip(prefixes, groups, strict=True) for thought in group.thoughts]
    rewards, logprobs = zip(*(plain_forward(model, *one) for one in each), strict=True)
    return pad_sequence(logprobs, batch_first=True), torch.cat(rewards)


def their_losses(case: Case) -> dict[str, Tensor]:
    """The three losses, on two forwards of every thought."""
    groups = case.rollouts.groups
    old = [logprobs for group in groups for logprobs in group.logprobs]
    mask = pad_sequence([torch.ones(len(row)) for row in old], batch_first=True)
    logprobs, _ = plainly(case.policy, groups)
    _, rewards = plainly(case.policy, groups)
    bounds = {"clip_low": 0.2, "clip_high": 0.3, "clip_dual": 3.0}
    policy, _ = policy_loss(logprobs, pad_sequence(old, batch_first=True), advantages(groups), mask, **bounds)
    with torch.no_grad():
        reference, _ = plainly(case.stage1, groups)
    kl = ((reference - logprobs).exp() - 1 + logprobs - reference) * mask
    first_a, second_a, first_b, second_b = rewards.chunk(4)
    calibration = -F.logsigmoid(torch.cat([first_b - first_a, second_a - second_b])).mean()
    return {"policy": policy, "kl": kl.sum() / mask.sum(), "calibration": calibration}


def advantages(groups: tuple[Group, ...]) -> Tensor:
    """The rollout reward of these tests is an eighth of a thought's length, compared as the method says; [N]."""
    rewards = torch.tensor([[len(thought.token_ids) / 8 for thought in group.thoughts] for group in groups])
    return ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-6)).flatten()


def their_gradients(case: Case, loss: Tensor) -> dict[str, Tensor]:
    case.policy.zero_grad()
    loss.backward(retain_graph=True)
    return gradients(case.policy)


def assert_close_gradients(found: dict[str, Tensor], expected: dict[str, Tensor], limit: float = 1e-4) -> None:
    """By parameter, relative to the norm of what is expected."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= limit * gradient.norm(), name


@pytest.fixture(scope="module", params=FAMILIES)
def small(request: pytest.FixtureRequest, build) -> RewardModel:
    return few_words(build(request.param, max_thought_tokens=8))


@pytest.fixture(scope="module")
def case(build) -> Case:
    return make_case(few_words(build(max_thought_tokens=8)), TRAINED["full"])


@pytest.mark.parametrize("options", TRAINED.values(), ids=TRAINED)
def test_an_update_is_the_plain_one(small, options):
    """Each objective by itself, and the three together; each of their gradients reaches what trains."""
    case = make_case(small, options)
    assert (case.rollouts.seen is None) == ("vision" in options.learning_rates)
    total: dict[str, Tensor] = {}
    for name, loss in their_losses(case).items():
        alone = their_gradients(case, loss)
        assert_close_gradients(ours(case, {name: 1.0}), alone)
        assert case.loss.item() == pytest.approx(loss.item(), rel=1e-4)
        assert sum(gradient.norm() > 0 for gradient in alone.values()) > len(alone) / 2
        for key, gradient in alone.items():
            total[key] = total.get(key, 0) + WEIGHTS[name] * gradient
    assert_close_gradients(ours(case, WEIGHTS), total)


@pytest.mark.parametrize(("name", "num_runs"), [("lora", 1), ("lora_recomputed", 2)])
def test_a_layer_runs_once_or_is_recomputed(build, name, num_runs):
    """What "recomputed" above rests on."""
    case = make_case(few_words(build(max_thought_tokens=8)), TRAINED[name])
    runs: list[int] = []
    case.module.model.base.model.language_model.layers[0].mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    ours(case, WEIGHTS)
    assert len(runs) == num_runs


def test_the_rollouts_of_these_tests_try_everything(case):
    """Unequal lengths, thoughts that are cut, advantages of both signs, ratios that are clipped, and a KL."""
    lengths = [len(thought.token_ids) for group in case.rollouts.groups for thought in group.thoughts]
    assert len(set(lengths)) > 3
    assert {thought.closed for group in case.rollouts.groups for thought in group.thoughts} == {True, False}
    assert (case.rollouts.advantages > 0).any()
    assert (case.rollouts.advantages < 0).any()
    case.module.means = Means()
    ours(case, WEIGHTS)
    metrics = case.module.means.compute()
    assert min(metrics[f"train/clipped_{bound}"] for bound in ("low", "high")) > 0
    assert metrics["train/kl"] > 0.01
    assert {f"train/{name}_loss" for name in WEIGHTS} < metrics.keys()


def test_the_first_step_is_taken_where_the_thoughts_were_sampled(small):
    """Ratios are 1 and the KL is 0 under the distribution that was sampled from, in both models, and only there."""
    narrow = {"temperature": 0.7, "top_k": 6, "top_p": 0.9}
    case = make_case(small, TRAINED["lora"], **narrow)
    case.module.model.network.disable_adapter_layers()
    ours(case, WEIGHTS)
    metrics = case.module.means.compute()
    assert metrics["train/kl_to_old"] == pytest.approx(0, abs=1e-5)
    assert metrics["train/kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["train/clipped_low"] == metrics["train/clipped_high"] == 0
    branches, seen = case.rollouts.pack(small.processor, [0, 1])
    wide = case.rollouts.by_token(small(branches, with_logprobs=True, seen=seen).logprobs, [0, 1])
    assert (wide - case.rollouts.old_logprobs).abs().max() > 0.3


@pytest.mark.parametrize("alone", ["policy", "calibration"])
def test_the_objectives_can_be_separated(case, alone):
    """With weight 0 on the others, the gradient is bit for bit that of one loss without them."""
    found = ours(case, {alone: 1.0})
    shares = case.module.objective.shares(case.rollouts, [0, 1])
    case.module.zero_grad()
    getattr(update_of(replace(case, reference=None), {})._forward([0, 1], shares), alone).backward()
    expected = gradients(case.module.model)
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


@pytest.mark.parametrize("micro", [0, 1])
def test_logging_gradients_separately_leaves_them_alone(case, micro):
    """The norms that are logged are those of each objective by itself, and the gradient stays the same."""
    case.module.means = Means()
    found = ours(case, WEIGHTS, micro=micro, separately=True)
    logged = case.module.means.compute()
    assert_close_gradients(found, ours(case, WEIGHTS, micro=micro), limit=1e-6)
    policy = ours(case, {name: WEIGHTS[name] for name in ("policy", "kl")})
    calibration = ours(case, {"calibration": WEIGHTS["calibration"]})
    for name, expected in (("policy", policy), ("calibration", calibration)):
        norm = torch.nn.utils.get_total_norm(list(expected.values()))
        assert logged[f"grad/{name}"] == pytest.approx(norm.item(), rel=1e-4)


def test_micro_batches_add_up_to_one_forward(case):
    assert_close_gradients(ours(case, WEIGHTS, micro=1), ours(case, WEIGHTS))


def test_what_was_seen_changes_nothing(case):
    """The vision tower is left alone, and the gradient is the one with it."""
    looks = []
    hook = case.module.model.base.model.visual.register_forward_hook(lambda *_: looks.append(1))
    kept = ours(case, WEIGHTS)
    assert looks == []
    looked = ours(replace(case, rollouts=replace(case.rollouts, seen=None)), WEIGHTS)
    hook.remove()
    assert looks == [1]
    assert_close_gradients(kept, looked, limit=1e-6)


@pytest.mark.parametrize("options", [TRAINED["full"], TRAINED["lora_recomputed"]], ids=["full", "lora_recomputed"])
def test_logprobs_made_piece_by_piece_are_those_made_at_once(small, options, monkeypatch):
    """Logits of five tokens at a time."""
    case = make_case(small, options)
    branches, seen = case.rollouts.pack(small.processor, [0, 1])
    num_rows: list[int] = []
    hook = case.module.model.base.lm_head.register_forward_hook(lambda _, inputs, __: num_rows.append(len(inputs[0])))

    def run() -> tuple[Tensor, dict[str, Tensor]]:
        num_rows.clear()
        return case.module.model(branches, with_logprobs=True, seen=seen).logprobs.detach(), ours(case, WEIGHTS)

    whole, expected = run()
    assert max(num_rows) == len(branches.target_ids)
    monkeypatch.setattr("descore.model.reward_model.LOGIT_BYTES", 5 * 4 * 320 + 7)
    pieces, found = run()
    hook.remove()
    assert max(num_rows) == 5
    assert_close(pieces, whole, atol=1e-6, rtol=0)
    assert_close_gradients(found, expected, limit=1e-5)


def test_the_reference_is_the_model_that_sampled(case):
    """What it gives a token is what the sampler gave; the policy has left it."""
    off = ~case.rollouts.mask
    assert_close(case.reference.masked_fill(off, 0), case.rollouts.old_logprobs, atol=1e-5, rtol=0)


def test_a_head_that_trains_alone_has_itself_as_its_reference(build):
    """Its thoughts cannot move, so the KL is 0 and the calibration loss is all there is."""
    case = make_case(few_words(build(max_thought_tokens=8)), Optimization({"head": 1.0}))
    assert ours(case, WEIGHTS)["head.weight"].norm() > 0
    assert case.module.means.compute()["train/kl"] == pytest.approx(0, abs=1e-6)
