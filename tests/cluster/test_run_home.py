"""Runs in S3: what a reader of the bucket finds, whatever happened to the writer and to its requests."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import UserError
from cluster.lease import LEASE, LeaseLost, RunInUse
from cluster.mirror import RunMirror
from cluster.run_dir import RunDir
from cluster.run_home import RunHome, open_run
from cluster.storage import StorageConfig, StorageError
from tests.fakes.fault_proxy import Fault, FaultProxy, Request
from tests.fakes.s3_server import BUCKET, READER, WRITER, S3Server, use

CONFIG: dict[str, Any] = {"learner": {"learning_rate": 0.1}, "workers": 2}
FAULTS = [Fault("status", 500), Fault("status", 503), Fault("reset"), Fault("lost"), Fault("deaf"), Fault("short")]


class Crash(BaseException):
    """As a kill would: nothing of the run's own code runs after it."""


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return f"runs/{abs(hash(request.node.name))}"


@pytest.fixture
def config(s3_server: S3Server, tmp_path: Path) -> StorageConfig:
    return s3_server.config(scratch=str(tmp_path / "scratch"), sync_every_s=1e6)


def open_s3(name: str, config: StorageConfig, run: dict[str, Any] = CONFIG, **options: Any) -> Any:
    return open_run(f"s3://{BUCKET}/{name}", run, storage=config, **options)


def step(number: int) -> str:
    return f"checkpoints/step-{number:06d}"


def weights(number: int) -> dict[str, bytes]:
    return {"policy.safetensors": b"weights %d " % number * 1000, "state.json": b"%d" % number}


def train(home: RunHome, number: int) -> None:
    """What a run writes for one checkpoint, in its order."""
    with home.run_dir.metrics_path.open("a") as file:
        file.write(f'{{"step": {number}}}\n')
    home.run_dir.publish(step(number), weights(number))


def found(server: S3Server, name: str, folder: Path) -> tuple[RunDir, RunMirror]:
    """The run as another machine sees it now."""
    run = RunDir(folder)
    mirror = RunMirror(run, server.storage(name))
    folder.mkdir()
    mirror.pull()
    return run, mirror


def test_a_run_goes_on_where_it_was_on_another_machine(
    s3_server: S3Server, config: StorageConfig, name: str, tmp_path: Path
) -> None:
    with open_s3(name, config) as home:
        for number in (1, 2, 3):
            train(home, number)
            home.run_dir.retain("checkpoints", 2)
        (home.run_dir.path / "plots").mkdir()
        (home.run_dir.path / "plots" / "a.png").write_bytes(b"png")
        assert home.run_dir.location == f"s3://{BUCKET}/{name}"
    assert list((tmp_path / "scratch").iterdir()) == []
    keys = [f"{step(n)}/{file}" for n in (2, 3) for file in ("manifest.json", "policy.safetensors", "state.json")]
    storage = s3_server.storage(name)
    assert storage.list("") == sorted([*keys, "config.yaml", LEASE, "metrics.jsonl", "plots/a.png"])
    with open_s3(name, config) as home:
        assert home.run_dir.latest("checkpoints") == (step(3), weights(3), [])
        assert home.run_dir.metrics_path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'
        home.run_dir.metrics_path.write_text('{"step": 1}\n')
        home.run_dir.publish(step(3), {"other": b"1"})
    assert storage.list(step(3)) == [f"{step(3)}/manifest.json", f"{step(3)}/other"]
    assert storage.read("metrics.jsonl") == b'{"step": 1}\n'


def test_a_checkpoint_is_in_the_bucket_soon_after_it_is_published(
    s3_server: S3Server, config: StorageConfig, name: str
) -> None:
    with open_s3(name, config) as home:
        train(home, 1)
        storage = s3_server.storage(name)
        for _ in range(200):
            if storage.exists(f"{step(1)}/manifest.json"):
                break
        assert storage.exists(f"{step(1)}/manifest.json")
        assert storage.read("metrics.jsonl") == b'{"step": 1}\n'


