import html
import io
import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.profilers import SimpleProfiler
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugin_util import markdown_to_safe_html

from callbacks.export import ExportModel
from callbacks.progress import CompactProgressBar
from callbacks.samples import Samples, image_grid
from callbacks.tensorboard import escape
from callbacks.throughput import FETCH, Throughput
from data_modules.preference import PreferencePairDataModule
from data_modules.world.rendering import RenderSettings, render_split
from descore.answer import Answer, write_thought
from descore.modules.cold_start import ColdStartModule
from descore.modules.options import Optimization
from descore.types import DIMENSIONS, Frames, Group, Thought
from descore.video.settings import VideoSettings

TEMPLATE = Path(__file__).parents[3] / "conf" / "prompts" / "rendered.txt"
HOSTILE = (
    "# A *red* ball | <img src=x onerror=alert(1)> ![pixel](http://tracker.example/p.png)\n"
    "1. [here](javascript:alert(1)) `code` _it_ & &lt; \\* ~~~\n"
    "    <script>alert(1)</script> <http://link.example>"
)


@pytest.fixture(scope="module")
def world(backbones, tmp_path_factory):
    """A tiny backbone, twelve training pairs, and two validation tables of three; the first prompt is hostile."""
    root = tmp_path_factory.mktemp("world")
    (root / "backbone").symlink_to(backbones["qwen3_vl"])
    for split, num_pairs in (("train", 12), ("val", 3), ("ood", 3)):
        table = render_split(root, split, num_pairs, RenderSettings(size=48, num_frames=4), 0)
        first, *rest = table.read_text().splitlines()
        table.write_text("\n".join([json.dumps(json.loads(first) | {"prompt": HOSTILE}), *rest]))
    return root


def data(world):
    tables = {name: str(world / name / "pairs.jsonl") for name in ("train", "val", "ood")}
    return PreferencePairDataModule(tables.pop("train"), tables, batch_size=2, val_batch_size=2, num_workers=0)


def system(world, kind=ColdStartModule, **options):
    return kind(
        backbone=str(world / "backbone"),
        template=str(TEMPLATE),
        video=VideoSettings(min_frames=2, max_frames=2, min_pixels=1024, max_pixels=1024),
        max_thought_tokens=4,
        optimization=Optimization({"query": 1e-3, "head": 1e-3}),
        **options,
    )


def trainer(folder, *callbacks, **options):
    options = {"max_epochs": 1, "num_sanity_val_steps": 0, "enable_checkpointing": False} | options
    options.setdefault("logger", TensorBoardLogger(folder, name="run"))
    if not any(isinstance(callback, CompactProgressBar) for callback in callbacks):
        options["enable_progress_bar"] = False
    return Trainer(accelerator="cpu", enable_model_summary=False, callbacks=list(callbacks), **options)


def events(folder):
    found = EventAccumulator(str(folder / "run" / "version_0"), size_guidance={"tensors": 0, "images": 0})
    return found.Reload()


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self):
        self.now = 0.0
        self.num_tokens = []

    def perf_counter(self):
        return self.now

    def during(self, **seconds):
        """A callback whose hooks take this long."""

        def hook(amount):
            def take(*_):
                self.now += amount

            return take

        return type("During", (Callback,), {name: hook(amount) for name, amount in seconds.items()})()

    def system(self):
        """Loading takes a second, training on batch 0, 1, 2, ... 1, 2, 3, ... seconds, validating a batch a hundred."""
        clock = self

        class Timed(ColdStartModule):
            def collator(self, *, training, read):
                collate = super().collator(training=training, read=read)

                class Slow(type(collate)):
                    def __call__(self, *batch):
                        clock.now += training
                        return super().__call__(*batch)

                collate.__class__ = Slow
                return collate

            def training_step(self, batch, batch_idx):
                clock.now += batch_idx + 1
                clock.num_tokens.append(batch.branches.layout.num_tokens)
                return super().training_step(batch, batch_idx)

            def validation_step(self, *args):
                clock.now += 100
                return super().validation_step(*args)

        return Timed


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("callbacks.throughput.time", clock)
    return clock


