"""A logger as MLflow's and Weights & Biases' are: numbers alone, runs named by an id, and no folder of its own."""

from typing import Any

from lightning.pytorch.loggers import Logger


class RemoteLogger(Logger):
    """Counts what it is given.

    Args:
        save_dir: Folder of all runs.
        name: Name of the run.
    """

    def __init__(self, save_dir: str, name: str = "run") -> None:
        super().__init__()
        self._save_dir, self._name = save_dir, name
        self.num_logged = 0

    @property
    def save_dir(self) -> str:
        return self._save_dir

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return "a1b2c3"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.num_logged += all(isinstance(value, float | int) for value in metrics.values())

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass
