"""Run a Python program in a pseudo-terminal of a given size, which the program takes for a real one."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from contextlib import suppress

COLOURS = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}


def run_in_terminal(arguments, cwd, columns=100, lines=40, **environment):
    """Return the exit code of a Python program, and all that it writes to its terminal.

    Its standard output and its standard error both go to the terminal.
    """
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    cleared = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    streams, words = dict.fromkeys(("stdin", "stdout", "stderr"), its), [sys.executable, *map(str, arguments)]
    with subprocess.Popen(words, cwd=cwd, env=cleared | COLOURS | environment, **streams) as process:
        os.close(its)
        said = b""
        with suppress(OSError):  # Linux: the program closed the terminal
            while part := os.read(ours, 65536):
                said += part
    os.close(ours)
    return process.returncode, said.decode()
