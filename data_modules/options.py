"""Options of the data modules, in groups that LightningCLI nests: `--data.cache.folder /local/descore`."""

from __future__ import annotations

from dataclasses import dataclass

from data_modules.bad_videos import OnBadVideo
from descore.tables.pairs import OnBadRow


@dataclass(frozen=True)
class OnBad:
    """What happens to rows and videos that cannot be used.

    Attributes:
        row: "error" stops the run at the first bad row of a table; "skip" counts bad rows and leaves them out.
        video: "error" stops the run at a video that cannot be read; "skip" takes its pair out of the batch; "replace"
            puts another pair in its place. Each bad video is reported once and listed in the run's bad_videos.jsonl.
        video_budget: Largest share of the videos read that may be bad, 0 to 1; the run fails beyond it.
    """

    row: OnBadRow = "error"
    video: OnBadVideo = "skip"
    video_budget: float = 0.01


@dataclass(frozen=True)
class Cache:
    """Cache on a local disk, for later epochs and runs.

    Attributes:
        folder: Folder for decoded frames and for tables in shards, on a fast local disk. Without a folder no frames are
            kept, and tables in shards are kept in the cache of the package `datasets`. Set it where decoding slows
            training down, and for remote videos.
        max_gb: Largest size of all cached frames, in GiB; the least recently used ones are removed.
    """

    folder: str | None = None
    max_gb: float = 100.0


@dataclass(frozen=True)
class Decoding:
    """How far ahead of training the workers of each rank decode.

    Attributes:
        ahead_gb: Memory limit of the batches that workers prepare, in GiB, for training and for validation each. If
            batches of the longest and largest videos would exceed it, there are fewer workers.
        timeout: Seconds to wait for a batch of a worker before the run fails.
    """

    ahead_gb: float = 16.0
    timeout: float = 300.0
