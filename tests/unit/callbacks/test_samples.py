"""The pairs that TensorBoard shows after a validation."""

import html
import json
import re
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from tensorboard.plugin_util import markdown_to_safe_html

from callbacks import samples
from callbacks.samples import FONT_SIZE, MIN_WIDTH, Samples, _captions, caption, image_grid
from callbacks.throughput import Throughput
from descore.answer import Answer, write_thought
from descore.types import DIMENSIONS, Frames, Group, Thought
from tests.helpers.fitting import HOSTILE, data, events, system, trainer

SHOWN = Answer({"subject": 2, "dynamics": 1, "camera": None, "environment": 0, "style": 2}, 2.5)


@pytest.fixture(scope="module")
def shown(world, tmp_path_factory):
    """One validation at step 2, where the model thinks about the first batch of each table: A well, B not at all."""

    def think(model, batch):
        texts = [write_thought("I see *stars*", SHOWN)] * 2 + ["no <answer>"] * 2
        zeros = torch.zeros(1, 1)
        return [Group((Thought((7,), closed=text[0] == "<"),), (text,), (), zeros) for text in texts]

    folder = tmp_path_factory.mktemp("shown")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("descore.modules.validation.think_about_pairs", think)
        run = trainer(folder, Samples(num_pairs=3, num_frames=2), max_steps=2, val_check_interval=2)
        run.fit(system(world, own_thought_pairs=2), data(world))
    return SimpleNamespace(events=events(folder), metrics=run.callback_metrics)


def markdown(shown, tag):
    (event,) = shown.events.Tensors(f"{tag}/text_summary")
    assert event.step == 2
    return event.tensor_proto.string_val[0].decode()


def cells(page):
    """Label -> cells of A and B, as a browser shows them."""
    rows = re.findall(r"<tr>\s*<t[dh]>(.*?)</t[dh]>\s*<t[dh]>(.*?)</t[dh]>\s*<t[dh]>(.*?)</t[dh]>\s*</tr>", page, re.S)
    return {html.unescape(label): (html.unescape(a), html.unescape(b)) for label, a, b in rows}


def test_samples_write_each_table_under_its_name(shown):
    tables, places = ("val", "ood"), range(3)
    tags = shown.events.Tags()
    assert set(tags["tensors"]) == {f"samples/{table}/text/{i}/text_summary" for table in tables for i in places}
    assert set(tags["images"]) == {f"samples/{table}/frames/{i}" for table in tables for i in places}
    assert set(tags["histograms"]) == {f"samples/{table}/{kind}" for table in tables for kind in ("rewards", "margins")}


def test_a_pair_is_shown_with_its_thoughts_and_scores(world, shown):
    row = json.loads((world / "val" / "pairs.jsonl").read_text().splitlines()[1])
    page = markdown_to_safe_html(markdown(shown, "samples/val/text/1"))
    assert f"<p><strong>Preferred</strong> {row['preference']}</p>" in page
    table = cells(page)
    assert table[row["id"]] == ("A", "B")
    assert table["teacher's thought"] == tuple(row[f"cot_{side}"].replace("\n", "<br>") for side in "ab")
    assert table["own thought"] == (
        write_thought("I see *stars*", SHOWN),
        "no <answer> <strong>(cut)</strong>",
    )
    assert table["reward, own thought"] == ("0.000", "0.000")
    for name, own in zip(DIMENSIONS, ("2", "1", "N/A", "0", "2"), strict=True):
        annotated = [row[f"scores_{side}"][name] for side in "ab"]
        assert table[f"{name}, own thought / annotated"] == (f"{own} / {annotated[0]}", f"? / {annotated[1]}")


def test_a_pair_the_model_did_not_think_about_has_no_thought_of_its_own(shown):
    table = cells(markdown_to_safe_html(markdown(shown, "samples/val/text/2")))
    assert "own thought" not in table
    assert {"reward, teacher's thought", "reward, no thought"} <= set(table)
    assert "reward, own thought" not in table


def test_a_hostile_prompt_is_shown_as_it_is_written(shown):
    page = markdown_to_safe_html(markdown(shown, "samples/val/text/0"))
    prompt = re.search(r"<p><strong>Prompt</strong> (.*?)</p>", page, re.S).group(1)
    assert set(re.findall(r"<[^>]*>", prompt)) == {"<br>"}
    assert html.unescape(prompt.replace("<br>", "\n")) == HOSTILE


def test_histograms_hold_the_rewards_of_the_headline_and_the_decided_margins(world, shown):
    """Those of the two pairs that the model thought about."""
    (rewards,), (margins,) = (shown.events.Histograms(f"samples/val/{kind}") for kind in ("rewards", "margins"))
    rows = map(json.loads, (world / "val" / "pairs.jsonl").read_text().splitlines())
    assert rewards.step == margins.step == 2
    assert rewards.histogram_value.num == 2 * 2
    num_decided = sum(row["preference"] != "tie" for row in [*rows][:2])
    assert margins.histogram_value.num == num_decided
    mean = margins.histogram_value.sum / num_decided
    assert mean == pytest.approx(shown.metrics["val/reward_margin"].item(), rel=1e-4)


