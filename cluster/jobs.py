"""Ray jobs: submitting under a stable id is idempotent, and waiting has a deadline and ends as the job does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import requests
from ray.job_submission import JobStatus, JobSubmissionClient

from cluster.errors import DeadlineExceeded, RunFailure, UserError

_POLL_S = 1.0
REQUEST_DEADLINE_S = 60.0
"""For each answer of the Jobs API."""
GONE_DEADLINE_S = 120.0
"""For a Jobs API that went away while a job is waited for."""
_ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
_CLUSTER_VARIABLE = "RAY_ADDRESS"
"""Set in every job: its cluster knows where its Jobs API is."""


class _Client(JobSubmissionClient):
    """Ray's client, whose requests wait for ever; these do not."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        where = f"the Jobs API at {self._address}"
        try:
            return super()._do_request(method, endpoint, **{"timeout": REQUEST_DEADLINE_S} | options)
        except requests.Timeout as error:
            missing = f"its answer to {method} {endpoint}"
            raise DeadlineExceeded.waiting_for(where, seconds=REQUEST_DEADLINE_S, missing=missing) from error
        except requests.ConnectionError as error:
            raise ConnectionError(f"{where} does not answer: {error}") from error


def job_client(address: str | None) -> JobSubmissionClient:
    """A client of the Jobs API at `address`, in RAY_API_SERVER_ADDRESS or of the cluster in RAY_ADDRESS.

    Raises UserError when nothing answers there.
    """
    address = address or os.environ.get(_ADDRESS_VARIABLE) or os.environ.get(_CLUSTER_VARIABLE)
    variables = f"the variable {_ADDRESS_VARIABLE} or {_CLUSTER_VARIABLE}"
    allowed = f"allowed: the address of a cluster's Jobs API (http://HOST:8265), or {variables}"
    if not address:
        raise UserError(f"there is no address to submit jobs to; {allowed}")
    try:
        return _Client(address)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"no Jobs API at '{address}': {reason}; {allowed}") from error


def submit_once(
    client: JobSubmissionClient,
    job_id: str,
    entrypoint: str,
    *,
    runtime_env: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bool:
    """Submit `entrypoint` as `job_id`; False when that job runs or has succeeded. A failed or stopped one is run again.

    Raises RunFailure when the Jobs API is gone or refuses, DeadlineExceeded when it does not answer.
    """
    try:
        return _submit_once(client, job_id, entrypoint, runtime_env, metadata)
    except (ConnectionError, RuntimeError) as error:
        # Of an error inside the API its traceback, whose last line says what it was.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = lines[0] if len(lines) == 1 else f"{lines[0]} ... {lines[-1]}"
        raise RunFailure(f"job {job_id} was not submitted: {reason}") from error


def _submit_once(
    client: JobSubmissionClient,
    job_id: str,
    entrypoint: str,
    runtime_env: Mapping[str, Any] | None,
    metadata: Mapping[str, str] | None,
) -> bool:
    held = {job.submission_id: job.status for job in client.list_jobs()}.get(job_id)
    if held is not None:
        if held not in (JobStatus.FAILED, JobStatus.STOPPED):
            return False
        client.delete_job(job_id)
    client.submit_job(
        entrypoint=entrypoint,
        submission_id=job_id,
        runtime_env=dict(runtime_env or {}),
        metadata=dict(metadata or {}),
    )
    return True


def wait_for_job(
    client: JobSubmissionClient, job_id: str, *, deadline_s: float, on_log: Callable[[str], None] = lambda text: None
) -> bool:
    """Whether the job succeeded, once it has ended; what it prints goes to `on_log`.

    Raises DeadlineExceeded, also where the Jobs API has not answered for `GONE_DEADLINE_S`.
    """
    deadline = time.monotonic() + deadline_s
    heard = time.monotonic()
    shown = 0
    while True:
        try:
            status = client.get_job_status(job_id)
            text = client.get_job_logs(job_id)
        except (ConnectionError, DeadlineExceeded) as error:
            # The head may be restarted meanwhile; the job goes on.
            if time.monotonic() > min(deadline, heard + GONE_DEADLINE_S):
                what = f"job {job_id}, of which nothing is heard"
                raise DeadlineExceeded.waiting_for(what, seconds=GONE_DEADLINE_S, missing=str(error)) from error
            time.sleep(_POLL_S)
            continue
        heard = time.monotonic()
        if len(text) > shown:
            on_log(text[shown:])
            shown = len(text)
        if status.is_terminal():
            return status == JobStatus.SUCCEEDED
        if time.monotonic() > deadline:
            raise DeadlineExceeded.waiting_for(f"job {job_id}", seconds=deadline_s, missing=f"its end ({status.value})")
        time.sleep(_POLL_S)
