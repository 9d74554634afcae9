"""A real server: crowds, clients that leave, and requests that a program made up."""

import json
import os
import signal
import socket
import subprocess
import sys
from urllib.request import HTTPCookieProcessor, Request, build_opener, urlopen

import numpy as np
import pytest
from PIL import Image

import ddim
from browsing import wait_until
from ddim.cli import main
from serving import BEARER, TOKEN, running_server, send_crowd

RUN = "photos-tiny-1"
SAMPLES = f"/api/runs/{RUN}/samples"


def ask(server, path, body=None, kind="application/json"):
    """The answer to a request, which comes as JSON or as events."""
    headers = {"Content-Type": "application/json", "Accept": kind, **BEARER}
    content = None if body is None else json.dumps(body).encode()
    return urlopen(Request(f"{server.address}{path}", content, headers), timeout=120)


def begin_sampling(server, steps=1000, first=0):
    """Ask for 64 images; returns the answer, the id of the job and its further events.

    It waits for a step of the image in the place `first`, or of a later one.
    """
    answer = ask(server, SAMPLES, {"seeds": [*range(64)], "steps": steps}, "text/event-stream")
    events = (json.loads(line[6:]) for line in answer if line.startswith(b"data: "))
    job = next(events)["job"]
    next(event for event in events if event.get("first", -1) >= first)
    return answer, job, events


def test_the_page_answers_while_it_samples_and_a_client_that_leaves_frees_the_models(server):
    answer, _, _ = begin_sampling(server)
    for path in ("/healthz", "/api/runs", f"/api/runs/{RUN}", f"/api/runs/{RUN}/curves"):
        assert ask(server, path).status == 200
    assert ask(server, "/api/data/file~grays.npy", {"size": 16}).status == 200
    answer.close()
    assert ask(server, SAMPLES, {"seeds": [0], "steps": 1}).status == 200
    with socket.create_connection((server.host, server.port)) as upload:
        head = f"POST /api/uploads HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        upload.sendall(head.encode() + b"Content-Length: 9\r\n\r\nx")
    for text in (b"\x16\x03\x01\x02\x00", b"GET", b"A" * 70_000):  # no HTTP
        with socket.create_connection((server.host, server.port)) as connection:
            connection.sendall(text + b"\r\nConnection: close\r\n\r\n")
            assert connection.recv(10) == b"HTTP/1.1 4"
    assert ask(server, "/healthz").status == 200
    assert "Traceback" not in server.log.read_text()


def test_a_request_that_is_stopped_delivers_the_images_that_are_ready(server, trained):
    """Images are made 16 at a time: when the next ones are shown, the first ones are ready."""
    answer, job, events = begin_sampling(server, steps=100, first=16)
    with answer:
        assert ask(server, f"/api/jobs/{job}/stop", {}).status == 202
        *_, found = events
    assert 16 <= len(found["images"]) < 64
    assert found["notes"][0] == f"{len(found['images'])} of 64 samples: you stopped"
    (image,) = ddim.sample(trained / RUN, seeds=[3], steps=100)
    with ask(server, found["images"][3]["url"]) as file:
        assert np.array_equal(Image.open(file), ddim.sheet(image[None], zoom=1))


@pytest.mark.slow
def test_many_clients_get_right_images_or_status_429(server, trained, tmp_path):
    words = ["-n", "24", "--steps", "2", "--out", str(tmp_path / "own"), "--quiet"]
    assert main(["sample", str(trained / RUN), *words]) == 0
    expected = {seed: (tmp_path / f"own/{seed:05d}.png").read_bytes() for seed in range(24)}
    crowd = send_crowd(server, RUN, expected, clients=64, requests=2)
    assert crowd.wrong == []
    assert len(crowd.right) == 64 * 2 * 2
    assert all(status == 200 or 400 <= status < 500 or status == 503 for status in crowd.statuses)
    assert "Traceback" not in server.log.read_text(), server.log.read_text()[-6000:]


@pytest.mark.slow
def test_made_up_requests_have_the_answers_that_the_interface_describes(runs, trained, tmp_path):
    """They delete runs too, so they get a copy."""
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = [sys.executable, "-m", "schemathesis.cli", "run", "-H", f"Authorization: Bearer {TOKEN}"]
    command += ["--checks", checks, "--exclude-path", "/api/events", "--max-examples", "8", "--seed", "1"]
    with running_server(runs, "--data", trained.parent) as server:
        command.append(f"{server.address}/api/openapi.json")
        found = subprocess.run(
            command, check=False, timeout=280, cwd=tmp_path, capture_output=True, text=True
        )
    assert found.returncode == 0, found.stdout[-6000:]


@pytest.mark.slow
def test_scripts_read_the_address_and_ctrl_c_ends_the_server_while_it_samples(trained, monkeypatch):
    """The browser that `--open` starts does not show the token in its command, which other users can read."""
    monkeypatch.setenv("BROWSER", "echo opened %s")
    with running_server(trained, "--json", "--open") as server:
        document = "".join(server.log.read_text().splitlines()[:4])
        assert json.loads(document)["address"] == f"{server.address}/?token={TOKEN}"
        wait_until(lambda: "opened" in server.log.read_text())
        opened = server.log.read_text().partition("opened ")[2].split()[0]
        assert TOKEN not in opened
        assert build_opener(HTTPCookieProcessor()).open(opened).url == f"{server.address}/"
        answer, _, _ = begin_sampling(server)
        os.kill(server.process.pid, signal.SIGINT)
        assert server.process.wait(60) == 128 + signal.SIGINT
        answer.close()
