"""Jobs: when one is submitted, and how a wait for it ends."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.job_submission import JobStatus

from cluster.errors import DeadlineExceeded, UserError
from cluster.jobs import job_client, submit_once, wait_for_job


class FakeClient:
    """Jobs by id, each with the statuses that it goes through."""

    def __init__(self, **jobs: JobStatus) -> None:
        self.jobs = dict(jobs)
        self.submitted: list[str] = []
        self.logs = ""

    def list_jobs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(submission_id=name, status=status) for name, status in self.jobs.items()]

    def delete_job(self, name: str) -> None:
        del self.jobs[name]

    def submit_job(self, *, entrypoint: str, submission_id: str, **options: object) -> None:
        assert submission_id not in self.jobs
        self.jobs[submission_id] = JobStatus.PENDING
        self.submitted.append(entrypoint)

    def get_job_status(self, name: str) -> JobStatus:
        return self.jobs[name]

    def get_job_logs(self, name: str) -> str:
        return self.logs


@pytest.mark.parametrize("status", [JobStatus.PENDING, JobStatus.RUNNING, JobStatus.SUCCEEDED])
def test_a_job_that_runs_or_has_succeeded_is_not_submitted_again(status):
    client = FakeClient(job=status)
    assert not submit_once(client, "job", "true")
    assert client.submitted == []


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.STOPPED])
def test_a_job_that_failed_or_was_stopped_runs_again(status):
    client = FakeClient(job=status)
    assert submit_once(client, "job", "true")
    assert not submit_once(client, "job", "true")
    assert client.submitted == ["true"]


@pytest.mark.parametrize(("status", "succeeded"), [(JobStatus.SUCCEEDED, True), (JobStatus.FAILED, False)])
def test_a_wait_ends_as_the_job_does_and_shows_what_it_printed(status, succeeded):
    client, shown = FakeClient(job=status), []
    client.logs = "line\n"
    assert wait_for_job(client, "job", deadline_s=1, on_log=shown.append) is succeeded
    assert shown == ["line\n"]


def test_a_wait_has_a_deadline_that_names_the_job():
    with pytest.raises(DeadlineExceeded, match=r"job job-7; missing: its end \(RUNNING\)"):
        wait_for_job(FakeClient(**{"job-7": JobStatus.RUNNING}), "job-7", deadline_s=-1)


@pytest.mark.parametrize("address", [None, "http://127.0.0.1:9"])
def test_a_missing_or_dead_address_is_one_line(address, monkeypatch):
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="allowed: the address of a cluster's Jobs API") as caught:
        job_client(address)
    assert "\n" not in str(caught.value)
