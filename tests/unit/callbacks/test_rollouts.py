import html
import re
import warnings
from types import SimpleNamespace

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugin_util import markdown_to_safe_html
from torch.utils.data import DataLoader

from callbacks.drift import DriftWarning
from callbacks.rollouts import RolloutTexts
from descore.thinking.rollouts import Rollouts
from descore.types import Group, Pair, Side, Thought

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]

NAN = float("nan")
HOSTILE = (
    "# A *red* ball | <img src=x onerror=alert(1)> ![pixel](http://tracker.example/p.png)\n"
    "|---|---|\n"
    "1. [here](javascript:alert(1)) `code` _it_ & &lt; \\* ~~~ </td></tr></table>\n"
    "    <script>alert(1)</script> <http://link.example>"
)


def rollouts(rewards, *, texts=None, parts=None, prompt="A red ball", preference=(1.0,)):
    """Rollouts [V, n] of V / 2 pairs; the last thought of each group is cut.

    Thought i of video v, both counted from 1, has i tokens, the advantage v.i, and the rewards -v.i, -1v.i, -2v.i, ...
    """
    rewards = torch.tensor(rewards, dtype=torch.float64)
    num_videos, n = rewards.shape
    count = torch.arange(1, num_videos + 1)[:, None] + torch.arange(1, n + 1) / 10
    heads = torch.stack([-count - 10 * k for k in range(len(preference))], 2)
    texts = texts or [[f"thought {i} of video {v}" for i in range(1, n + 1)] for v in range(1, num_videos + 1)]
    thoughts = tuple(Thought((7,) * i, closed=i < n) for i in range(1, n + 1))
    pairs = tuple(Pair(f"pair *{m}*", prompt, Side("a"), Side("b"), preference) for m in range(num_videos // 2))
    return Rollouts(
        pairs=pairs,
        preference=torch.tensor([pair.preference for pair in pairs]),
        groups=tuple(Group(thoughts, tuple(said), (), head) for said, head in zip(texts, heads, strict=True)),
        rewards=rewards,
        parts=parts or {"quality": rewards},
        advantages=count.double(),
        old_logprobs=torch.zeros(num_videos, n, 1),
        mask=torch.ones(num_videos, n, 1).bool(),
        prefixes=(),
        seen=None,
    )


class Scripted(LightningModule):
    """Batch i of the run gives `script[i]`, validation the next accuracy; a batch takes two optimizer steps."""

    def __init__(self, script, accuracies=(), *, names=("reward",), metric="val/preference_accuracy", batches=None):
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.model = SimpleNamespace(settings=SimpleNamespace(reward_names=names))
        self.script, self.accuracies, self.metric = script, iter(accuracies), metric
        self.batches = batches or len(script)

    def training_step(self, batch, batch_idx):
        for _ in range(2):
            self.optimizers().step()
        return {"rollouts": self.script[self.trainer.fit_loop.total_batch_idx]}

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_epoch_end(self):
        self.log(self.metric, next(self.accuracies))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters())

    def train_dataloader(self):
        return DataLoader(range(self.batches))

    def val_dataloader(self):
        return DataLoader(range(1))


def trainer(folder, *callbacks, **options):
    options = {"max_epochs": 1, "num_sanity_val_steps": 0, "check_val_every_n_epoch": None} | options
    options.setdefault("logger", TensorBoardLogger(folder, name="run", version=0))
    switches = ("enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return Trainer(accelerator="cpu", callbacks=list(callbacks), **dict.fromkeys(switches, False), **options)


def events(folder):
    return EventAccumulator(str(folder / "run" / "version_0"), size_guidance={"tensors": 0, "scalars": 0}).Reload()


def pages(folder, found, names=("reward",)):
    """Train on one batch, and return what TensorBoard shows, in the order of the tags."""
    trainer(folder, RolloutTexts(num_groups=10), limit_val_batches=0).fit(Scripted([found], names=names))
    shown = events(folder)
    return [
        markdown_to_safe_html(shown.Tensors(f"rollouts/{i}/text_summary")[0].tensor_proto.string_val[0].decode())
        for i in range(len(shown.Tags()["tensors"]))
    ]


def head(page):
    """Label -> what it says above the table, as a browser shows it."""
    found = re.findall(r"<p><strong>(.*?)</strong> (.*?)</p>", page, re.S)
    return {label: html.unescape(value.replace("<br>", "\n")) for label, value in found}


def table(page):
    """The cells of the page's only table, as a browser shows them."""
    (body,) = re.findall(r"<table>(.*)</table>", page, re.S)
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.S)
    cells = [re.findall(r"<t[dh]>(.*?)</t[dh]>", row, re.S) for row in rows]
    return [[html.unescape(cell.replace("<br>", "\n")) for cell in row] for row in cells]


LABELS = ["rollout reward", "quality", "my.__rule__", "advantage", "head's reward", "tokens", "thought"]
CUT = " <strong>(cut)</strong>"


def test_every_thought_is_in_its_row_with_what_it_earned(tmp_path):
    """Two pairs are four videos, A of both and then B of both; they are shown pair by pair."""
    rewards = [[0.11, 0.12], [0.21, 0.22], [0.31, 0.32], [0.41, 0.42]]
    parts = {"quality": torch.tensor(rewards) + 5, "my.__rule__": torch.tensor(rewards) + 6}
    shown = pages(tmp_path, rollouts(rewards, parts=parts))
    videos = {1: "A of pair *0*", 3: "B of pair *0*", 2: "A of pair *1*", 4: "B of pair *1*"}
    for page, (v, name) in zip(shown, videos.items(), strict=True):
        assert head(page) == {"Prompt": "A red ball", "Video": name, "Preferred": "A"}
        assert table(page) == [
            LABELS,
            [f"0.{v}10", f"5.{v}10", f"6.{v}10", f"{v}.100", f"-{v}.100", "1", f"thought 1 of video {v}"],
            [f"0.{v}20", f"5.{v}20", f"6.{v}20", f"{v}.200", f"-{v}.200", f"2{CUT}", f"thought 2 of video {v}"],
        ]


def test_several_rewards_are_shown_by_name(tmp_path):
    found = rollouts([[0.1, 0.2]] * 2, preference=(1.0, -1.0, 0.0, NAN))
    page, _ = pages(tmp_path, found, names=("VQ", "*MQ*", "TA", "all"))
    assert head(page)["Preferred"] == "VQ A, *MQ* B, TA tie, all unusable"
    assert [row[3] for row in table(page)[1:]] == [
        "VQ -1.100, *MQ* -11.100, TA -21.100, all -31.100",
        "VQ -1.200, *MQ* -11.200, TA -21.200, all -31.200",
    ]


def test_what_is_nan_has_failed(tmp_path):
    page, _ = pages(tmp_path, rollouts([[0.5, NAN]] * 2, parts={"quality": torch.tensor([[NAN, 0.25]] * 2)}))
    failed = "<strong>failed</strong>"
    assert [row[:2] for row in table(page)[1:]] == [["0.500", failed], [failed, "0.250"]]


def test_hostile_texts_are_shown_as_they_are_written(tmp_path):
    texts = [[HOSTILE, "|"], ["", HOSTILE]]
    for page, said in zip(pages(tmp_path, rollouts([[0, 1]] * 2, texts=texts, prompt=HOSTILE)), texts, strict=True):
        elements = ("p", "strong", "br", "table", "thead", "tbody", "tr", "th", "td")
        assert set(re.findall(r"<[^>]*>", page)) <= {f"<{end}{name}>" for name in elements for end in ("", "/")}
        assert head(page)["Prompt"] == HOSTILE
        assert [len(row) for row in table(page)] == [6, 6, 6]
        assert [row[-1] for row in table(page)[1:]] == said


def test_batches_are_counted_over_epochs(tmp_path):
    """Two epochs of three batches: the first, third and fifth are shown, each after its two optimizer steps."""
    script = [rollouts([[index / 10] * 2] * 4) for index in range(6)]
    run = trainer(tmp_path, RolloutTexts(every_n_batches=2), limit_val_batches=0, max_epochs=2)
    run.fit(Scripted(script, batches=3))
    assert events(tmp_path).Tags()["tensors"] == [f"rollouts/{i}/text_summary" for i in range(2)]
    shown = events(tmp_path).Tensors("rollouts/1/text_summary")
    assert [event.step for event in shown] == [2, 6, 10]
    texts = [event.tensor_proto.string_val[0].decode() for event in shown]
    rewards = [re.findall(r"^\| (\d\.\d+)", text, re.M) for text in texts]
    assert rewards == [["0.000", "0.000"], ["0.200", "0.200"], ["0.400", "0.400"]]


@pytest.mark.parametrize("first", [True, False])
def test_only_the_first_device_writes_texts(tmp_path, first):
    run = SimpleNamespace(
        is_global_zero=first,
        sanity_checking=False,
        loggers=[TensorBoardLogger(tmp_path, name="run", version=0)],
        fit_loop=SimpleNamespace(total_batch_idx=0),
        global_step=1,
    )
    script = [rollouts([[0.5, 0.5]] * 2)]
    RolloutTexts().on_train_batch_end(run, Scripted(script), {"rollouts": script[0]}, None, 0)
    assert len(list(tmp_path.rglob("events*"))) == first


def test_texts_need_a_tensorboard_logger(tmp_path):
    run = trainer(tmp_path, RolloutTexts(), logger=CSVLogger(tmp_path))
    with pytest.raises(ValueError, match=r"TensorBoardLogger, got CSVLogger: set trainer\.logger"):
        run.fit(Scripted([]))
    trainer(tmp_path, RolloutTexts(), fast_dev_run=True).fit(Scripted([rollouts([[0.5, 0.5]] * 2)], [0.5]))


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
        "reward rose from 0.400 to 0.430; raise model.calibration_weight, lower model.learning_rates, or stop and take "
        "export/best"
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