def test_another_run_or_a_stranger_is_refused_and_nothing_changes(
    s3_server: S3Server, config: StorageConfig, name: str
) -> None:
    storage = s3_server.storage(name)
    with (
        pytest.raises(UserError, match=f"'s3://{BUCKET}/{name}' holds no run to resume"),
        open_s3(name, config, resume=True),
    ):
        pass
    assert storage.list("") == []
    with open_s3(name, config) as home:
        train(home, 1)
    before = {key: storage.read(key) for key in storage.list("")}
    other = {**CONFIG, "workers": 3}
    with pytest.raises(UserError, match=r"another config: 'workers': 2 -> 3"), open_s3(name, config, other):
        pass
    with pytest.raises(UserError, match="already holds this run"), open_s3(name, config, resume=False):
        pass
    in_use = pytest.raises(RunInUse, match=f"'s3://{BUCKET}/{name}' is in use by")
    with open_s3(name, config), in_use, open_s3(name, config):
        pass
    assert {key: storage.read(key) for key in storage.list("") if key != LEASE} == {
        key: data for key, data in before.items() if key != LEASE
    }
    with open_s3(name, config, other, ignore=["workers"], resume=True):
        pass
    s3_server.storage(f"{name}-x").write("thesis.tex", b"mine")
    with pytest.raises(UserError, match=r"holds no run \(it has 'thesis\.tex'\)"), open_s3(f"{name}-x", config):
        pass
    assert s3_server.storage(f"{name}-x").list("") == ["thesis.tex"]


@pytest.fixture
def credentials() -> Iterator[None]:
    yield
    use(WRITER)


