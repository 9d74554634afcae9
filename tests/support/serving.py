"""A server in a process of its own, and crowds of clients: good ones, and some that leave."""

import asyncio
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from fastapi.testclient import TestClient

from ddim.web.application import build_application
from ddim.web.settings import Settings


@dataclass(frozen=True)
class Server:
    """A server that runs: its host, port, process and log."""

    host: str
    port: int
    process: subprocess.Popen
    log: Path

    @property
    def address(self):
        """Where its page is."""
        return f"http://{self.host}:{self.port}"

    def memory(self):
        """Its resident memory in MiB."""
        return round(psutil.Process(self.process.pid).memory_info().rss / 2**20)


@contextmanager
def running_server(folder, *options):
    """Serve a folder of runs in another process."""
    command = [sys.executable, "-m", "ddim", "serve", str(folder), "--port", "0", *map(str, options)]
    # The log goes into a file, because nobody empties a pipe while a test runs.
    with tempfile.NamedTemporaryFile("r") as log, open(log.name, "w") as out:
        # A test that runs in the background ignores Ctrl-C, and its children would inherit this.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            process = subprocess.Popen(command, stdout=out, stderr=out)
        finally:
            signal.signal(signal.SIGINT, before)
        try:
            while not (found := re.search(r"http://[^\s;]+", Path(log.name).read_text())):
                assert process.poll() is None, Path(log.name).read_text()
                time.sleep(0.05)
            parts = urlsplit(found[0])
            yield Server(parts.hostname, parts.port, process, Path(log.name))
        finally:
            process.terminate()
            process.wait(30)


def open_client(folder, at="127.0.0.1", processes=None, **settings):
    """A client of a server of a folder in this process; use it in a `with` block."""
    application = build_application(Settings(folder, **settings), processes)
    return TestClient(application, base_url=f"http://{at}:8000")


async def connect(server, client=0):
    """A connection from an address of its own: 127.0.1.0, 127.0.1.1, ..., as if from as many machines."""
    local = (f"127.0.{1 + client // 250}.{1 + client % 250}", 0)
    return await asyncio.open_connection(server.host, server.port, local_addr=local)


async def hang_up(writer):
    """Close a connection at once, as a browser does whose tab is closed."""
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


async def ask(server, method, path, body=None, client=0, **headers):
    """Send one request; returns the status, the headers and the body."""
    reader, writer = await connect(server, client)
    try:
        content = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {server.host}:{server.port}", "Connection: close"]
        lines += [f"Content-Length: {len(content)}", "Content-Type: application/json"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
        head, _, rest = (await reader.read()).partition(b"\r\n\r\n")
        first, *others = head.decode().split("\r\n")
        return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in others), rest
    finally:
        await hang_up(writer)


@dataclass
class Crowd:
    """What happened to a crowd.

    Attributes:
        statuses: how often each status was answered to samples.
        wrong: the seeds whose images were not the expected ones.
        images: number of images that were right.
    """

    statuses: Counter = field(default_factory=Counter)
    wrong: list = field(default_factory=list)
    images: int = 0


async def send_crowd(server, run, expected, *, clients=64, requests=3):
    """Send many clients at once; returns a `Crowd`.

    Args:
        server: the server.
        run: the id of the run that is sampled.
        expected: the bytes of the PNG of each seed.
        clients: number of clients that sample some seeds and wait for them.
        requests: number of requests of each of them.
    """
    crowd = Crowd()
    await asyncio.gather(
        *(_sample(server, run, expected, crowd, k, requests) for k in range(clients)),
    )
    status, _, _ = await ask(server, "GET", "/healthz")
    assert status == 200
    return crowd


async def _sample(server, run, expected, crowd, client, requests):
    seeds = sorted(expected)
    for number in range(requests):
        mine = [seeds[(client + number * 7 + j) % len(seeds)] for j in range(2)]
        while True:
            body = {"seeds": mine, "steps": 2}
            status, headers, content = await ask(server, "POST", f"/api/runs/{run}/samples", body, client)
            crowd.statuses[status] += 1
            if status not in (429, 503):
                break
            assert "retry-after" in headers
            await asyncio.sleep(1 + client % 10 / 10)
        if status != 200:
            continue
        for image in json.loads(content)["images"]:
            status, _, png = await ask(server, "GET", image["url"], None, client)
            if status == 200 and png == expected[image["seed"]]:
                crowd.images += 1
            else:
                crowd.wrong.append(image["seed"])
