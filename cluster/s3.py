"""Storage in an S3 bucket, through boto3.

Each request is tried again with backoff until a total deadline; botocore's own retries are off, so that this is the only layer.
S3 replaces an object all at once and checks what it received, so a reader never sees a part of a value. What cannot get better by
waiting (no such bucket, no permission, wrong region) is a UserError at once.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    SSLError,
)

from cluster.errors import UserError
from cluster.logs import get_logger
from cluster.retry import attempts
from cluster.storage import Bucket, StorageConfig, StorageError, Versioned, check_key

Result = TypeVar("Result")

_TRANSIENT = (ConnectionError, CredentialRetrievalError, FlexibleChecksumError, HTTPClientError, IncompleteReadError)
_TRANSIENT_CODES = {
    "BadDigest", "ConditionalRequestConflict", "IncompleteBody", "OperationAborted", "RequestTimeout", "SlowDown",
}  # fmt: skip
"""Of answers below 500 that tell of a request damaged on its way, or of one beside it."""
_PAGE_KEYS = 1000
"""In one answer to a listing; no server gives more."""
_ABSENT = {"404", "NoSuchKey", "NotFound"}
_HINTS = {
    "NoSuchBucket": "an existing bucket",
    "PermanentRedirect": "storage.region of the bucket",
    "AuthorizationHeaderMalformed": "storage.region of the bucket",
    "IllegalLocationConstraintException": "storage.region of the bucket",
    "InvalidAccessKeyId": "credentials that the server knows",
    "SignatureDoesNotMatch": "credentials that the server knows",
    "ExpiredToken": "credentials that have not expired",
    "RequestTimeTooSkewed": "a clock that is right",
    "NotImplemented": "a server with conditional writes",
    "403": "credentials that may read, write, list and delete there",
    "AccessDenied": "credentials that may read, write, list and delete there",
}

logger = get_logger(__name__)


class S3Storage:
    """The objects below one prefix; safe to use from several threads."""

    def __init__(self, bucket: Bucket, config: StorageConfig, *, client: Any = None) -> None:
        """Asks the server nothing yet. Raises UserError for settings or credentials that boto3 cannot read."""
        self.bucket = bucket
        self._config = config
        self._deadline_s = config.deadline_s
        self._client = client or _client(bucket, config)

    def within(self, deadline_s: float) -> S3Storage:
        """The same storage with another deadline for each operation."""
        other = S3Storage(self.bucket, self._config, client=self._client)
        other._deadline_s = deadline_s
        return other

    def read(self, key: str) -> bytes:
        found = self._get(key)
        if found is None:
            raise FileNotFoundError(f"no object '{self.bucket.uri(key)}'")
        return found.data

    def write(self, key: str, data: bytes) -> None:
        part_bytes = self._config.part_mib * 2**20
        if len(data) > part_bytes:
            self._write_parts(key, data, part_bytes)
        else:
            self._call("write", key, lambda place: self._client.put_object(**place, Body=data))

    def exists(self, key: str) -> bool:
        def head(place: dict[str, str]) -> bool:
            return self._client.head_object(**place) is not None

        return bool(self._call("read", key, head, absent=False))

    def list(self, prefix: str) -> list[str]:
        start = self.bucket.prefix

        def pages(_: dict[str, str]) -> list[str]:
            paginator = self._client.get_paginator("list_objects_v2")
            found = paginator.paginate(
                Bucket=self.bucket.name, Prefix=start + prefix, PaginationConfig={"PageSize": _PAGE_KEYS}
            )
            return [entry["Key"].removeprefix(start) for page in found for entry in page.get("Contents", ())]

        # Consoles make empty objects whose names end in a slash, to show folders.
        return sorted(key for key in self._call("list", prefix, pages) if key and not key.endswith("/"))

    def delete(self, key: str) -> None:
        self._call("delete", key, lambda place: self._client.delete_object(**place), absent=None)

    def read_versioned(self, key: str) -> Versioned | None:
        return self._get(key)

    def write_if(self, key: str, data: bytes, *, version: str | None) -> str | None:
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        tries = 0

        def put(place: dict[str, str]) -> str | None:
            nonlocal tries
            tries += 1
            try:
                return str(self._client.put_object(**place, Body=data, **condition)["ETag"])
            except ClientError as error:
                if _status(error) != 412:
                    raise
            # The write before may have been done and its answer lost: then what it left is there.
            held = self._get(key) if tries > 1 else None
            return held.version if held is not None and held.data == data else None

        return self._call("write", key, put, absent=None)

    def _get(self, key: str) -> Versioned | None:
        def get(place: dict[str, str]) -> Versioned:
            answer = self._client.get_object(**place)
            return Versioned(answer["Body"].read(), answer["ETag"], _age_s(answer))

        return self._call("read", key, get, absent=None)

    def _write_parts(self, key: str, data: bytes, part_bytes: int) -> None:
        """A multipart upload, part by part; nothing shows before its completion, and a failed one is called off."""
        client = self._client
        upload = self._call("write", key, lambda place: client.create_multipart_upload(**place))["UploadId"]
        parts: list[dict[str, Any]] = []
        try:
            for number, start in enumerate(range(0, len(data), part_bytes), start=1):
                body = data[start : start + part_bytes]

                def put(place: dict[str, str], number: int = number, body: bytes = body) -> dict[str, Any]:
                    answer: dict[str, Any] = client.upload_part(**place, UploadId=upload, PartNumber=number, Body=body)
                    return answer

                answer = self._call(f"write part {number} of", key, put)
                checksums = {name: value for name, value in answer.items() if name.startswith("Checksum")}
                parts.append({"PartNumber": number, "ETag": answer["ETag"], **checksums})
            self._complete(key, upload, parts, size=len(data))
        except (StorageError, UserError):
            self._call_off(key, upload)
            raise

    def _complete(self, key: str, upload: str, parts: Sequence[dict[str, Any]], *, size: int) -> None:
        def complete(place: dict[str, str]) -> None:
            try:
                self._client.complete_multipart_upload(**place, UploadId=upload, MultipartUpload={"Parts": parts})
            except ClientError as error:
                # Done before, and the answer lost.
                if _code(error) != "NoSuchUpload" or self._client.head_object(**place)["ContentLength"] != size:
                    raise

        self._call("complete", key, complete)

    def _call_off(self, key: str, upload: str) -> None:
        try:
            self._client.abort_multipart_upload(**self._place(key), UploadId=upload)
        except (BotoCoreError, ClientError) as error:
            logger.warning("parts of '%s' may be left on the server: %s", self.bucket.uri(key), _reason(error))

    def _place(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket.name, "Key": self.bucket.prefix + check_key(key)}

    def _call(self, verb: str, key: str, request: Callable[[dict[str, str]], Result], *, absent: Any = ...) -> Result:
        """The answer to `request`, tried again while that may help; `absent`, if given, for an object that is not there."""
        place = {} if verb == "list" else self._place(key)
        begun = time.monotonic()
        for number in attempts(self._deadline_s):
            try:
                return request(place)
            except ClientError as error:
                last: ClientError | BotoCoreError = error
                if _code(error) in _ABSENT and absent is not ...:
                    return cast(Result, absent)
            except BotoCoreError as error:
                last = error
            if not _is_transient(last):
                raise UserError(
                    f"cannot {verb} '{self.bucket.uri(key)}': {_reason(last)}; allowed: {_hint(last)}"
                ) from last
            logger.debug("attempt %d to %s '%s' failed: %s", number, verb, self.bucket.uri(key), _reason(last))
        raise StorageError(
            f"cannot {verb} '{self.bucket.uri(key)}': {number} attempts in {time.monotonic() - begun:.1f} s "
            f"(deadline {self._deadline_s:g} s) failed, the last with: {_reason(last)}"
        ) from last


def _client(bucket: Bucket, config: StorageConfig) -> Any:
    try:
        return boto3.session.Session().client(
            "s3",
            endpoint_url=config.endpoint,
            region_name=config.region,
            config=Config(
                connect_timeout=config.timeout_s,
                read_timeout=config.timeout_s,
                retries={"total_max_attempts": 1, "mode": "standard"},
                s3={"addressing_style": config.addressing_style},
            ),
        )
    except (BotoCoreError, ValueError) as error:
        raise UserError(
            f"storage '{bucket.uri()}': {_reason(error)}; allowed: a URL and a profile that exist"
        ) from error


def _age_s(answer: dict[str, Any]) -> float:
    """Seconds since the object was written, both moments by the server's clock where it sends its own."""
    sent = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    now = email.utils.parsedate_to_datetime(sent) if sent else datetime.now(UTC)
    return max(0.0, float((now - answer["LastModified"]).total_seconds()))


def _is_transient(error: BotoCoreError | ClientError) -> bool:
    if isinstance(error, ClientError):
        status = _status(error)
        return (status >= 500 and status != 501) or status in (408, 429) or _code(error) in _TRANSIENT_CODES
    return isinstance(error, _TRANSIENT) and not isinstance(error, SSLError)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, ClientError):
        message = " ".join(str(error.response.get("Error", {}).get("Message", "")).split())
        return f"HTTP {_status(error)} {_code(error)}" + (f" ({message})" if message else "")
    return text or type(error).__name__


def _hint(error: BotoCoreError | ClientError) -> str:
    if isinstance(error, ClientError):
        return _HINTS.get(_code(error), "a bucket and credentials that this server accepts")
    return (
        "credentials from boto3's standard chain (AWS_ACCESS_KEY_ID, AWS_PROFILE, ...), and an endpoint that they fit"
    )


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
