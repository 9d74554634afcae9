"""A PostgreSQL server of a test's own, in a temporary folder and behind a Unix socket."""

import glob
import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest


def _binaries():
    folders = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[4]))
    on_path = shutil.which("initdb")
    return Path(folders[-1]) if folders else on_path and Path(on_path).parent


@contextmanager
def postgres():
    """Run a server; yields the address of its database. Skips the test where there is no PostgreSQL."""
    binaries = _binaries()
    if not binaries:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    if find_spec("psycopg") is None:
        pytest.skip('psycopg is not installed: pip install "ddim[postgres]"')
    # The server refuses to run as root. A socket's path has at most 107 characters: not pytest's folder.
    as_user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.getuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    if as_user:
        shutil.chown(folder, "nobody", "nogroup")
    data = folder / "data"
    create = [binaries / "initdb", "-D", data, "-U", "ddim", "-A", "trust", "--no-sync", "-E", "UTF8"]
    serve = [binaries / "postgres", "-D", data, "-k", folder, "-h", "", "-F"]
    log = (folder / "log").open("wb")
    try:
        subprocess.run([*as_user, *create], check=True, stdout=log, stderr=log, cwd="/")
        server = subprocess.Popen([*as_user, *serve], stdout=log, stderr=log, cwd="/")
        try:
            ready = [binaries / "pg_isready", "-h", folder, "-t", "30"]
            while subprocess.run(ready, check=False, stdout=log, stderr=log).returncode != 0:
                assert server.poll() is None, (folder / "log").read_text()
            yield f"postgresql+psycopg://ddim@/postgres?host={folder}"
        finally:
            server.send_signal(signal.SIGINT)  # does not wait for open connections
            server.wait(30)
    finally:
        log.close()
        shutil.rmtree(folder, ignore_errors=True)
