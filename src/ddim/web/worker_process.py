"""The worker process: it loads models and does the tasks of the server, one after another.

It does quick tasks (`QUICK`) immediately, even while it does another task. It reads messages from standard
input and writes messages to standard output, one JSON document per line. It ends when the server ends,
because its standard input is then closed.
"""

from __future__ import annotations

import base64
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from ddim.errors import UserError
from ddim.machine.startup import keep_freed_memory, set_variables
from ddim.web.tasks import QUICK, Message, decode_task

PREVIEW_SECONDS = 0.05
"""The least time between two previews, in seconds; more previews would only fill the connection."""


@dataclass(frozen=True)
class Drawn:
    """A preview: a PNG sheet of some images of the result.

    Attributes:
        png: the sheet.
        first: the index in the result of the first image of the sheet.
        columns: number of columns of the sheet.
    """

    png: bytes
    first: int
    columns: int


class Cancelled(Exception):  # noqa: N818 (an event)
    """Raised if the server no longer needs the result of a task."""


class Monitor:
    """Sends the previews of one task to the server, and stops the task if the server cancelled it."""

    def __init__(self, number: int, send: Callable[[Message], None], cancelled: threading.Event) -> None:
        self._number, self._send, self._cancelled = number, send, cancelled
        self._next = 0.0

    def check(self) -> None:
        """Raise `Cancelled` if the task was cancelled."""
        if self._cancelled.is_set():
            raise Cancelled

    def preview(self, step: float, steps: int, draw: Callable[[], Drawn] | None = None) -> None:
        """Tell the server that step `step` of `steps` is done, with a small PNG from `draw`.

        Steps that come too fast are not sent, except the last step.

        Raises:
            Cancelled: if the task was cancelled.
        """
        self.check()
        if time.monotonic() < self._next and step < steps:
            return
        self._next = time.monotonic() + PREVIEW_SECONDS
        content: dict[str, Any] = {"k": step, "of": steps, "sheet": None}
        if draw is not None:
            drawn = draw()
            sheet = f"data:image/png;base64,{base64.b64encode(drawn.png).decode()}"
            content |= {"sheet": sheet, "first": drawn.first, "columns": drawn.columns}
        self._send(Message(self._number, "step", content))


class Worker:
    """Does the tasks of the server: quick tasks in the thread that reads tasks, others in the main thread."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source, self._sink = source, sink
        self._lock = threading.Lock()
        self._tasks: queue.Queue[Message] = queue.Queue()
        self._cancelled: dict[int, threading.Event] = {}

    def run(self) -> None:
        """Do the tasks until the server ends."""
        threading.Thread(target=self._listen, daemon=True).start()
        from ddim.web.perform import set_memory_limit

        set_memory_limit()
        while True:
            self._do(self._tasks.get())

    def send(self, message: Message) -> None:
        """Send a message to the server."""
        with self._lock:
            self._sink.write(message.encode())
            self._sink.flush()

    def _listen(self) -> None:
        for line in self._source:
            message = Message.decode(line)
            if message.kind == "cancel":
                self._cancelled.get(message.number, threading.Event()).set()
                continue
            self._cancelled[message.number] = threading.Event()
            if isinstance(decode_task(message.content), QUICK):
                self._do(message)
            else:
                self._tasks.put(message)
        # The server has ended. Nobody needs the results any more.
        os._exit(0)

    def _do(self, message: Message) -> None:
        from ddim.web.perform import perform_task

        number = message.number
        monitor = Monitor(number, self.send, self._cancelled[number])
        try:
            answer = Message(number, "done", perform_task(decode_task(message.content), monitor))
        except Cancelled:
            answer = Message(number, "failed", {"error": "the request was cancelled", "status": 409})
        except UserError as error:
            answer = Message(number, "failed", {"error": str(error), "status": 422})
        except Exception as error:
            import traceback

            traceback.print_exc()
            text = f"the worker failed: {type(error).__name__}; the log of the server has more"
            answer = Message(number, "failed", {"error": text, "status": 503})
        self._cancelled.pop(number, None)
        self.send(answer)


def run_worker() -> None:
    """Run the worker on standard input and output, until the server ends."""
    set_variables()
    # What a library prints must not mix with the messages on standard output.
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with keep_freed_memory():
        Worker(sys.stdin.buffer, sink).run()


if __name__ == "__main__":
    run_worker()