def test_histograms_by_hand(monkeypatch):
    """A has 1, 5 and 2, B has 3, 1 and 2; B, A and neither is preferred: by 2 and by 4."""
    written = {}
    writer = SimpleNamespace(add_histogram=lambda tag, values, step: written.update({tag: values.tolist()}))
    monkeypatch.setattr(samples, "tensorboard_writer", lambda trainer: writer)
    run = SimpleNamespace(datamodule=SimpleNamespace(val_names=("val", "ood")), global_step=2)
    settings = SimpleNamespace(reward_names=("overall",), is_pairwise=False)
    module = SimpleNamespace(headline="no_thought", model=SimpleNamespace(settings=settings))
    rewards = torch.tensor([[[1.0], [5.0], [2.0]], [[3.0], [1.0], [2.0]]])
    batch = SimpleNamespace(pairs=range(3), preference=torch.tensor([[-1.0], [1.0], [0.0]]))
    callback = Samples(num_pairs=0)
    callback.on_validation_start(run, module)
    outputs = {"rewards": {"no_thought": rewards, "teacher_thought": 9 * rewards}}
    callback.on_validation_batch_end(run, module, outputs, batch, 0, 1)
    callback.on_validation_end(run, module)
    assert written == {"samples/ood/rewards": [1, 5, 2, 3, 1, 2], "samples/ood/margins": [2, 4]}


def test_images_show_a_above_b(shown):
    """Two frames of 32 x 32 for each video, a gap of 2 after each, and the text above them."""
    (image,) = shown.events.Images("samples/val/frames/0")
    assert (image.width, image.step) == (MIN_WIDTH, 2)
    assert image.height > 2 * 34 + 3 * FONT_SIZE


def test_a_caption_stands_above_the_grid_and_nothing_of_the_grid_changes():
    grid = torch.full((3, 6, MIN_WIDTH + 4), 7, dtype=torch.uint8)
    one, two = caption(grid, "a cat"), caption(grid, "a cat " * 50, "preferred: A")
    assert torch.equal(one[:, -6:], grid)
    assert (one[:, :-6] < 128).any()  # letters
    assert one.shape[2] == two.shape[2] == MIN_WIDTH + 4
    assert two.shape[1] > 3 * (one.shape[1] - 6)


def test_captions_carry_prompt_preference_and_rewards():
    pair = SimpleNamespace(prompt="a cat", preference=(-1.0,))
    rewards = {"own_thought": torch.tensor([[[1.0]], [[2.5]]])}
    found = _captions(SimpleNamespace(pairs=[pair]), {"rewards": rewards}, 0, "own_thought", ["overall"])
    assert found == ("a cat", "preferred: B", "A above: reward 1.000. B below: reward 2.500 (own thought)")


def frames(*values, height, width):
    pixels = torch.stack([torch.full((3, height, width), value, dtype=torch.uint8) for value in values])
    return Frames(pixels, tuple(range(len(values))), 8.0, len(values))


def test_image_grid_puts_evenly_spread_frames_of_any_size_in_two_rows():
    """Of five frames three are shown, the first, the middle and the last; B is shrunk from 8 x 16 to 4 x 8."""
    a, b = frames(0, 10, 20, 30, 40, height=4, width=6), frames(50, 60, height=8, width=16)
    grid = image_grid(a, b, num_frames=3, max_height=4)
    assert grid.dtype == torch.uint8
    assert grid.shape == (3, (4 + 2) + (4 + 2), 3 * (6 + 2))
    above, below = grid[0, :6], grid[0, 6:]
    assert above[0].tolist() == [0] * 6 + [255] * 2 + [20] * 6 + [255] * 2 + [40] * 6 + [255] * 2
    assert below[3].tolist() == [50] * 8 + [255] * 2 + [60] * 8 + [255] * 6
    assert (grid[:, [4, 5, 10, 11]] == 255).all()


def test_samples_say_nothing_in_the_sanity_check(world, tmp_path):
    run = trainer(tmp_path, Samples(), max_steps=1, num_sanity_val_steps=-1, val_check_interval=6)
    run.fit(system(world, own_thought_pairs=0), data(world))
    assert not any(tag.startswith("samples/") for tags in events(tmp_path).Tags().values() if tags for tag in tags)


def test_another_logger_is_told_once_that_pairs_are_left_out(world, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("callbacks.tensorboard.rank_zero_info", said.append)
    run = trainer(tmp_path, Samples(), logger=CSVLogger(tmp_path), max_steps=2, val_check_interval=1)
    run.fit(system(world), data(world))
    assert said == [
        "This run has CSVLogger, which cannot show sampled pairs: they are left out; TensorBoard shows them"
    ]
    trainer(tmp_path, Samples(), Throughput(), fast_dev_run=True).fit(system(world), data(world))
    assert len(said) == 1
