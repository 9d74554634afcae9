"""A server in a process of its own, and crowds of clients."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from fastapi.testclient import TestClient

from ddim.web.application import build_application
from ddim.web.settings import Settings

TOKEN = secrets.token_hex(16)
"""The token of all servers of the tests."""
BEARER = {"Authorization": f"Bearer {TOKEN}"}
"""The header of a client that knows it."""


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
            environment = {**os.environ, "DDIM_TOKEN": TOKEN}
            process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
        finally:
            signal.signal(signal.SIGINT, before)
        try:
            while not (found := re.search(r"http://[^\s\"]+", Path(log.name).read_text())):
                assert process.poll() is None, Path(log.name).read_text()
                time.sleep(0.05)
            parts = urlsplit(found[0])
            yield Server(parts.hostname, parts.port, process, Path(log.name))
        finally:
            process.terminate()
            process.wait(30)


def open_client(folder, at="127.0.0.1", processes=None, **settings):
    """A client of a server of a folder in this process; use it in a `with` block."""
    application = build_application(Settings(folder, token=TOKEN, **settings), processes)
    return TestClient(application, base_url=f"http://{at}:8000", headers=BEARER)


def ask(server, method, path, body=None, client=0):
    """Send one request; returns the status, the headers and the body.

    Clients have the addresses 127.0.1.1, 127.0.1.2, ..., as if they were as many machines.
    """
    address = f"127.0.{1 + client // 250}.{1 + client % 250}", 0
    content = None if body is None else json.dumps(body)
    headers = {"Content-Type": "application/json", **BEARER}
    connection = HTTPConnection(server.host, server.port, timeout=300, source_address=address)
    with closing(connection):
        connection.request(method, path, content, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


@dataclass
class Crowd:
    """What happened to a crowd.

    Attributes:
        statuses: the statuses of all answers to requests for samples.
        right: the seeds whose images were the expected ones, once for each image.
        wrong: the seeds whose images were others.
    """

    statuses: list = field(default_factory=list)
    right: list = field(default_factory=list)
    wrong: list = field(default_factory=list)


def send_crowd(server, run, expected, *, clients=64, requests=3):
    """Send many clients at once; returns a `Crowd`.

    Args:
        server: the server.
        run: the id of the run that is sampled.
        expected: the bytes of the PNG of each seed.
        clients: number of clients that sample some seeds and wait for them.
        requests: number of requests of each of them.
    """
    crowd = Crowd()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(partial(_sample, server, run, expected, crowd, requests), range(clients)))
    assert ask(server, "GET", "/healthz")[0] == 200
    return crowd


def _sample(server, run, expected, crowd, requests, client):
    seeds = sorted(expected)
    for number in range(requests):
        mine = [seeds[(client + number * 7 + j) % len(seeds)] for j in range(2)]
        while True:
            body = {"seeds": mine, "steps": 2}
            status, headers, content = ask(server, "POST", f"/api/runs/{run}/samples", body, client)
            crowd.statuses.append(status)
            if status not in (429, 503):
                break
            assert "retry-after" in headers
            time.sleep(1 + client % 10 / 10)
        for image in json.loads(content)["images"] if status == 200 else []:
            png = ask(server, "GET", image["url"], client=client)[2]
            (crowd.right if png == expected[image["seed"]] else crowd.wrong).append(image["seed"])
