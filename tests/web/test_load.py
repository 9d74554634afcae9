"""A real server: crowds, clients that leave, and requests that a program made up."""

import asyncio
import json
import os
import signal
import subprocess
import sys

import pytest

from ddim.cli import main
from serving import ask, connect, hang_up, running_server, send_crowd

RUN = "photos-tiny-1"


@pytest.fixture(scope="module")
def expected(trained, tmp_path_factory):
    """The PNG of each seed, made by the command."""
    out = tmp_path_factory.mktemp("expected") / "own"
    assert main(["sample", str(trained / RUN), "-n", "24", "--steps", "2", "--out", str(out), "--quiet"]) == 0
    return {seed: (out / f"{seed:05d}.png").read_bytes() for seed in range(24)}


async def begin_sampling(server):
    """Ask for minutes of work; returns the connection when the first step has come."""
    reader, writer = await connect(server)
    content = json.dumps({"seeds": list(range(64)), "steps": 1000}).encode()
    head = f"POST /api/runs/{RUN}/samples HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
    while b"event: step" not in await reader.readline():
        pass
    return writer


def test_the_page_answers_while_it_samples_and_a_client_that_leaves_frees_the_models(server):
    async def run():
        writer = await begin_sampling(server)
        for path in ("/healthz", "/api/runs", f"/api/runs/{RUN}", f"/api/runs/{RUN}/curves"):
            assert (await ask(server, "GET", path))[0] == 200
        await hang_up(writer)
        status, _, _ = await ask(server, "POST", f"/api/runs/{RUN}/samples", {"seeds": [0], "steps": 1}, 1)
        assert status == 200
        _, writer = await connect(server)
        head = "POST /api/uploads HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
        writer.write(head.encode() + b"x" * 10)
        await writer.drain()
        await hang_up(writer)
        for text in (b"\x16\x03\x01\x02\x00", b"GET", b"A" * 70_000):  # no HTTP
            reader, writer = await connect(server)
            writer.write(text + b"\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 4")
            await hang_up(writer)
        while "/api/uploads" not in server.log.read_text():
            await asyncio.sleep(0.05)
        assert "Traceback" not in server.log.read_text()

    asyncio.run(run())


@pytest.mark.slow
def test_many_clients_get_right_images_or_status_429(server, expected):
    crowd = asyncio.run(send_crowd(server, RUN, expected, clients=64, requests=2))
    assert crowd.wrong == []
    assert crowd.images == 64 * 2 * 2
    assert all(status == 200 or 400 <= status < 500 or status == 503 for status in crowd.statuses)
    assert "Traceback" not in server.log.read_text(), server.log.read_text()[-6000:]


@pytest.mark.slow
def test_made_up_requests_have_the_answers_that_the_interface_describes(server, tmp_path):
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.address}/api/openapi.json"]
    command += ["--checks", checks, "--exclude-path", "/api/events", "--max-examples", "8", "--seed", "1"]
    options = {"cwd": tmp_path, "capture_output": True, "text": True}
    found = subprocess.run(command, check=False, timeout=280, **options)
    assert found.returncode == 0, found.stdout[-6000:]


def test_scripts_read_the_address_of_the_page(trained):
    with running_server(trained, "--json") as server:
        document = "".join(server.log.read_text().splitlines()[:3])
    assert json.loads(document) == {"address": f"{server.address}/"}


@pytest.mark.slow
def test_ctrl_c_ends_the_server_while_it_samples(trained):
    with running_server(trained) as server:

        async def interrupt():
            writer = await begin_sampling(server)
            os.kill(server.process.pid, signal.SIGINT)
            assert await asyncio.to_thread(server.process.wait, 60) == 128 + signal.SIGINT
            await hang_up(writer)

        asyncio.run(interrupt())
