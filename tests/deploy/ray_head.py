"""A real Ray of its own, as `ray start --head` makes it: dashboard, agents, job server, metrics. No other Ray is touched."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_START_S, _STOP_S = 180.0, 60.0
_ATTEMPTS = 4


@dataclass(frozen=True)
class RayHead:
    """Where the head is reached, and the environment of who may reach it."""

    gcs: str
    dashboard: str
    folder: Path
    env: dict[str, str]

    @property
    def targets(self) -> Path:
        """Ray's list of what Prometheus scrapes."""
        return self.folder / "prom_metrics_service_discovery.json"

    def command(
        self, *arguments: str, timeout_s: float = 300.0, token: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """A command against this Ray; without `token`, as somebody who has none."""
        env = {key: value for key, value in self.env.items() if token or not key.startswith("RAY_AUTH")}
        if not token:
            env["HOME"] = str(self.folder)
        return subprocess.run(
            arguments, env=env, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False
        )


class _StartTimedOut(Exception):
    """Ray gives a node 30 s to start, which a busy machine may not have."""


@contextlib.contextmanager
def ray_head(*, num_cpus: int = 4, token: str | None = None, job_stop_wait_s: int = 60) -> Iterator[RayHead]:
    """Starts a head of its own ports and folder, and ends it with all its processes."""
    env = dict(os.environ) | {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_JOB_STOP_WAIT_TIME_S": str(job_stop_wait_s),
        "OMP_NUM_THREADS": "1",
        "RAY_metrics_report_interval_ms": "2000",
        "PYTHONPATH": str(ROOT),
    }
    env.pop("RAY_ADDRESS", None)
    # Said either way: Ray 2.60 asks for a token on its own, out of the home directory.
    env |= {"RAY_AUTH_MODE": "disabled"} if token is None else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    with contextlib.ExitStack() as stack:
        yield _started(stack, env, num_cpus=num_cpus, token=token)


def _started(stack: contextlib.ExitStack, env: dict[str, str], *, num_cpus: int, token: str | None) -> RayHead:
    """A head that answers, which `stack` ends."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return stack.enter_context(_attempt(env, num_cpus=num_cpus, token=token))
        except _StartTimedOut:
            continue
    return stack.enter_context(_attempt(env, num_cpus=num_cpus, token=token))


@contextlib.contextmanager
def _attempt(env: dict[str, str], *, num_cpus: int, token: str | None) -> Iterator[RayHead]:
    folder = Path(tempfile.mkdtemp(prefix="rh-", dir="/tmp"))
    gcs, dashboard, agent, client, metrics, first = _free_ports(6)
    arguments = {
        "node-ip-address": "127.0.0.1", "port": gcs, "dashboard-host": "127.0.0.1", "dashboard-port": dashboard,
        "dashboard-agent-listen-port": agent, "ray-client-server-port": client, "metrics-export-port": metrics,
        "runtime-env-agent-port": first, "num-cpus": num_cpus, "object-store-memory": 100 * 2**20, "temp-dir": folder,
    }  # fmt: skip
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
    log = folder / "start.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, *(f"--{name}={value}" for name, value in arguments.items())],
            env=env, cwd=folder, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    head = RayHead(f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}", folder, env)
    try:
        _wait_until_it_answers(head, process, log, token)
        yield head
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        _end_leftovers(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_it_answers(head: RayHead, process: subprocess.Popen[bytes], log: Path, token: str | None) -> None:
    request = urllib.request.Request(f"{head.dashboard}/api/jobs/")
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    deadline = time.monotonic() + _START_S
    while True:
        text = log.read_text()
        if process.poll() is not None:
            raise _StartTimedOut(text) if "timed out during startup" in text else AssertionError(f"ray start:\n{text}")
        # The dashboard answers before the node is up.
        if "Ray runtime started" in text:
            with contextlib.suppress(urllib.error.URLError, TimeoutError, ConnectionError):
                urllib.request.urlopen(request, timeout=5).close()
                return
        assert time.monotonic() < deadline, f"no answer of {head.dashboard} after {_START_S:g} s:\n{text}"
        time.sleep(0.5)


def _end_leftovers(folder: Path) -> None:
    """Kills what still runs out of `folder`; a head that is stopped properly leaves nothing."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{folder}/".encode() in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