def scalars(folder, name):
    return [event.value for event in events(folder).Scalars(f"train/{name}")]


NO_VALIDATION = {"limit_val_batches": 0, "log_every_n_steps": 2}


def test_throughput_is_that_of_the_last_batches(world, tmp_path, clock):
    """Batches 1 to 5 take 3, 4, 5, 6 and 7 seconds, one of them in the loader; batch 0 has no beginning.

    Logged after batches 1, 3 and 5 over two batches: 3, 4 + 5 and 6 + 7 seconds.
    """
    profiler = SimpleProfiler()
    run = trainer(tmp_path, Throughput(), profiler=profiler, **NO_VALIDATION)
    run.fit(system(world, clock.system()), data(world))
    assert scalars(tmp_path, "wait_share") == pytest.approx([1 / 3, 2 / 9, 2 / 13])
    assert scalars(tmp_path, "pairs_per_second") == pytest.approx([2 / 3, 4 / 9, 4 / 13])
    _, b, c, d, e, f = clock.num_tokens
    assert scalars(tmp_path, "tokens_per_second") == pytest.approx([b / 3, (c + d) / 9, (e + f) / 13])
    assert run.profiler is profiler
    assert len(profiler.recorded_durations[FETCH]) == 6


def test_what_other_callbacks_take_is_time_but_no_wait(world, tmp_path, clock):
    """Ten seconds more for each batch: 3 + 10, 4 + 5 + 20 and 6 + 7 + 20."""
    before, after = clock.during(on_train_batch_start=4.0), clock.during(on_train_batch_end=6.0)
    run = trainer(tmp_path, before, Throughput(), after, **NO_VALIDATION)
    run.fit(system(world, clock.system()), data(world))
    assert scalars(tmp_path, "wait_share") == pytest.approx([1 / 13, 2 / 29, 2 / 33])


def test_a_batch_that_is_validated_or_saved_in_is_left_out_with_its_time(world, tmp_path, clock):
    """Validation follows batch 2 and saving batch 4, so batches 3 and 5 are left out: 3, 4 and 4 + 6 seconds remain."""
    saving = ModelCheckpoint(tmp_path / "saved", every_n_train_steps=5, save_top_k=-1)
    around = clock.during(on_validation_start=10.0, on_validation_end=10.0, on_save_checkpoint=1000.0)
    trainer(
        tmp_path, Throughput(), around, saving, log_every_n_steps=2, val_check_interval=3, enable_checkpointing=True
    ).fit(system(world, clock.system(), own_thought_pairs=0), data(world))
    assert clock.now > 1000 + 400
    assert scalars(tmp_path, "wait_share") == pytest.approx([1 / 3, 2 / 7, 2 / 10])
    assert scalars(tmp_path, "pairs_per_second") == pytest.approx([2 / 3, 4 / 7, 4 / 10])


SHOWN = Answer({"subject": 2, "dynamics": 1, "camera": None, "environment": 0, "style": 2}, 2.5)


@pytest.fixture(scope="module")
def shown(world, tmp_path_factory):
    """One validation at step 2, where the model thinks about the first batch of each table: A well, B not at all."""

    def think(model, branches):
        texts = [write_thought("I see *stars*", SHOWN)] * 2 + ["no <answer>"] * 2
        zeros = torch.zeros(1, 1)
        return [Group((Thought((7,), closed=text[0] == "<"),), (text,), (), zeros) for text in texts]

    folder = tmp_path_factory.mktemp("shown")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("descore.modules.validation.think", think)
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


@pytest.mark.parametrize(
    "text", [HOSTILE, "a|b", "```\nx\n```", "[a]: http://b.example", "- x\r\n- y", "***", "~~~\n~~~"]
)
def test_escaped_text_adds_nothing_to_the_page(text):
    page = markdown_to_safe_html(f"| | A |\n|---|---|\n| label | {escape(text)} |")
    (cell,) = re.findall(r"<td>label</td>\s*<td>(.*)</td>", page)
    assert html.unescape(cell.replace("<br>", "\n")).strip() == "\n".join(text.splitlines())


def test_histograms_hold_every_reward_and_the_decided_margins(world, shown):
    (rewards,), (margins,) = (shown.events.Histograms(f"samples/val/{kind}") for kind in ("rewards", "margins"))
    rows = map(json.loads, (world / "val" / "pairs.jsonl").read_text().splitlines())
    assert rewards.step == margins.step == 2
    assert rewards.histogram_value.num == 2 * 3
    num_decided = sum(row["preference"] != "tie" for row in rows)
    assert margins.histogram_value.num == num_decided
    mean = margins.histogram_value.sum / num_decided
    assert mean == pytest.approx(shown.metrics["val/reward_margin"].item(), rel=1e-4)


def test_images_show_a_above_b(shown):
    """Two frames of 32 x 32 for each video, and a gap of 2 after each."""
    (image,) = shown.events.Images("samples/val/frames/0")
    assert (image.width, image.height, image.step) == (2 * 34, 2 * 34, 2)


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


def test_samples_need_a_tensorboard_logger(world, tmp_path):
    run = trainer(tmp_path, Samples(), logger=CSVLogger(tmp_path))
    with pytest.raises(ValueError, match=r"TensorBoardLogger, got CSVLogger: set trainer\.logger"):
        run.fit(system(world), data(world))
    trainer(tmp_path, Samples(), Throughput(), fast_dev_run=True).fit(system(world), data(world))


def test_the_progress_bar_is_one_line_with_the_headline(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    bar, seen = CompactProgressBar(), []

    class Spy(Callback):
        def on_validation_batch_end(self, *_):
            task = bar.val_progress_bar
            seen.append((task.visible, task.completed, task.total))

    run = trainer(tmp_path, bar, Spy(), max_epochs=-1, max_steps=2, val_check_interval=2)
    run.fit(system(world, own_thought_pairs=0), data(world))
    assert seen == [(True, 1, 2), (True, 2, 2)] * 2
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "Epoch" in line]
    assert re.search(r"^Epoch 0 .* 2/2 .* accuracy: \d\.\d{3} loss: \d\.\d{3} val accuracy: \d\.\d{3}$", line.strip())


def test_messages_go_where_standard_error_is_now(monkeypatch):
    """Drawing a bar replaces standard error; a message that passes it by would leave a copy of the bar behind."""
    logger, old, new = logging.getLogger("lightning.pytorch"), io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(old)
    monkeypatch.setattr(logger, "handlers", [handler])
    CompactProgressBar().setup(SimpleNamespace(is_global_zero=True), None, "fit")
    monkeypatch.setattr("sys.stderr", new)
    logger.warning("hello")
    assert (old.getvalue(), new.getvalue()) == ("", "hello\n")


def test_an_export_knows_mean_and_spread_of_every_reward_across_a_resume(build, tmp_path):
    model = build(reward_names=("motion", "look"))
    metrics = {"val/reward_mean/motion": 1.0, "val/reward_std/motion": 2.0}
    metrics |= {"val/reward_mean/look": 3.0, "val/reward_std/look": 4.0}
    strategy = SimpleNamespace(barrier=lambda _: None)
    trainer = SimpleNamespace(callback_metrics=metrics, is_global_zero=True, log_dir=None, strategy=strategy)
    trainer.sanity_checking = False
    module = SimpleNamespace(full_model=lambda: model, model=model)
    before = ExportModel()
    before.on_validation_end(trainer, module)
    after = ExportModel(folder=str(tmp_path))
    after.load_state_dict(before.state_dict())
    after.on_train_end(trainer, module)
    assert json.loads((tmp_path / "last/descore.json").read_text())["calibration"] == {"mean": [1, 3], "std": [2, 4]}
