"""The rollouts that TensorBoard shows, thought by thought."""

import html
import re
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.plugin_util import markdown_to_safe_html

from callbacks.rollouts import RolloutTexts
from tests.helpers.scripted import NAN, Scripted, events, rollouts, trainer

HOSTILE = (
    "# A *red* ball | <img src=x onerror=alert(1)> ![pixel](http://tracker.example/p.png)\n"
    "|---|---|\n"
    "1. [here](javascript:alert(1)) `code` _it_ & &lt; \\* ~~~ </td></tr></table>\n"
    "    <script>alert(1)</script> <http://link.example>"
)


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


def test_a_run_without_a_logger_is_told_that_thoughts_are_left_out(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("callbacks.tensorboard.rank_zero_info", said.append)
    trainer(tmp_path, RolloutTexts(), logger=False).fit(Scripted([rollouts([[0.5, 0.5]] * 2)], [0.5]))
    assert [line[:59] for line in said] == ["This run has no logger, which cannot show sampled thoughts:"]
    trainer(tmp_path, RolloutTexts(), fast_dev_run=True).fit(Scripted([rollouts([[0.5, 0.5]] * 2)], [0.5]))
