"""Where the processes of torchrun meet: a key-value store that only this start of the processes uses."""

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
"""The store of this process, as soon as it has met the others."""

_meetings = itertools.count(1)


@dataclass(frozen=True)
class Meeting:
    """A store that all processes share, and the prefix of the keys of this meeting in it."""

    store: TCPStore
    prefix: str


def meet(rank: int, count: int, limit: timedelta) -> Meeting:
    """Wait until all processes have come; return the store that they share.

    torchrun keeps one store for all restarts of its processes. In it the addresses of killed processes are
    left, and new processes may try to reach them. So process 0 opens a new store, and the others look for it.

    Args:
        rank: number of this process.
        count: number of processes.
        limit: how long to wait for the others.

    Raises:
        UserError: if a process has not come in this time.
    """
    end = time.monotonic() + limit.total_seconds()
    if not _stores:
        _stores.append(_find_store(rank, count, end, limit))
    meeting = Meeting(_stores[0], f"meeting {next(_meetings)}")
    store = PrefixStore(meeting.prefix, meeting.store)
    store.set(f"here/{rank}", "")
    # Python handles signals between these looks, but not while torch connects the processes.
    for other in range(count):
        while not store.check([f"here/{other}"]):
            if time.monotonic() > end:
                raise UserError(f"process {other} of {count} has not started within {limit}")
            time.sleep(0.05)
    return meeting


def _find_store(rank: int, count: int, end: float, limit: timedelta) -> TCPStore:
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return TCPStore(address, port, count, rank == 0, limit)
    launcher = TCPStore(address, port, is_master=False, timeout=limit)
    return _open(launcher, address, limit) if rank == 0 else _find(launcher, address, end, limit)


def _open(launcher: TCPStore, address: str, limit: timedelta) -> TCPStore:
    """Open the store in this process, and tell its port to the others."""
    store = TCPStore(address, 0, None, True, limit, wait_for_workers=False)
    name = uuid.uuid4().hex
    store.set(_NAME, name)
    launcher.set(_DOOR, f"{store.port} {name}")
    return store


def _find(launcher: TCPStore, address: str, end: float, limit: timedelta) -> TCPStore:
    """Return the store of process 0; the port that is told first may be that of a process that was killed."""
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
