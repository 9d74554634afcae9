"""The program `ddim`, also `python -m ddim`."""

import os
import signal
import sys


def run_program() -> int:
    """Run the command of this process and return its exit code; Ctrl-C never prints a traceback."""
    try:
        # The import takes a moment, in which Ctrl-C may arrive too.
        from ddim.cli import main

        code = main()
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            # From now on Python only cleans up, and Ctrl-C may end it at once.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    except KeyboardInterrupt:
        sys.stderr.write("ddim: stopped\n")
        os._exit(128 + signal.SIGINT)
    return code


if __name__ == "__main__":
    sys.exit(run_program())
