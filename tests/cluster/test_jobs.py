"""Jobs: when one is submitted, and how a wait for it ends."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import ClassVar

import pytest
from ray.job_submission import JobStatus

import cluster.jobs
from cluster.errors import DeadlineExceeded, RunFailure, UserError
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


@pytest.fixture
def silent_api():
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_jobs_api_that_never_answers_is_a_named_deadline(silent_api, monkeypatch):
    monkeypatch.setattr(cluster.jobs, "REQUEST_DEADLINE_S", 0.2)
    with pytest.raises(
        DeadlineExceeded, match=rf"waited 0.2 s for the Jobs API at {silent_api}; missing: its answer to GET"
    ):
        job_client(silent_api)


class GoneClient(FakeClient):
    """Answers with what `answers` holds; an exception is raised."""

    answers: ClassVar[list[object]] = []

    def get_job_status(self, name: str) -> JobStatus:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def list_jobs(self) -> list[SimpleNamespace]:
        raise ConnectionError("the Jobs API at http://head:8265 does not answer: refused")


def test_a_head_that_is_restarted_does_not_end_the_wait_for_a_job(monkeypatch):
    monkeypatch.setattr(cluster.jobs, "_POLL_S", 0.0)
    client = GoneClient()
    client.answers[:] = [JobStatus.RUNNING, ConnectionError("refused"), DeadlineExceeded("slow"), JobStatus.SUCCEEDED]
    assert wait_for_job(client, "job", deadline_s=60)
    client.answers[:] = [ConnectionError("refused")] * 3
    monkeypatch.setattr(cluster.jobs, "GONE_DEADLINE_S", -1.0)
    with pytest.raises(DeadlineExceeded, match="job job, of which nothing is heard; missing: refused"):
        wait_for_job(client, "job", deadline_s=60)


def test_a_jobs_api_that_went_away_before_a_submission_is_one_line():
    with pytest.raises(
        RunFailure, match="job job-7 was not submitted: the Jobs API at http://head:8265 does not answer"
    ):
        submit_once(GoneClient(), "job-7", "true")
