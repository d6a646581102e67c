from math import inf, log, nan
from typing import get_args

import pytest
import torch

from descore.losses.policy import KLEstimator, PolicyVariant, kl_divergence, policy_loss, policy_terms
from descore.losses.token_weights import Average, token_weights

VARIANTS = get_args(PolicyVariant)
AVERAGES = get_args(Average)
ESTIMATORS = get_args(KLEstimator)


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values])


def random_batch(num_thoughts: int = 6, length: int = 5) -> tuple[torch.Tensor, ...]:
    """Log-probabilities, those when sampled, advantages and a mask; the thoughts have 0 to 5 tokens."""
    generator = torch.Generator().manual_seed(0)
    logprobs, noise = torch.randn(2, num_thoughts, length, generator=generator)
    mask = torch.arange(length) < torch.arange(num_thoughts)[:, None]
    return logprobs - 2, logprobs - 2 + noise / 2, torch.randn(num_thoughts, generator=generator), mask


def terms_and_slopes(ratios: list[float], advantage: float, **options) -> tuple[list[float], list[float]]:
    """The term and its gradient at the log-probability, for tokens with p = 1/2 and these ratios."""
    logprobs = torch.full((1, len(ratios)), log(0.5), requires_grad=True)
    old = logprobs.detach() - torch.tensor([ratios]).log()
    terms, _ = policy_terms(logprobs, old, torch.tensor([advantage]), torch.ones(1, len(ratios)), **options)
    terms.sum().backward()
    assert logprobs.grad is not None
    return terms[0].tolist(), logprobs.grad[0].tolist()


def test_grpo_by_hand():
    """The loss is -A r and so is its slope, until r passes 1.3 with A = 2, or leaves 0.8 to 3 with A = -2."""
    terms, slopes = terms_and_slopes([0.5, 1.0, 1.2, 1.5, 4.0], 2.0)
    assert terms == pytest.approx([-1, -2, -2.4, -2.6, -2.6], rel=1e-6)
    assert slopes == pytest.approx([-1, -2, -2.4, 0, 0], rel=1e-6)
    terms, slopes = terms_and_slopes([0.5, 1.0, 1.5, 2.9, 4.0], -2.0)
    assert terms == pytest.approx([1.6, 2, 3, 5.8, 6], rel=1e-6)
    assert slopes == pytest.approx([0, 2, 3, 5.8, 0], rel=1e-6)


def test_bounds_are_arguments():
    terms, _ = terms_and_slopes([0.5, 1.2, 4.0], -1.0, clip_low=0.1, clip_dual=inf)
    assert terms == pytest.approx([0.9, 1.2, 4], rel=1e-6)
    terms, _ = terms_and_slopes([0.5, 1.2, 4.0], 1.0, clip_high=0.1)
    assert terms == pytest.approx([-0.5, -1.1, -1.1], rel=1e-6)


def test_a_log_ratio_is_bounded_before_its_exponential():
    """Within log 1000, where the advantage is negative and the ratio has no other bound: 500 stays, 5000 is 1000."""
    bounds = {"clip_dual": inf, "max_log_ratio": log(1000)}
    terms, slopes = terms_and_slopes([500.0, 5000.0], -1.0, **bounds)
    assert terms == pytest.approx([500, 1000], rel=1e-5)
    assert slopes == pytest.approx([500, 0], rel=1e-5)
    unbounded, _ = terms_and_slopes([5000.0], -1.0, clip_dual=inf)
    assert unbounded == pytest.approx([5000], rel=1e-5)


def test_cispo_by_hand():
    """-A clip(r, 0.8, 1.3) log p with p = 1/2; the slope is the weight -A clip(r), never 0."""
    for advantage in (2.0, -2.0):
        terms, slopes = terms_and_slopes([0.5, 1.0, 4.0], advantage, variant="cispo")
        assert slopes == pytest.approx([-advantage * weight for weight in (0.8, 1, 1.3)], rel=1e-6)
        assert terms == pytest.approx([slope * log(0.5) for slope in slopes], rel=1e-6)


