"""Read the environment variables that a launcher such as torchrun sets, without importing torch."""

from __future__ import annotations

import os


def count_launched() -> int:
    """Return the number of processes that the launcher of this process started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def read_rank() -> int:
    """Return the number of this process among those of its launcher; 0 without a launcher."""
    return int(os.environ["RANK"]) if count_launched() > 1 else 0


def count_restarts() -> int:
    """Return how often torchrun has restarted the processes of this command after one of them failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def quiet_lost_connections() -> None:
    """Silence torch's warnings about lost connections to other processes of the command.

    If one process is stopped, the others lose their connection to this process. torch would print its C++
    stack for each lost connection. Call this function before torch is imported.
    """
    if count_launched() > 1:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
