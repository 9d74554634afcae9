"""Let the processes that torchrun started find each other, and share a key-value store.

When torchrun restarts the processes, they use a new store.
"""

from __future__ import annotations

import itertools
import os
import time
import uuid
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
    """Wait until all processes have arrived; return the store that they share.

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
        # torch's own wait for the other processes would block signals, so `meet` waits for them.
        return _open(address, port, limit) if rank == 0 else _connect(address, port, end, limit)
    launcher = TCPStore(address, port, is_master=False, timeout=limit)
    return _announce(launcher, address, limit) if rank == 0 else _find(launcher, address, end, limit)


def _open(address: str, port: int, limit: timedelta) -> TCPStore:
    return TCPStore(address, port, None, True, limit, wait_for_workers=False)


def _connect(address: str, port: int, end: float, limit: timedelta) -> TCPStore:
    """Return the store at an address, in tries of two seconds until `end`."""
    while True:
        try:
            store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=2))
        except RuntimeError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        else:
            store.set_timeout(limit)
            return store


def _announce(launcher: TCPStore, address: str, limit: timedelta) -> TCPStore:
    """Return a new store in this process, after writing its port into the store of torchrun."""
    store = _open(address, 0, limit)
    name = uuid.uuid4().hex
    store.set(_NAME, name)
    launcher.set(_DOOR, f"{store.port} {name}")
    return store


def _find(launcher: TCPStore, address: str, end: float, limit: timedelta) -> TCPStore:
    """Return the store of process 0.

    The port in the store of torchrun may still be that of a process that was killed. Therefore the store that
    is found must have the name that is given with the port; else this function looks again.
    """
    while True:
        port, name = launcher.get(_DOOR).decode().split()
        try:
            store = TCPStore(address, int(port), is_master=False, timeout=timedelta(seconds=2))
            if store.get(_NAME).decode() == name:
                store.set_timeout(limit)
                return store
        except RuntimeError:
            if time.monotonic() > end:
                raise
        time.sleep(0.2)
