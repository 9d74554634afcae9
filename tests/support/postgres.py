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
    with tempfile.TemporaryDirectory(prefix="pg-") as folder, open(f"{folder}/log", "wb") as log:
        if as_user:
            shutil.chown(folder, "nobody", "nogroup")
        data, options = Path(folder, "data"), {"stdout": log, "stderr": log, "cwd": "/"}
        create = [binaries / "initdb", "-D", data, "-U", "ddim", "-A", "trust", "--no-sync", "-E", "UTF8"]
        serve = [binaries / "postgres", "-D", data, "-k", folder, "-h", "", "-F"]
        subprocess.run([*as_user, *create], check=True, **options)
        server = subprocess.Popen([*as_user, *serve], **options)
        try:
            ready = [binaries / "pg_isready", "-h", folder, "-t", "30"]
            while subprocess.run(ready, check=False, **options).returncode != 0:
                assert server.poll() is None, Path(folder, "log").read_text()
            yield f"postgresql+psycopg://ddim@/postgres?host={folder}"
        finally:
            server.send_signal(signal.SIGINT)  # does not wait for open connections
            server.wait(30)
