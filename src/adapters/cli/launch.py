"""Start the processes of a run with accelerate's launcher, and tell them how many were asked for.

    python -m adapters.cli.launch OPTIONS OF ACCELERATE LAUNCH

`adapters run --launch FILE` runs this in place of itself. What the launcher prints as a traceback is one sentence here.
"""

from __future__ import annotations

import copy
import os
import sys

from accelerate.commands.launch import _validate_launch_command, launch_command, launch_command_parser
from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError

from adapters.cli.errors import complain
from adapters.environment import LOG_LEVEL, PROCESSES, SILENT
from adapters.errors import first_line


def main() -> None:
    """Launch, and end with the exit code of the process that failed first."""
    given = launch_command_parser().parse_args()
    try:
        asked, *_ = _validate_launch_command(copy.deepcopy(given))
        os.environ[PROCESSES] = str(asked.num_processes)
        if os.environ.get(LOG_LEVEL) == SILENT:  # it was meant for this process, in which torch has read it
            del os.environ[LOG_LEVEL]
        launch_command(given)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 0:  # it has printed its own message
            sys.exit(failure.exitcode)
        complain(f"process {rank} was ended by {failure.signal_name()}.")
        sys.exit(1)
    except (DistError, RendezvousError, ConnectionError) as error:
        complain(
            f"the {asked.num_machines} machines did not find each other at {asked.main_process_ip}:"
            f"{asked.main_process_port}, and nothing was trained: {first_line(error)}"
        )
        sys.exit(2)
    except (ValueError, AssertionError, OSError, ImportError) as error:
        complain(f"accelerate cannot launch this: {first_line(error)}")
        sys.exit(2)


if __name__ == "__main__":
    main()
