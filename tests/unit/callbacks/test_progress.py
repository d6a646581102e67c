"""The progress bar, and messages beside it."""

import io
import logging
import re
from types import SimpleNamespace

from lightning import Callback

from callbacks.progress import CompactProgressBar
from tests.helpers.fitting import data, system, trainer


def test_the_progress_bar_is_one_line_with_the_headline(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("callbacks.progress.on_terminal", lambda: True)
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


def test_a_log_file_stays_one(monkeypatch, tmp_path):
    logger, handler = logging.getLogger("lightning.pytorch"), logging.FileHandler(tmp_path / "train.log")
    monkeypatch.setattr(logger, "handlers", [handler])
    CompactProgressBar().setup(SimpleNamespace(is_global_zero=True), None, "fit")
    logger.warning("hello")
    handler.close()
    assert (tmp_path / "train.log").read_text() == "hello\n"
