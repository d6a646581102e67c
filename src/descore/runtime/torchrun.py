"""torchrun that passes the exit codes 143, 130 and 2 of its ranks on: `python -m descore.runtime.torchrun`.

torchrun itself exits with code 1 where its ranks stopped with 143 after a SIGTERM, and a scheduler would not requeue
the job.
"""

from __future__ import annotations

import signal
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

from descore.runtime.wrong_use import WRONG_USE

ASKED_TO_STOP = 128 + signal.SIGTERM
INTERRUPTED = 128 + signal.SIGINT


def run() -> None:
    """Run torchrun.

    Raises:
        SystemExit: With exit code 143 or 130, if torchrun or the first rank to end was sent a signal and stopped
            cleanly; with 2, if the first rank to end was asked for something that cannot be done.
    """
    try:
        main()
    except SignalException as stopped:
        sys.exit(INTERRUPTED if stopped.sigval == signal.SIGINT else ASKED_TO_STOP)
    except ChildFailedError as error:
        if (code := error.get_first_failure()[1].exitcode) in (ASKED_TO_STOP, INTERRUPTED, WRONG_USE):
            sys.exit(code)
        raise


if __name__ == "__main__":
    run()
