"""What every test may rely on: no network, one thread, an empty cache, no global random state that moves."""

import ipaddress
import os
import signal
import socket
import sys

import pytest
from hypothesis import settings

from ending import KINDS

# Before torch is imported, here and in the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"

# No deadline: machines that test are busy.
settings.register_profile("ddim", deadline=None, max_examples=60)
settings.load_profile("ddim")


def pytest_configure(config):
    config.addinivalue_line("markers", "moves_global_rng: the test itself draws from the global generators")


@pytest.fixture(autouse=True, scope="session")
def no_network():
    """Only this machine can be reached."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, name, _guarded(getattr(socket.socket, name)))
        patch.setattr(socket, "getaddrinfo", _resolved(socket.getaddrinfo))
        yield


def _guarded(call):
    def guarded(self, *args):
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _here(args[-1][0]):
            raise OSError(f"tests reach no network, this one wanted {args[-1]}")
        return call(self, *args)

    return guarded


def _resolved(call):
    def resolved(host, *args, **options):
        if host is not None and not _here(host):
            raise OSError(f"tests reach no network, this one wanted {host}")
        return call(host, *args, **options)

    return resolved


def _here(host):
    host = host.decode() if isinstance(host, bytes) else str(host)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """Images are decoded into a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDIM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """A library that draws from the global generators, or seeds them, cannot be repeated by its user.

    Round the function alone: pytest-randomly seeds them before each phase of a test.
    """
    before = _global_states()
    result = yield
    moved = [name for name, state in _global_states().items() if before.get(name, state) != state]
    if moved and pyfuncitem.get_closest_marker("moves_global_rng") is None:
        pytest.fail(f"the global random state of {', '.join(moved)} was moved")
    return result


def _global_states():
    states = {}
    if "torch" in sys.modules:
        states["torch"] = sys.modules["torch"].get_rng_state().numpy().tobytes()
    if "numpy" in sys.modules:
        kind, keys, *rest = sys.modules["numpy"].random.get_state()
        states["numpy"] = (kind, keys.tobytes(), *rest)
    return states


@pytest.fixture
def blank_figures(monkeypatch):
    """Figures are white: matplotlib takes half a second for each, and the test looks at none."""
    import numpy as np

    monkeypatch.setattr("ddim.plots.charts.rasterise", lambda figure: np.full((64, 64, 3), 255, np.uint8))


@pytest.fixture
def foreground():
    """Signals as a process in the foreground has them: one started with & ignores Ctrl-C."""
    kept = {kind: signal.getsignal(kind) for kind in KINDS}
    for kind in KINDS:
        signal.signal(kind, signal.default_int_handler if kind == signal.SIGINT else signal.SIG_DFL)
    yield
    for kind, handler in kept.items():
        signal.signal(kind, handler)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(capsys):
    """A function that runs a command, checks its exit code and returns what it printed (out, err).

    A text with spaces is several words.
    """
    from ddim.cli import main

    def run(*words, code=0):
        capsys.readouterr()
        try:
            found = main(" ".join(map(str, words)).split())
        except SystemExit as end:
            found = end.code
        captured = capsys.readouterr()
        assert found == code, captured.err
        return captured

    return run


@pytest.fixture
def hub(tmp_path):
    """An empty Hub, with its cache in the folder home."""
    from hub_server import hub_in_use

    with hub_in_use(tmp_path / "home") as hub:
        yield hub
