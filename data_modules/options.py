"""Options of the data modules, in groups that LightningCLI nests: `--data.cache.folder /local/descore`."""

from __future__ import annotations

from dataclasses import dataclass

from data_modules.bad_videos import OnBadVideo
from descore.tables.pairs import OnBadRow


@dataclass(frozen=True)
class OnBad:
    """What becomes of rows and videos that cannot be used.

    Attributes:
        row: "error" stops the run at the first bad row of a table; "skip" counts bad rows and leaves them out.
        video: "error" stops the run at a video that cannot be read; "skip" takes its pair out of the batch; "replace"
            puts another pair in its place. Each bad video is reported once and listed in the run's bad_videos.jsonl.
        video_budget: Share of the videos read that may be bad before the run fails.
    """

    row: OnBadRow = "error"
    video: OnBadVideo = "skip"
    video_budget: float = 0.01


@dataclass(frozen=True)
class Cache:
    """What a local disk keeps for other epochs and runs.

    Attributes:
        folder: Folder on a local disk for decoded frames and for tables in shards. None keeps no frames, and keeps
            tables in shards in the cache of the package `datasets`.
        max_gb: GiB that the frames may take; the least recently used frames are removed.
    """

    folder: str | None = None
    max_gb: float = 100.0


@dataclass(frozen=True)
class Decoding:
    """How far the workers of each rank decode ahead.

    Attributes:
        ahead_gb: GiB that the batches of the workers may take, for training and for validation each. Fewer workers
            decode where batches of the longest and largest videos would take more.
        timeout: Seconds to wait for a batch of a worker before the run fails.
    """

    ahead_gb: float = 16.0
    timeout: float = 300.0
