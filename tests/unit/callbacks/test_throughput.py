"""What a run is said to process each second, by a clock that moves only when it is told to."""

from collections import deque

import pytest
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.profilers import SimpleProfiler

from callbacks.throughput import FETCH, Throughput, _rates, _Timing
from descore.modules.cold_start import ColdStartModule
from tests.helpers.fitting import data, events, system, trainer


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


def test_rates_are_those_of_all_devices():
    """Ten pairs and 500 tokens in 5 s on each of four devices, 2 s of which they wait."""
    batches = deque([_Timing(2.0, 0.5, 4, 100), _Timing(3.0, 1.5, 6, 400)])
    expected = {"train/pairs_per_second": 8, "train/tokens_per_second": 400, "train/wait_share": 0.4, "time/wait": 1}
    assert _rates(batches, world_size=4) == expected


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