def test_gspo_by_hand():
    """Ratios 2 and 1/2 have the geometric mean 1, ratios 4 and 1 have 2: clipped at 1.3 with A = 1, not with A = -1."""
    assert terms_and_slopes([2.0, 0.5], 1.0, variant="gspo") == (pytest.approx([-1, -1]), pytest.approx([-1, -1]))
    assert terms_and_slopes([4.0, 1.0], 1.0, variant="gspo") == (pytest.approx([-1.3, -1.3]), [0, 0])
    assert terms_and_slopes([4.0, 1.0], -1.0, variant="gspo") == (pytest.approx([2, 2]), pytest.approx([2, 2]))


def test_the_mean_ratio_is_over_the_tokens_that_count():
    logprobs, mask = row(log(4.0), 0.0, 5.0), row(1.0, 1.0, 0.0)
    terms, _ = policy_terms(logprobs, torch.zeros(1, 3), torch.tensor([-1.0]), mask, variant="gspo")
    assert terms[0, :2].tolist() == pytest.approx([2, 2])


def test_gspo_is_grpo_for_thoughts_of_one_token():
    logprobs, old, advantages, _ = random_batch(64, 1)
    mask = torch.ones(64, 1)
    ours, _ = policy_terms(logprobs, old, advantages, mask, variant="gspo")
    torch.testing.assert_close(ours, policy_terms(logprobs, old, advantages, mask)[0])


def test_averages_by_hand():
    """Thoughts of 1, 0 and 3 tokens, at most 10: the empty one is left out of every average.

    token 1/4 each; sequence 1/2 and 1/6; constant 1/20; vl_norm shares 1/1 and 1/3 of 4/3, so 3/40 and 1/40.
    """
    mask = torch.tensor([[0, 1, 0], [0, 0, 0], [1, 1, 1]])
    expected = {"token": (1 / 4, 1 / 4), "sequence": (1 / 2, 1 / 6)}
    expected |= {"constant": (1 / 20, 1 / 20), "vl_norm": (3 / 40, 1 / 40)}
    assert set(expected) == set(AVERAGES)
    for average, (short, long) in expected.items():
        weights = token_weights(mask, average=average, max_tokens=10)
        torch.testing.assert_close(weights, mask * torch.tensor([[short], [0.0], [long]]))


def test_the_length_exponent_leads_from_constant_to_least_variance():
    *_, mask = random_batch()
    constant = token_weights(mask, average="constant", max_tokens=8)
    torch.testing.assert_close(token_weights(mask, average="vl_norm", max_tokens=8, length_exponent=0.0), constant)
    half = token_weights(mask, average="vl_norm", max_tokens=8, length_exponent=0.5)[:, 0]
    assert half[1] / half[4] == pytest.approx(2, rel=1e-6)


def test_the_loss_is_terms_times_weights():
    logprobs, old, advantages, mask = random_batch()
    options = {"clip_low": 0.1, "clip_high": 0.2, "clip_dual": 2.0, "variant": "gspo"}
    averaging = {"average": "vl_norm", "max_tokens": 7, "length_exponent": 0.5}
    terms, metrics = policy_terms(logprobs, old, advantages, mask, **options)
    weights = token_weights(mask, **averaging)
    loss, same = policy_loss(logprobs, old, advantages, mask, **options, **averaging)
    assert loss == (terms * weights).sum()
    assert same == metrics


