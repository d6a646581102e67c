"""torchrun that passes on a wish to leave: `python -m descore.runtime.torchrun`, with torchrun's own arguments.

torchrun by itself ends with exit code 1 where its processes ended with 143, and a scheduler would not requeue the job.
"""

from __future__ import annotations

import signal
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

ASKED_TO_LEAVE = 128 + signal.SIGTERM


def run() -> None:
    """Run torchrun.

    Raises:
        SystemExit: With exit code 143, if it was sent a signal or the first process to end was, and left in good order.
    """
    try:
        main()
    except SignalException:
        sys.exit(ASKED_TO_LEAVE)
    except ChildFailedError as error:
        if error.get_first_failure()[1].exitcode == ASKED_TO_LEAVE:
            sys.exit(ASKED_TO_LEAVE)
        raise


if __name__ == "__main__":
    run()
