"""Ray jobs: submitting under a stable id is idempotent, and waiting has a deadline and ends as the job does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from ray.job_submission import JobStatus, JobSubmissionClient

from cluster.errors import DeadlineExceeded, UserError

_POLL_S = 1.0
_ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
_CLUSTER_VARIABLE = "RAY_ADDRESS"
"""Set in every job: its cluster knows where its Jobs API is."""


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
        return JobSubmissionClient(address)
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
    """Submit `entrypoint` as `job_id`; False when that job runs or has succeeded. A failed or stopped one is run again."""
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
    """Whether the job succeeded, once it has ended; what it prints goes to `on_log`. Raises DeadlineExceeded."""
    deadline = time.monotonic() + deadline_s
    shown = 0
    while True:
        status = client.get_job_status(job_id)
        text = client.get_job_logs(job_id)
        if len(text) > shown:
            on_log(text[shown:])
            shown = len(text)
        if status.is_terminal():
            return status == JobStatus.SUCCEEDED
        if time.monotonic() > deadline:
            raise DeadlineExceeded.waiting_for(f"job {job_id}", seconds=deadline_s, missing=f"its end ({status.value})")
        time.sleep(_POLL_S)