@pytest.mark.usefixtures("credentials")
def test_a_bucket_that_cannot_be_used_is_told_before_work_starts(
    s3_server: S3Server, config: StorageConfig, name: str, tmp_path: Path
) -> None:
    def refusal(config: StorageConfig) -> str:
        with pytest.raises(UserError) as caught, open_s3(name, config):
            raise AssertionError("work started")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    use(("writer", "wrong"))
    assert "SignatureDoesNotMatch" in refusal(config)
    use(READER)
    assert refusal(config).startswith(f"cannot write 's3://{BUCKET}/{name}/{LEASE}': HTTP 403 AccessDenied")
    use(WRITER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
        message = refusal(s3_server.config(endpoint=nobody, start_deadline_s=0.2))
    assert nobody in message
    assert "allowed: a server that answers within storage.start_deadline_s = 0.2" in message
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("cut", range(5))
def test_a_writer_that_dies_while_it_uploads_leaves_the_checkpoint_before(
    s3_server: S3Server, name: str, tmp_path: Path, cut: int
) -> None:
    """Killed before request number `cut` of the upload of a second checkpoint; then it is done again."""
    storage = s3_server.storage(name)
    run = RunDir(tmp_path / "local")
    run.begin(CONFIG)
    mirror = RunMirror(run, storage)
    home = RunHome(run, lease=None)  # type: ignore[arg-type]
    train(home, 1)
    mirror.sync()
    train(home, 2)
    left, write = iter(range(cut)), storage.write

    def dying(key: str, data: bytes) -> None:
        if next(left, None) is None:
            raise Crash
        write(key, data)

    storage.write = dying  # type: ignore[method-assign]
    if cut < 4:
        with pytest.raises(Crash):
            mirror.sync()
    else:
        mirror.sync()
    last = 2 if cut == 4 else 1
    seen, resumed = found(s3_server, name, tmp_path / "seen")
    latest = seen.latest("checkpoints")
    assert latest is not None
    assert latest[:2] == (step(last), weights(last))
    lines = seen.metrics_path.read_text().splitlines()
    assert len(lines) >= last, "never a checkpoint without the metrics before it"
    train(RunHome(seen, lease=None), 2)  # type: ignore[arg-type]
    resumed.sync()
    again, _ = found(s3_server, name, tmp_path / "again")
    assert again.latest("checkpoints") == (step(2), weights(2), [])


@pytest.mark.parametrize("damage", ["policy.safetensors", "manifest.json"])
def test_a_torn_checkpoint_in_the_bucket_is_skipped_and_mended(
    s3_server: S3Server, config: StorageConfig, name: str, damage: str
) -> None:
    with open_s3(name, config) as home:
        train(home, 1)
        train(home, 2)
    storage = s3_server.storage(name)
    storage.write(f"{step(2)}/{damage}", storage.read(f"{step(2)}/{damage}")[:-1])
    with open_s3(name, config) as home:
        latest = home.run_dir.latest("checkpoints")
        assert latest is not None
        assert latest[:2] == (step(1), weights(1))
        assert step(2) in latest[2][0]
        home.run_dir.publish(step(2), weights(2))
    with open_s3(name, config) as home:
        assert home.run_dir.latest("checkpoints") == (step(2), weights(2), [])


def test_nothing_is_lost_or_torn_behind_a_network_that_harms_every_third_request(
    s3_server: S3Server, s3_proxy: FaultProxy, name: str, tmp_path: Path
) -> None:
    draw = random.Random(0)
    config = s3_server.config(endpoint=s3_proxy.endpoint, timeout_s=2.0, sync_every_s=0.05, scratch=str(tmp_path))
    with open_s3(name, config) as home:
        s3_proxy.choose = lambda request: draw.choice(FAULTS) if draw.random() < 0.3 else None
        for number in range(1, 6):
            train(home, number)
            home.run_dir.retain("checkpoints", 2)
            seen, _ = found(s3_server, name, tmp_path / f"seen-{number}")
            latest = seen.latest("checkpoints")
            if latest is not None:
                at = int(latest[0].rpartition("-")[2])
                assert latest[:2] == (step(at), weights(at))
                assert len(seen.metrics_path.read_text().splitlines()) >= at
    assert s3_proxy.num_faults > 3
    s3_proxy.heal()
    with open_s3(name, config) as home:
        assert home.run_dir.published("checkpoints") == [step(4), step(5)]
        assert home.run_dir.latest("checkpoints") == (step(5), weights(5), [])
        assert len(home.run_dir.metrics_path.read_text().splitlines()) == 5


def test_an_upload_that_fails_to_the_end_is_an_error_and_the_local_copy_is_kept(
    s3_server: S3Server, s3_proxy: FaultProxy, name: str, tmp_path: Path
) -> None:
    config = s3_server.config(endpoint=s3_proxy.endpoint, deadline_s=0.3, scratch=str(tmp_path / "scratch"))

    def no_checkpoints(request: Request) -> Fault | None:
        return Fault("status", 503) if request.method == "PUT" and "checkpoints" in request.path else None

    with pytest.raises(StorageError) as caught, open_s3(name, config) as home:  # noqa: PT012
        s3_proxy.choose = no_checkpoints
        train(home, 1)
    (kept,) = (tmp_path / "scratch").iterdir()
    assert f"cannot write 's3://{BUCKET}/{name}/{step(1)}/" in str(caught.value)
    assert "HTTP 503" in str(caught.value)
    assert str(kept) in str(caught.value)
    assert RunDir(kept).latest("checkpoints") == (step(1), weights(1), [])
    # The error of the run itself goes first.
    with pytest.raises(ZeroDivisionError), open_s3(name, config) as home:  # noqa: PT012
        s3_proxy.choose = no_checkpoints
        train(home, 1)
        raise ZeroDivisionError
    assert len(list((tmp_path / "scratch").iterdir())) == 2


def test_a_failure_that_passes_is_no_error(
    s3_server: S3Server, s3_proxy: FaultProxy, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = s3_server.config(
        endpoint=s3_proxy.endpoint, deadline_s=0.1, sync_every_s=1e6, scratch=str(tmp_path / "scratch")
    )
    with open_s3(name, config) as home:
        s3_proxy.choose = lambda request: Fault("reset") if request.method == "PUT" else None
        train(home, 1)
        for _ in range(1000):
            if s3_proxy.num_faults:
                break
            home.lease.check()
            time.sleep(0.01)
        s3_proxy.heal()
    with open_s3(name, config) as home:
        assert home.run_dir.latest("checkpoints") == (step(1), weights(1), [])


def test_who_lost_the_lease_writes_no_more(s3_server: S3Server, config: StorageConfig, name: str) -> None:
    storage = s3_server.storage(name)
    with pytest.raises(StorageError, match="was taken over by"), open_s3(name, config) as home:  # noqa: PT012
        held = storage.read_versioned(LEASE)
        assert held is not None
        theirs = held.data.replace(home.lease._mine.token.encode(), b"theirs")
        assert storage.write_if(LEASE, theirs, version=held.version) is not None
        train(home, 1)
        with pytest.raises(LeaseLost):  # noqa: PT012
            for _ in range(1000):
                home.lease.check()
                time.sleep(0.01)
    assert not [key for key in storage.list("") if key.startswith("checkpoints")]


def test_archived_files_leave_the_local_copy_and_are_not_fetched(
    s3_server: S3Server, config: StorageConfig, name: str
) -> None:
    with open_s3(name, config) as home:
        home.run_dir.trajectories_path.mkdir()
        (home.run_dir.trajectories_path / "a.parquet").write_bytes(b"rows")
    assert s3_server.storage(name).read("trajectories/a.parquet") == b"rows"
    with open_s3(name, config) as home:
        assert not home.run_dir.trajectories_path.exists()
    assert s3_server.storage(name).read("trajectories/a.parquet") == b"rows"
