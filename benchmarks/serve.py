"""Measure the server of the page: crowds, made-up requests, its memory, and the pace of a training beside it.

Usage:

    python benchmarks/serve.py RUNS RUN [--load] [--abuse] [--pace] [--rounds 3] [--requests 20]
        [--cases 2000] [--seconds 60]

RUNS is a folder of runs, and RUN the id of one with a checkpoint. Without an option all parts are measured.
--load starts in each round 64 clients that ask for samples --requests times and wait for them. It prints the
statuses, the number of wrong images and the memory.
--abuse sends requests that schemathesis makes up from /api/openapi.json, and hand-written hostile ones.
--pace trains `blossoms` and opens and closes the page in turn; it prints the ratio of the paces, and the
share of a core that the server uses while the page is open.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))

import psutil  # noqa: E402

from serving import TOKEN, ask, running_server, send_crowd  # noqa: E402

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
KNOWN = f"Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
"""The lines of a request that the server accepts."""
HOSTILE = [
    "/api/runs/..%2f..%2f..%2fetc%2fpasswd",
    "/..%2f..%2f..%2fetc%2fpasswd",
    "/static/../../../../etc/passwd",
    "//etc/passwd",
    "/%00",
    "/api/runs/%ff%fe",
    "/api/results/%2e%2e/record.json",
    f"/api/runs/{'a' * 8000}",
    "/api/compare?runs=" + ",".join(["a"] * 5000),
    "/api/compare?runs=%00,%0a&metric=kid",
    "/?token=" + "x" * 4000,
]


def expect_images(run: Path, steps: int, out: Path) -> dict[int, bytes]:
    """Return the PNG of each seed from 0 to 23, made by `ddim sample`."""
    command = [sys.executable, "-m", "ddim", "sample", str(run), "-n", "24", "--steps", str(steps)]
    subprocess.run([*command, "--out", str(out), "--quiet"], check=True, stdout=subprocess.DEVNULL)
    return {seed: (out / f"{seed:05d}.png").read_bytes() for seed in range(24)}


def measure_load(runs: Path, run: str, rounds: int, requests: int) -> None:
    """Send crowds, and print what happened to them."""
    with tempfile.TemporaryDirectory() as folder, running_server(runs) as server:
        expected = expect_images(runs / run.replace("~", "/"), 2, Path(folder) / "own")
        ask(server, "POST", f"/api/runs/{run}/samples", {"seeds": [0], "steps": 1})
        print(f"memory before: {server.memory()} MiB")
        for number in range(rounds):
            start = time.monotonic()
            crowd = send_crowd(server, run, expected, requests=requests)
            print(
                f"round {number + 1}, {time.monotonic() - start:.0f} s: "
                f"statuses {dict(Counter(crowd.statuses))}, {len(crowd.right)} right images, "
                f"{len(crowd.wrong)} wrong; memory {server.memory()} MiB",
                flush=True,
            )
        print_faults(server)


def print_faults(server) -> None:
    """Print the number of faults in the log of a server, and the first one."""
    first, *others = server.log.read_text().split("Traceback")
    print(f"faults in the log: {len(others)}")
    if others:
        print("".join(first.splitlines(keepends=True)[-3:]) + others[0][:4000])


def measure_abuse(runs: Path, run: str, cases: int) -> None:
    """Send made-up and hostile requests, and print their statuses."""
    with tempfile.TemporaryDirectory() as folder, running_server(runs) as server:
        config = Path(folder) / "schemathesis.toml"
        config.write_text(f'[parameters]\nrun = "{run}"\n')
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"]
        command += ["-H", f"Authorization: Bearer {TOKEN}"]
        command += [f"{server.address}/api/openapi.json", "--checks", CHECKS, "--exclude-path", "/api/events"]
        # 20 operations share the cases; about 600 more are made to cover the schema.
        command += ["--max-examples", str(max(1, cases // 20)), "--seed", "1"]
        found = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        lines = found.stdout.splitlines()
        place = next((k for k, line in enumerate(lines) if line.startswith("Test cases")), -12)
        print(f"schemathesis: exit code {found.returncode}; {' '.join(lines[place : place + 4])}", flush=True)
        if found.returncode:
            print("\n".join(line[:300] for line in lines[-150:]))
        statuses = send_hostile(server, run)
        print(f"hostile requests: {dict(statuses)}; memory {server.memory()} MiB")
        print_faults(server)


def send_hostile(server, run: str) -> Counter:
    """Send hostile requests one by one; return how often each status was answered.

    The key "closed" counts connections that the server closed without a status.
    """
    statuses = Counter()
    bodies = [
        "{",
        "[" * 30_000,
        '{"seeds": [NaN]}',
        '{"seeds": [1e308]}',
        f'{{"seeds": [{"9" * 5000}]}}',
        "\0",
    ]
    for path in HOSTILE:
        statuses[ask(server, "GET", path)[0]] += 1
    head = f"POST /api/runs/{run}/samples HTTP/1.1\r\n{KNOWN}Content-Type: application/json\r\n"
    raw = [f"{head}Content-Length: {len(body)}\r\n\r\n{body}" for body in bodies]
    raw += [
        "GET /api/runs HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        "GET /api/runs HTTP/1.1\r\n\r\n",
        f"GET /api/runs HTTP/1.1\r\n{KNOWN}Host: evil.example\r\n\r\n",
        f"POST /api/runs HTTP/1.1\r\n{KNOWN}Origin: null\r\nContent-Length: 0\r\n\r\n",
        f"POST /api/uploads HTTP/1.1\r\n{KNOWN}Content-Length: 99999999999\r\n\r\n",
        f"POST /api/uploads HTTP/1.1\r\n{KNOWN}Content-Length: -1\r\n\r\n",
        f"POST /api/uploads HTTP/1.1\r\n{KNOWN}Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        f"GET / HTTP/1.1\r\n{KNOWN}X: {'a' * 100_000}\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ]
    for text in raw:
        first = b""
        with socket.create_connection((server.host, server.port)) as connection, suppress(ConnectionError):
            connection.sendall(text.encode("latin-1"))
            first = connection.makefile("rb").readline()
        statuses[int(first.split()[1]) if first else "closed"] += 1
    return statuses


def measure_pace(seconds: float, rounds: int) -> None:
    """Train in turn with and without the page, and print the ratio of the paces."""
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        runs.mkdir()
        command = [sys.executable, "-m", "ddim", "train", "blossoms:400", "--recipe", "fast", "--size", "32"]
        command += ["--images", "10000000", "--no-compile", "--threads", "1", "--quiet"]
        run = runs / "training"
        training = subprocess.Popen([*command, "--out", str(run)], stdout=subprocess.DEVNULL)
        try:
            with running_server(runs) as server:
                while read_images(run)[0] < 200:
                    time.sleep(1)
                paces, shares = {True: [], False: []}, []
                for number in range(2 * rounds):
                    looking, before = number % 2 == 0, used_seconds(server)
                    pace = asyncio.run(watch_pace(server, run, seconds, looking))
                    paces[looking].append(pace)
                    shares += [(used_seconds(server) - before) / seconds] if looking else []
                    print(f"{'with' if looking else 'without'} the page: {pace:.2f} images/s", flush=True)
                with_page, without = (statistics.median(paces[looking]) for looking in (True, False))
                print(f"pace with the page open / without: {with_page / without:.3f}")
                print(f"share of a core that the server uses: {100 * statistics.median(shares):.2f} %")
        finally:
            training.terminate()
            training.wait()


def used_seconds(server) -> float:
    """Return the seconds of processor time that the server has used."""
    return sum(psutil.Process(server.process.pid).cpu_times()[:2])


async def watch_pace(server, run: Path, seconds: float, looking: bool) -> float:
    """Return the images per second of a training, with a listener of events or without."""
    listener = asyncio.create_task(listen(server)) if looking else None
    first = read_images(run)
    await asyncio.sleep(seconds)
    last = read_images(run)
    if listener is not None:
        listener.cancel()
    return (last[0] - first[0]) / (last[1] - first[1])


async def listen(server) -> None:
    """Listen to the events of runs, as an open page does."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(f"GET /api/events HTTP/1.1\r\n{KNOWN}\r\n".encode())
    try:
        while await reader.read(2**16):
            pass
    finally:
        writer.transport.abort()


def read_images(run: Path) -> tuple[int, float]:
    """Return the training images of the last line of a log, and its time."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
    except OSError:
        return 0, 0.0
    line = json.loads(lines[-1]) if lines else {"images": 0, "time": 0.0}
    return line["images"], line["time"]


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path)
    parser.add_argument("run")
    for part in ("load", "abuse", "pace"):
        parser.add_argument(f"--{part}", action="store_true")
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    args = parser.parse_args()
    every = not (args.load or args.abuse or args.pace)
    if args.load or every:
        measure_load(args.runs, args.run, args.rounds, args.requests)
    if args.abuse or every:
        measure_abuse(args.runs, args.run, args.cases)
    if args.pace or every:
        measure_pace(args.seconds, args.rounds)


if __name__ == "__main__":
    main()