def test_metrics_by_hand():
    """p = 1/2, ratios 0.5, 4, 0.5, 2, 4 with A = 1, 1, -1, -1, -1: of the five tokens one is clipped in each way."""
    ratios = row(0.5, 4, 0.5, 2, 4, 9)
    logprobs = torch.full((1, 6), log(0.5))
    advantages, mask = row(1, 1, -1, -1, -1, 1), row(1, 1, 1, 1, 1, 0)
    _, metrics = policy_loss(logprobs, logprobs - ratios.log(), advantages, mask)
    expected = {"entropy": log(2), "kl_to_old": -log(8) / 5}
    shares = {"clipped_low": 0.2, "clipped_high": 0.2, "clipped_dual": 0.2}
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(expected | shares, rel=1e-6)
    _, metrics = policy_loss(logprobs, logprobs - ratios.log(), advantages, mask, variant="cispo")
    shares = {"clipped_low": 0.4, "clipped_high": 0.6}
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(expected | shares, rel=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("average", AVERAGES)
def test_what_is_masked_never_matters(variant, average):
    """nan, inf and huge values under the padding, in advantages too, change neither loss nor gradient nor metrics."""
    logprobs, old, advantages, mask = random_batch()
    options = {"variant": variant, "average": average, "max_tokens": 5}
    results = []
    for junk in (0.0, nan, -inf, 1e30):
        new = logprobs.masked_fill(~mask, junk).requires_grad_()
        wide = advantages[:, None].expand_as(mask).masked_fill(~mask, junk)
        loss, metrics = policy_loss(new, old.masked_fill(~mask, junk), wide, mask, **options)
        results.append((loss.detach(), *torch.autograd.grad(loss, new), metrics))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)
    assert (results[0][1] == 0)[~mask].all()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("shape", [(3, 4), (3, 0), (0, 4)])
def test_a_batch_without_tokens_is_zero_with_a_zero_gradient(variant, average, shape):
    logprobs = torch.full(shape, -inf, requires_grad=True)
    advantages, mask = torch.ones(shape[0]), torch.zeros(shape)
    loss, metrics = policy_loss(
        logprobs, logprobs.detach(), advantages, mask, variant=variant, average=average, max_tokens=5
    )
    loss.backward()
    assert loss.item() == 0
    assert logprobs.grad.tolist() == torch.zeros(shape).tolist()
    assert all(value.item() == 0 for value in metrics.values())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("average", AVERAGES)
def test_splitting_a_batch_changes_nothing(variant, average):
    """Weights of the whole batch, loss in six parts: the same loss and the same gradient."""
    logprobs, old, advantages, mask = random_batch()
    logprobs.requires_grad_()
    whole, _ = policy_loss(logprobs, old, advantages, mask, variant=variant, average=average, max_tokens=5)
    weights = token_weights(mask, average=average, max_tokens=5)
    parts = [
        (weights[i] * policy_terms(logprobs[i], old[i], advantages[i], mask[i], variant=variant)[0]).sum()
        for i in torch.arange(6).split(1)
    ]
    torch.testing.assert_close(sum(parts), whole)
    torch.testing.assert_close(torch.autograd.grad(sum(parts), logprobs), torch.autograd.grad(whole, logprobs))


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_advantage_per_thought_is_one_per_token(variant):
    logprobs, old, advantages, mask = random_batch()
    loss, _ = policy_loss(logprobs, old, advantages, mask, variant=variant)
    wide, _ = policy_loss(logprobs, old, advantages[:, None].expand_as(mask), mask, variant=variant)
    torch.testing.assert_close(loss, wide, rtol=0, atol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_first_update_is_plain_policy_gradient(variant):
    """Where p = p_old every variant has the gradient of -A log p, averaged over the tokens."""
    logprobs, _, advantages, mask = random_batch()
    logprobs.requires_grad_()
    loss, _ = policy_loss(logprobs, logprobs.detach(), advantages, mask, variant=variant)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    torch.testing.assert_close(gradient, -advantages[:, None] * mask / mask.sum())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
@pytest.mark.parametrize("gap", [-1e4, 1e4])
def test_extreme_ratios_stay_finite(variant, advantage, gap):
    logprobs = torch.full((2, 3), -1e4 if gap < 0 else 0.0, requires_grad=True)
    loss, _ = policy_loss(
        logprobs, logprobs.detach() - gap, torch.full((2,), advantage), torch.ones(2, 3), variant=variant
    )
    loss.backward()
    assert loss.isfinite()
    assert logprobs.grad.isfinite().all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16_is_computed_in_float32(variant):
    logprobs, old, advantages, mask = (values.bfloat16() for values in random_batch())
    loss, _ = policy_loss(logprobs, old, advantages, mask, variant=variant)
    exact, _ = policy_loss(logprobs.float(), old.float(), advantages.float(), mask, variant=variant)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0, atol=0)


