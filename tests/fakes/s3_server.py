"""A real S3 server (SeaweedFS, one process) for tests: it checks credentials and keeps what a killed client left."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from botocore.exceptions import ClientError, ConnectionError, HTTPClientError

from cluster import s3
from cluster.s3 import S3Storage
from cluster.storage import Bucket, StorageConfig

BUCKET = "test-bucket"
WRITER, READER = ("writer", "writer-secret"), ("reader", "reader-secret")
"""Key id and secret of who may do everything, and of who may only read and list."""
_START_DEADLINE_S = 60.0
_RIGHTS = {WRITER: ["Admin", "Read", "Write", "List", "Tagging"], READER: ["Read", "List"]}


@dataclass(frozen=True)
class S3Server:
    """A running server with one empty bucket."""

    address: tuple[str, int]

    @property
    def endpoint(self) -> str:
        return "http://{}:{}".format(*self.address)

    def config(self, **settings: Any) -> StorageConfig:
        """Settings that reach this server, with deadlines for tests."""
        given = {"timeout_s": 5.0, "start_deadline_s": 5.0, "deadline_s": 10.0, **settings}
        return StorageConfig(**{"endpoint": self.endpoint, "region": "us-east-1", "addressing_style": "path", **given})

    def storage(self, prefix: str, **settings: Any) -> S3Storage:
        return S3Storage(Bucket(BUCKET, f"{prefix}/" if prefix else ""), self.config(**settings))


def weed() -> Path | None:
    """The server's program, which the test extra installs where there is a build of it."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.is_file() else shutil.which("weed")
    return Path(found) if found else None


@contextlib.contextmanager
def serve() -> Iterator[S3Server]:
    """Starts the server and sets credentials of `WRITER` in this process; ends it, and puts back what was set before."""
    program = weed()
    assert program is not None
    folder = Path(tempfile.mkdtemp(prefix="s3-server-"))
    identities = [
        {"name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
        for (key, secret), actions in _RIGHTS.items()
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    names = ("master", "volume", "filer", "s3")
    ports = _free_ports(2 * len(names))
    kinds = [(name, kind) for name in names for kind in ("", ".grpc")]
    flags = [f"-{name}.port{kind}={port}" for (name, kind), port in zip(kinds, ports, strict=True)]
    s3_port = int(next(flag for flag in flags if flag.startswith("-s3.port=")).partition("=")[2])
    command = [
        str(program), "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        "-s3", f"-s3.config={folder / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false",
        "-master.volumeSizeLimitMB=64", "-master.telemetry=false", "-volume.max=8", *flags,
    ]  # fmt: skip
    log = (folder / "log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    before = dict(os.environ)
    try:
        use(WRITER)
        server = S3Server(("127.0.0.1", s3_port))
        _make_bucket(server, process, folder / "log")
        yield server
    finally:
        os.environ.clear()
        os.environ.update(before)
        process.kill()
        process.wait(timeout=30)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)
        for path in (path for port in ports for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")):
            path.unlink()


@contextlib.contextmanager
def shared_clients() -> Iterator[None]:
    """Storages with the same settings and credentials share one client, which takes long to make."""
    made: dict[tuple[StorageConfig, str | None, str | None], Any] = {}
    real = s3._client

    def client(bucket: Bucket, config: StorageConfig) -> Any:
        key = (config, os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY"))
        if key not in made:
            made[key] = real(bucket, config)
        return made[key]

    with mock.patch.object(s3, "_client", client):
        yield


def use(credentials: tuple[str, str]) -> None:
    """Clients made from now on use `credentials`, and no configuration of this machine."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"] = credentials
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull


def _make_bucket(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    client = server.storage("")._client
    deadline = time.monotonic() + _START_DEADLINE_S
    while True:
        try:
            client.create_bucket(Bucket=BUCKET)
            return
        except (ClientError, ConnectionError, HTTPClientError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the S3 server did not start: {error}; {log.read_text()[-2000:]}") from error
            time.sleep(0.1)


def _free_ports(number: int) -> list[int]:
    """Ports that nothing listens on now."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()
