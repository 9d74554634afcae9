"""Let the processes that torchrun started find each other, and share a key-value store.

When torchrun restarts the processes, they use a new store.
"""

from __future__ import annotations

import itertools
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import PrefixStore, TCPStore

from ddim.errors import UserError

_DOOR, _NAME = "ddim/door", "ddim/name"

_stores: list[TCPStore] = []
"""Holds the store as soon as this process has opened or found it; before, the list is empty."""

_meetings = itertools.count(1)


@dataclass(frozen=True)
class Meeting:
    """A store that all processes share, and the prefix of the keys that belong to this meeting."""

    store: TCPStore
    prefix: str


def meet(rank: int, count: int, limit: timedelta) -> Meeting:
    """Wait until all processes have arrived; return the store that they share and the prefix of its keys.

    torchrun keeps one store for all restarts of its processes. This store still holds the addresses of killed
    processes, and new processes may try to reach them. So process 0 opens a new store, and writes its port
    into the store of torchrun, where the other processes read it.

    Args:
        rank: number of this process.
        count: number of processes.
        limit: how long to wait for the others.

    Raises:
        UserError: if a process has not arrived within `limit`.
    """
    end = time.monotonic() + limit.total_seconds()
    if not _stores:
        _stores.append(_find_store(rank, end, limit))
    meeting = Meeting(_stores[0], f"meeting {next(_meetings)}")
    store = PrefixStore(meeting.prefix, meeting.store)
    store.set(f"here/{rank}", "")
    # Python can handle signals between these checks. Later, while torch connects the processes, it cannot.
    for other in range(count):
        while not store.check([f"here/{other}"]):
            if time.monotonic() > end:
                raise UserError(f"process {other} of {count} has not started within {limit}")
            time.sleep(0.05)
    return meeting


def _find_store(rank: int, end: float, limit: timedelta) -> TCPStore:
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        if rank == 0:
            # torch's own wait for the other processes would block signals, so `meet` waits for them.
            return _open(address, port, limit)
        return _connect(address, lambda: (port, None), end, limit)
    launcher = TCPStore(address, port, is_master=False, timeout=limit)
    if rank == 0:
        return _announce(launcher, address, limit)
    return _connect(address, lambda: _read_door(launcher), end, limit)


def _open(address: str, port: int, limit: timedelta) -> TCPStore:
    return TCPStore(address, port, None, True, limit, wait_for_workers=False)


def _announce(launcher: TCPStore, address: str, limit: timedelta) -> TCPStore:
    """Return a new store in this process, after writing its port into the store of torchrun."""
    store = _open(address, 0, limit)
    name = uuid.uuid4().hex
    store.set(_NAME, name)
    launcher.set(_DOOR, f"{store.port} {name}")
    return store


def _read_door(launcher: TCPStore) -> tuple[int, str] | None:
    """Return port and name of the store of process 0; None before process 0 has written them."""
    if not launcher.check([_DOOR]):
        return None
    port, name = launcher.get(_DOOR).decode().split()
    return int(port), name


def _connect(
    address: str, find: Callable[[], tuple[int, str | None] | None], end: float, limit: timedelta
) -> TCPStore:
    """Connect to the store of process 0 and return it; try again, for two seconds each time, until `end`.

    The port in the store of torchrun may still be that of a process that was killed. Therefore the store must
    have the name that is given with the port; else this function looks again.

    Args:
        address: the address of process 0.
        find: returns the port and the name of the store, or None if they are not known yet. The name is None
            if any store at this port will do.
        end: when to stop, on the clock of `time.monotonic`.
        limit: how long each later request to the store may take.

    Raises:
        UserError: if there is no such store at `end`.
    """
    fault = None
    while time.monotonic() < end:
        found = find()
        try:
            if found:
                store = TCPStore(address, found[0], is_master=False, timeout=timedelta(seconds=2))
                if found[1] is None or store.get(_NAME).decode() == found[1]:
                    store.set_timeout(limit)
                    return store
        except RuntimeError as error:
            fault = error
        time.sleep(0.2)
    raise UserError(f"process 0 has not started at {address} within {limit}") from fault