def test_kl_by_hand():
    """p = 1/2, reference 1/4: d = log 2, exp(-d) - 1 + d = log 2 - 1/2. The other way round d = -log 2, 1 - log 2."""
    logprobs, reference = row(log(1 / 2), log(1 / 4)), row(log(1 / 4), log(1 / 2))
    expected = {
        "low_var": [log(2) - 0.5, 1 - log(2)],
        "kl": [log(2), -log(2)],
        "abs": [log(2), log(2)],
        "mse": [log(2) ** 2 / 2, log(2) ** 2 / 2],
    }
    assert set(expected) == set(ESTIMATORS)
    for estimator, values in expected.items():
        assert kl_divergence(logprobs, reference, estimator=estimator)[0].tolist() == pytest.approx(values, rel=1e-6)
    torch.testing.assert_close(kl_divergence(logprobs, reference), row(*expected["low_var"]))


@pytest.mark.parametrize("estimator", ["low_var", "kl"])
def test_kl_is_unbiased(estimator):
    """Policy 1/2 1/4 1/4 and reference 1/4 1/2 1/4: 1/2 log 2 - 1/4 log 2 = 1/4 log 2, by the formula."""
    policy, reference = row(1 / 2, 1 / 4, 1 / 4), row(1 / 4, 1 / 2, 1 / 4)
    mean = (policy * kl_divergence(policy.log(), reference.log(), estimator=estimator)).sum()
    assert mean.item() == pytest.approx(log(2) / 4, rel=1e-6)


def test_low_variance_kl_is_never_negative_and_pulls_to_the_reference():
    """Its slope is 1 - exp(-d): 0 where the policy is the reference, of the sign of d elsewhere."""
    difference = torch.cat([torch.linspace(-5, 5, 201), torch.linspace(-1e-3, 1e-3, 201)]).requires_grad_()
    kl = kl_divergence(difference, torch.zeros_like(difference))
    kl.sum().backward()
    assert (kl >= 0).all()
    torch.testing.assert_close(difference.grad, 1 - (-difference.detach()).exp(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("gap", [-1e4, 1e4])
def test_extreme_divergences_stay_finite(estimator, gap):
    logprobs = torch.full((1, 2), gap, requires_grad=True)
    kl = kl_divergence(logprobs, torch.zeros(1, 2), estimator=estimator)
    kl.sum().backward()
    assert kl.isfinite().all()
    assert logprobs.grad.isfinite().all()


def test_divergences_of_bfloat16_are_computed_in_float32():
    """-100 and -1/8 are exact in bfloat16, their difference is not: it would be -100."""
    logprobs, reference = row(-100.0).bfloat16(), row(-0.125).bfloat16()
    found = kl_divergence(logprobs, reference, estimator="kl")
    assert (found.dtype, found.item()) == (torch.float32, -99.875)


def test_errors_say_what_to_do():
    logprobs, old, advantages, mask = random_batch()
    with pytest.raises(ValueError, match=r"grpo, gspo, cispo; got 'ppo'"):
        policy_loss(logprobs, old, advantages, mask, variant="ppo")
    with pytest.raises(ValueError, match=r"clip_dual above 1, got 0\.5; pass inf"):
        policy_loss(logprobs, old, advantages, mask, clip_dual=0.5)
    with pytest.raises(ValueError, match=r"max_log_ratio above 0 and at most 20, got 0\.0"):
        policy_loss(logprobs, old, advantages, mask, max_log_ratio=0.0)
    with pytest.raises(ValueError, match=r"advantages \[N\] or \[N, T\], got .*\[6, 5\], \[5\]"):
        policy_loss(logprobs, old, advantages[:5], mask)
    with pytest.raises(ValueError, match=r"token, sequence, constant, vl_norm; got 'mean'"):
        policy_loss(logprobs, old, advantages, mask, average="mean")
    for average in ("constant", "vl_norm"):
        with pytest.raises(ValueError, match=f"max_tokens with average {average}, got None"):
            policy_loss(logprobs, old, advantages, mask, average=average)
    with pytest.raises(ValueError, match=r"low_var, kl, abs, mse; got 'k3'"):
        kl_divergence(logprobs, old, estimator="k3")
