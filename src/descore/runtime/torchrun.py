"""torchrun that passes the exit code 143 on: `python -m descore.runtime.torchrun`, with torchrun's own arguments.

torchrun itself exits with code 1 where its ranks stopped with 143 after a SIGTERM, and a scheduler would not requeue
the job.
"""

from __future__ import annotations

import signal
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

ASKED_TO_STOP = 128 + signal.SIGTERM


def run() -> None:
    """Run torchrun.

    Raises:
        SystemExit: With exit code 143, if torchrun or the first rank to end was sent a signal and stopped cleanly.
    """
    try:
        main()
    except SignalException:
        sys.exit(ASKED_TO_STOP)
    except ChildFailedError as error:
        if error.get_first_failure()[1].exitcode == ASKED_TO_STOP:
            sys.exit(ASKED_TO_STOP)
        raise


if __name__ == "__main__":
    run()
