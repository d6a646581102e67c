"""The warning that accuracy falls while the reward of the rollouts rises."""

import re
import warnings

import pytest
import torch

from callbacks.drift import DriftWarning
from tests.helpers.scripted import NAN, Scripted, events, rollouts, trainer


def even(rewards):
    """One batch per reward, whose thoughts all got it."""
    return [rollouts([[reward, reward]] * 2) for reward in rewards]


def warned(run, system, **options):
    """Fit, and return the warnings of drift."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        run.fit(system, **options)
    return [str(warning.message) for warning in found if "drift" in str(warning.message)]


def scalars(folder, tag):
    return [(event.step, event.value) for event in events(folder).Scalars(tag)]


@pytest.mark.parametrize(
    ("accuracies", "rewards", "expected"),
    [
        pytest.param([0.75, 0.5], [0.25, 0.5], [2], id="falls while it rises"),
        pytest.param([0.5, 0.75], [0.25, 0.5], [], id="both rise"),
        pytest.param([0.75, 0.5], [0.5, 0.25], [], id="both fall"),
        pytest.param([0.75, 0.625], [0.25, 0.5], [], id="a drop of the tolerance"),
        pytest.param([0.75, 0.5], [0.25, 0.375], [], id="a rise of the threshold"),
        pytest.param([0.75, 0.6875, 0.5625], [0.25, 0.5, 0.5], [3], id="the best counts, not the last"),
        pytest.param([0.875, 0.6875, 0.5625, 0.5], [0, 0.5, 0.5, 0.5], [2, 4], id="again after another tolerance"),
        pytest.param([0.75, 0.5, 0.875, 0.6875], [0, 0.25, 0.25, 0.5], [2, 4], id="a new best starts over"),
        pytest.param([0.75, 0.75, 0.5], [0.25, 0.5, 0.5], [3], id="the first of equal ones is the best"),
    ],
)
def test_the_warning_fires_exactly_when_accuracy_falls_while_the_reward_rises(tmp_path, accuracies, rewards, expected):
    """Tolerance and rise are 1/8; validation follows every batch, which is two steps."""
    run = trainer(tmp_path, DriftWarning(tolerance=0.125, rise=0.125), val_check_interval=1, logger=False)
    found = warned(run, Scripted(even(rewards), accuracies))
    assert [int(re.search(r"to \S+ at step (\d+)", message).group(1)) for message in found] == [2 * k for k in expected]


def test_the_warning_says_what_fell_what_rose_and_what_to_do(tmp_path):
    run = trainer(tmp_path, DriftWarning(tolerance=0.02), val_check_interval=1, logger=False)
    assert warned(run, Scripted(even([0.4, 0.43]), [0.8, 0.775])) == [
        "the head drifts: val/preference_accuracy fell from 0.800 at step 2 to 0.775 at step 4, while the rollout "
        "reward rose from 0.400 to 0.430; raise --model.weights.calibration, lower "
        "--model.optimization.learning_rates, or stop and take export/best"
    ]


def test_the_reward_is_the_mean_over_the_thoughts_since_the_last_validation(tmp_path):
    """(0 + 0.1 + 0.2 + 0.3 + 0.9) / 5 = 0.3 over two batches whose own means are 0.15 and 0.9; then 0.5 and 0.7."""
    script = [rollouts([[0, 0.1], [0.2, 0.3]]), rollouts([[NAN, NAN], [0.9, NAN]]), *even([0.5, 0.7])]
    run = trainer(tmp_path, DriftWarning(), val_check_interval=2, logger=False)
    (message,) = warned(run, Scripted(script, [0.8, 0.7]))
    assert "rose from 0.300 to 0.600;" in message


def test_the_reward_is_that_of_all_devices(tmp_path, monkeypatch):
    """Four thoughts here have 0, six of another device 0.5 and then 0.9: 3 / 10 and 5.4 / 10."""
    run, others = trainer(tmp_path, DriftWarning(), val_check_interval=1, logger=False), iter([3.0, 5.4])

    def reduce(tensor, *, reduce_op):
        assert reduce_op == "sum"
        return tensor + torch.tensor([next(others), 6]) if tensor.shape == (2,) else tensor

    monkeypatch.setattr(run.strategy, "reduce", reduce)
    (message,) = warned(run, Scripted(even([0, 0]), [0.8, 0.7]))
    assert "rose from 0.300 to 0.540;" in message


def test_the_drop_is_logged_where_the_accuracy_is(tmp_path):
    accuracies = [0.75, 0.5, 0.625, 0.875, 0.75]
    run = trainer(tmp_path, DriftWarning(), val_check_interval=2)
    run.fit(Scripted(even([0.5] * 10), accuracies))
    steps, values = zip(*scalars(tmp_path, "val/accuracy_drop"), strict=True)
    assert values == (0, 0.25, 0.125, 0, 0.125)
    assert [*zip(steps, accuracies, strict=True)] == scalars(tmp_path, "val/preference_accuracy")


def test_validation_outside_of_training_is_ignored(tmp_path):
    """The sanity check sees 1, training 0.75 and 0.5, a validation of its own 0: the drop is 1/4, and logged twice."""
    run = trainer(tmp_path, DriftWarning(), val_check_interval=1, num_sanity_val_steps=1)
    system = Scripted(even([0.5, 0.5]), [1, 0.75, 0.5, 0])
    run.fit(system)
    run.validate(system, verbose=False)
    assert [value for _, value in scalars(tmp_path, "val/accuracy_drop")] == [0, 0.25]


def test_a_resumed_run_warns_as_one_that_never_stopped(tmp_path):
    """Validation follows every second batch; the run stops after the third or fifth, in the middle of a mean."""
    rewards, accuracies = [0.1, 0.3, 0.3, 0.5, 0.5, 0.7, 0.6, 0.8], [0.8, 0.7, 0.69, 0.6]

    def run(max_batches, number, checkpoint=None):
        options = {"max_steps": 2 * max_batches, "max_epochs": -1, "val_check_interval": 2, "logger": False}
        fit = trainer(tmp_path, DriftWarning(), **options)
        system = Scripted(even(rewards), accuracies[number:], batches=100)
        messages = warned(fit, system, ckpt_path=checkpoint, weights_only=True)
        fit.save_checkpoint(tmp_path / f"{max_batches}.ckpt")
        return messages

    whole = run(8, 0)
    assert [re.findall(r"\d\.\d+", message) for message in whole] == [
        ["0.800", "0.700", "0.200", "0.400"],
        ["0.800", "0.600", "0.200", "0.700"],
    ]
    parts = [run(3, 0), run(5, 1, tmp_path / "3.ckpt"), run(8, 2, tmp_path / "5.ckpt")]
    assert parts == [[], whole[:1], whole[1:]]


def test_any_accuracy_can_be_watched(tmp_path):
    metric = "val/ood/preference_accuracy"
    run = trainer(tmp_path, DriftWarning(monitor=metric), val_check_interval=1, logger=False)
    (message,) = warned(run, Scripted(even([0.1, 0.5]), [0.8, 0.7], metric=metric))
    assert f"{metric} fell" in message
    run = trainer(tmp_path, DriftWarning(), val_check_interval=1, logger=False)
    with pytest.raises(
        ValueError, match=r"'val/preference_accuracy', but validation logged \['val/ood/pref.*set its monitor"
    ):
        run.fit(Scripted(even([0.1]), [0.8], metric=metric))
