"""S3 against a real server, straight and through a proxy that harms requests."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster.errors import UserError
from cluster.s3 import S3Storage
from cluster.storage import Bucket, StorageError, open_storage
from tests.fakes.fault_proxy import Fault, FaultProxy, Request
from tests.fakes.s3_server import BUCKET, READER, WRITER, S3Server, use

HARMLESS = [Fault("status", 500), Fault("status", 503), Fault("reset"), Fault("lost"), Fault("deaf"), Fault("silent")]


@pytest.fixture
def storage(s3_server: S3Server, request: pytest.FixtureRequest) -> S3Storage:
    return s3_server.storage(f"s3/{abs(hash(request.node.name))}")


@pytest.fixture
def proxy(s3_proxy: FaultProxy) -> FaultProxy:
    return s3_proxy


def behind(proxy: FaultProxy, server: S3Server, prefix: str, **settings: float) -> S3Storage:
    return server.storage(prefix, endpoint=proxy.endpoint, **{"timeout_s": 0.5, **settings})


def first(number: int, fault: Fault) -> Callable[[Request], Fault | None]:
    """The first `number` requests suffer `fault`."""
    left = iter(range(number))
    return lambda request: fault if next(left, None) is not None else None


def test_what_is_written_is_read_listed_and_deleted(storage: S3Storage) -> None:
    assert storage.list("") == []
    for key in ("b/2", "a", "b/10", "bc"):
        storage.write(key, key.encode())
    storage.write("a", b"new")
    assert storage.read("a") == b"new"
    assert storage.list("") == ["a", "b/10", "b/2", "bc"]
    assert storage.list("b") == ["b/10", "b/2", "bc"]
    assert storage.list("b/1") == ["b/10"]
    storage.delete("b/10")
    storage.delete("b/10")
    assert not storage.exists("b/10")
    assert storage.exists("b/2")
    with pytest.raises(FileNotFoundError, match=r"s3://test-bucket/.*/b/10"):
        storage.read("b/10")
    with pytest.raises(ValueError, match="not a relative path"):
        storage.write("../x", b"")


def test_a_listing_of_several_pages(storage: S3Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.s3._PAGE_KEYS", 2)
    keys = [f"k{number}" for number in range(5)]
    for key in keys:
        storage.write(key, b"")
    assert storage.list("") == keys


def test_the_same_place_by_its_uri(s3_server: S3Server) -> None:
    open_storage(f"s3://{BUCKET}/s3/uri/", s3_server.config()).write("a", b"1")
    assert s3_server.storage("s3").read("uri/a") == b"1"


def test_of_many_writers_on_one_version_one_wins(storage: S3Storage) -> None:
    assert storage.read_versioned("k") is None
    version = None
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            values = [os.urandom(8) for _ in range(4)]
            written = list(pool.map(lambda data, version=version: storage.write_if("k", data, version=version), values))
            (version,) = [each for each in written if each is not None]
            held = storage.read_versioned("k")
            assert held is not None
            assert (held.data, held.version) == (values[written.index(version)], version)
            assert held.age_s < 30


@pytest.mark.parametrize("fault", HARMLESS, ids=lambda fault: f"{fault.kind}{fault.status}")
def test_a_fault_that_passes_is_not_seen(s3_server: S3Server, proxy: FaultProxy, fault: Fault) -> None:
    storage = behind(proxy, s3_server, f"faults/{fault.kind}{fault.status}")
    proxy.choose = first(2, fault)
    storage.write("a", b"1" * 100_000)
    proxy.choose = first(1, fault)
    assert storage.read("a") == b"1" * 100_000
    proxy.choose = first(1, fault)
    assert storage.write_if("lease", b"mine", version=None) is not None
    assert proxy.num_faults == 4


@pytest.mark.parametrize("fault", [Fault("reset"), Fault("deaf")], ids=lambda fault: fault.kind)
def test_no_operation_sees_a_fault_that_passes(s3_server: S3Server, proxy: FaultProxy, fault: Fault) -> None:
    storage = behind(proxy, s3_server, f"operations/{fault.kind}")
    storage.write("a", b"1")
    version = storage.write_if("lease", b"mine", version=None)
    proxy.choose = first(1, fault)
    assert storage.list("") == ["a", "lease"]
    proxy.choose = first(1, fault)
    assert storage.write_if("lease", b"still mine", version=version) is not None
    proxy.choose = first(1, fault)
    assert storage.write_if("lease", b"not mine", version=version) is None
    assert storage.read("lease") == b"still mine"
    proxy.choose = first(1, fault)
    storage.delete("a")
    assert not storage.exists("a")
    assert proxy.num_faults == 4


def test_half_an_answer_is_read_again(s3_server: S3Server, proxy: FaultProxy) -> None:
    storage = behind(proxy, s3_server, "faults/short")
    data = os.urandom(1_000_000)
    storage.write("a", data)
    proxy.choose = first(2, Fault("short"))
    assert storage.read("a") == data
    assert proxy.num_faults == 2


@pytest.mark.parametrize(
    "fault", [Fault("status", 500), Fault("lost"), Fault("deaf"), Fault("silent")], ids=lambda f: f.kind
)
def test_a_fault_that_stays_is_an_error_at_the_deadline_that_names_it(
    s3_server: S3Server, proxy: FaultProxy, fault: Fault
) -> None:
    storage = behind(proxy, s3_server, f"stays/{fault.kind}", timeout_s=0.3, deadline_s=0.6)
    storage.within(10).write("a", b"old" * 50_000)
    proxy.choose = first(10**9, fault)
    words = {"status": "HTTP 500", "silent": "timeout", "lost": "Connection", "deaf": "Connection"}[fault.kind]
    with pytest.raises(StorageError, match=rf"^cannot write '{storage.bucket.uri('a')}': \d+ attempts in .*{words}"):
        storage.write("a", b"new" * 50_000)
    proxy.choose = first(0, fault)
    assert storage.within(10).read("a") == (b"new" if fault.kind == "deaf" else b"old") * 50_000


def test_a_large_object_goes_in_parts_and_each_is_sent_again(s3_server: S3Server, proxy: FaultProxy) -> None:
    storage = behind(proxy, s3_server, "parts", part_mib=5)
    data = os.urandom(11 * 2**20)
    seen: Counter[str] = Counter()

    def choose(request: Request) -> Fault | None:
        seen[request.path] += 1
        return Fault("lost" if "partNumber=2" in request.path else "deaf") if seen[request.path] == 1 else None

    proxy.choose = choose
    storage.write("big", data)
    assert storage.read("big") == data
    assert sum("partNumber" in path for path in seen) == 3


def test_a_large_object_that_cannot_be_sent_leaves_what_was_there(s3_server: S3Server, proxy: FaultProxy) -> None:
    storage = behind(proxy, s3_server, "no_parts", part_mib=5, deadline_s=0.5)
    storage.within(10).write("big", b"old")
    proxy.choose = lambda request: Fault("status", 503) if "partNumber=2" in request.path else None
    with pytest.raises(StorageError, match=r"cannot write part 2 of 's3://.*/big'.*HTTP 503"):
        storage.write("big", os.urandom(6 * 2**20))
    assert storage.within(10).read("big") == b"old"
    uploads = storage._client.list_multipart_uploads(Bucket=BUCKET)
    assert not [each for each in uploads.get("Uploads", ()) if "no_parts" in each["Key"]]


@pytest.fixture
def credentials() -> Iterator[None]:
    yield
    use(WRITER)


@pytest.mark.usefixtures("credentials")
def test_mistakes_of_the_user_are_told_at_once(s3_server: S3Server) -> None:
    def refusal(storage: S3Storage) -> str:
        with pytest.raises(UserError) as caught:
            storage.write("a", b"1")
        return str(caught.value)

    use(("writer", "wrong"))
    assert "403 SignatureDoesNotMatch" in refusal(s3_server.storage("x"))
    use(("nobody", "wrong"))
    assert "403 InvalidAccessKeyId" in refusal(s3_server.storage("x"))
    use(READER)
    message = refusal(s3_server.storage("x"))
    assert message.startswith(f"cannot write 's3://{BUCKET}/x/a': HTTP 403 AccessDenied")
    assert message.endswith("allowed: credentials that may read, write, list and delete there")
    use(WRITER)
    assert "NoSuchBucket" in refusal(S3Storage(Bucket("no-such-bucket", ""), s3_server.config()))
    with pytest.raises(UserError, match="Invalid endpoint: nowhere"):
        s3_server.storage("x", endpoint="nowhere")
    del os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["AWS_ACCESS_KEY_ID"]
    assert "Unable to locate credentials; allowed: credentials from boto3's standard chain" in refusal(
        s3_server.storage("x")
    )


def test_a_server_that_is_not_there_is_named(s3_server: S3Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
        storage = s3_server.storage("x", endpoint=endpoint, deadline_s=0.3)
        with pytest.raises(StorageError, match=f"Could not connect to the endpoint URL: .{endpoint}"):
            storage.read("a")
