"""math-verify in its own processes: verdicts, deadlines, failures, threads, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from rollout_workers.grading import symbolic
from rollout_workers.grading.answers import GradeKind
from rollout_workers.grading.math_equivalence import grade_math
from rollout_workers.grading.symbolic import MAX_FORMULA_CHARS, MathVerify, Verdict, shared_math_verify

ENDLESS = "9^{9^{9^{9}}}"
DEADLINE_S = 60.0
"""Generous: a busy machine is not a failure."""

FAKE = """
import json, os, signal, sys, time
def reply(status, detail=""):
    print(json.dumps({"status": status, "detail": detail}), flush=True)
def serve(answer):
    reply("ready")
    for line in sys.stdin:
        answer(json.loads(line))
"""


@pytest.fixture(scope="module")
def math_verify() -> Iterator[MathVerify]:
    with closing(MathVerify(num_processes=1)) as checker:
        yield checker


@pytest.fixture
def fake(tmp_path):
    """Makes a checker whose program is the given lines after `FAKE`; it appends each process's id to the file `started`."""
    checkers: list[MathVerify] = []

    def make(lines: str, *, num_processes: int = 1) -> MathVerify:
        program = tmp_path / "program.py"
        started = f"open({str(tmp_path / 'started')!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
        program.write_text(FAKE + started + textwrap.dedent(lines))
        checkers.append(MathVerify(num_processes=num_processes, program=program))
        return checkers[-1]

    yield make
    for checker in checkers:
        checker.close()
    assert not [pid for pid in started_by(tmp_path) if is_there(pid)]


def started_by(folder: Path) -> list[int]:
    started = folder / "started"
    return [int(line) for line in started.read_text().split()] if started.exists() else []


def is_there(pid: int) -> bool:
    """Also true of a zombie."""
    return Path(f"/proc/{pid}").exists()


def is_gone_within(pid: int, seconds: float) -> bool:
    """Whether the process ends; nobody reaps it here, so a zombie counts as ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("x^2+2x+1", "(x+1)^2", Verdict.EQUAL), (r"\frac{1}{2}", "0.5", Verdict.EQUAL), ("1,-2", "-2,1", Verdict.EQUAL),
        (r"1 \pm \sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}", Verdict.EQUAL), ("5x - 7y + 4 = 0", "-5x + 7y - 4 = 0", Verdict.EQUAL),
        (r"\$5", "5", Verdict.EQUAL), ("x=5", "5", Verdict.EQUAL), (r"\text{even}", r"\text{odd}", Verdict.DIFFERENT),
        ("2x", "3x", Verdict.DIFFERENT), ("(1,2)", "(2,1)", Verdict.DIFFERENT), ("(3,4]", "[3,4]", Verdict.DIFFERENT),
        ("x=5", "y=5", Verdict.DIFFERENT),
    ],
)  # fmt: skip
def test_verdicts(math_verify, reference, answer, verdict):
    assert math_verify.compare(reference, answer, deadline_s=DEADLINE_S).verdict is verdict


@pytest.mark.parametrize(
    ("reference", "answer", "which"), [("5", "", "answer"), ("5", "\U0001f600\ud800", "answer"), ("", "5", "reference")]
)
def test_what_cannot_be_read_is_different_and_says_so(math_verify, reference, answer, which):
    comparison = math_verify.compare(reference, answer, deadline_s=DEADLINE_S)
    assert comparison.verdict is Verdict.DIFFERENT
    assert comparison.detail == f"math-verify cannot read the {which}"


def test_the_deadline_holds_inside_a_computation_and_the_next_comparison_works(math_verify):
    assert math_verify.compare("2x", "x+x", deadline_s=DEADLINE_S).verdict is Verdict.EQUAL
    start = time.monotonic()
    comparison = math_verify.compare("2", ENDLESS, deadline_s=0.5)
    assert time.monotonic() - start < 10
    assert comparison.verdict is Verdict.TIMED_OUT
    assert comparison.detail == "no symbolic comparison within 0.5 s"
    assert math_verify.compare("2x", "x+x", deadline_s=DEADLINE_S).verdict is Verdict.EQUAL


def test_threads_get_their_own_answers(math_verify):
    def compare(number: int) -> bool:
        assert threading.current_thread() is not threading.main_thread()
        comparison = math_verify.compare(f"{number}x", f"{number - number % 2}x", deadline_s=DEADLINE_S)
        return comparison.verdict is Verdict.EQUAL

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(compare, range(24))) == [number % 2 == 0 for number in range(24)]


def test_long_formulas_are_not_compared(fake, tmp_path):
    checker = fake("serve(lambda request: reply('equal'))")
    assert checker.compare("x", "x" * (MAX_FORMULA_CHARS + 1), deadline_s=1).verdict is Verdict.DIFFERENT
    assert not started_by(tmp_path)
    assert checker.compare("x", "\U0001f600" * MAX_FORMULA_CHARS, deadline_s=DEADLINE_S).verdict is Verdict.EQUAL


def test_processes_start_when_first_needed_and_are_used_again(fake, tmp_path):
    checker = fake("serve(lambda request: reply('equal', request['answer']))", num_processes=3)
    assert not started_by(tmp_path)
    assert [checker.compare("x", str(n), deadline_s=DEADLINE_S).detail for n in range(5)] == ["0", "1", "2", "3", "4"]
    assert len(started_by(tmp_path)) == 1


def test_a_process_is_replaced_after_so_many_comparisons(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(symbolic, "MAX_COMPARISONS", 2)
    checker = fake("serve(lambda request: reply('equal'))")
    for _ in range(5):
        assert checker.compare("x", "y", deadline_s=DEADLINE_S).verdict is Verdict.EQUAL
    assert len(started_by(tmp_path)) == 3


def test_threads_wait_for_an_idle_process(fake, monkeypatch):
    checker = fake("serve(lambda request: (time.sleep(0.3), reply('equal')))")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(checker.compare, "x", "y", deadline_s=DEADLINE_S)
        second = pool.submit(checker.compare, "x", "y", deadline_s=DEADLINE_S)
        assert first.result().verdict is second.result().verdict is Verdict.EQUAL
    monkeypatch.setattr(symbolic, "IDLE_DEADLINE_S", 0.05)
    with ThreadPoolExecutor(2) as pool:
        verdicts = [
            each.verdict for each in pool.map(lambda _: checker.compare("x", "y", deadline_s=DEADLINE_S), range(2))
        ]
    assert sorted(verdicts) == [Verdict.EQUAL, Verdict.FAILED]


def test_a_process_that_hangs_times_out_and_is_killed(fake, tmp_path):
    checker = fake("signal.signal(signal.SIGTERM, signal.SIG_IGN); serve(lambda request: time.sleep(600))")
    for _ in range(2):
        assert checker.compare("x", "y", deadline_s=0.2).verdict is Verdict.TIMED_OUT
    assert len(started_by(tmp_path)) == 2
    assert not [pid for pid in started_by(tmp_path) if is_there(pid)]


def test_half_a_reply_is_no_reply(fake):
    checker = fake("serve(lambda request: (sys.stdout.write('{\"status\": '), sys.stdout.flush(), time.sleep(600)))")
    assert checker.compare("x", "y", deadline_s=0.2).verdict is Verdict.TIMED_OUT


def test_a_process_that_dies_is_a_failure_with_its_last_words(fake, tmp_path):
    checker = fake("serve(lambda request: (print('out of luck', file=sys.stderr), os._exit(7)))")
    for _ in range(2):
        comparison = checker.compare("x", "y", deadline_s=DEADLINE_S)
        assert comparison.verdict is Verdict.FAILED
        assert comparison.detail == "the math-verify process ended with exit code 7: out of luck"
    assert len(started_by(tmp_path)) == 2
    grade = grade_math("2x", r"\boxed{x+x}", symbolic=True, checker=checker)
    assert grade.kind is GradeKind.GRADER_ERROR
    assert not grade.is_valid
    assert "exit code 7" in grade.detail


def test_a_process_that_is_killed_is_a_failure_and_is_replaced(fake, tmp_path):
    checker = fake("serve(lambda request: reply('equal'))")
    assert checker.compare("x", "y", deadline_s=DEADLINE_S).verdict is Verdict.EQUAL
    os.kill(started_by(tmp_path)[0], signal.SIGKILL)
    verdicts = [checker.compare("x", "y", deadline_s=DEADLINE_S).verdict for _ in range(2)]
    assert verdicts[-1] is Verdict.EQUAL
    assert verdicts[0] in (Verdict.EQUAL, Verdict.FAILED)


def test_a_missing_library_is_a_failure_that_is_not_tried_again(fake, tmp_path):
    checker = fake("reply('failed', \"ModuleNotFoundError: No module named 'math_verify'\")")
    for _ in range(3):
        comparison = checker.compare("x", "y", deadline_s=DEADLINE_S)
        assert comparison.verdict is Verdict.FAILED
        assert comparison.detail == "math-verify is not usable here: ModuleNotFoundError: No module named 'math_verify'"
    assert len(started_by(tmp_path)) == 1


def test_a_library_that_cannot_be_imported_is_reported(tmp_path, monkeypatch):
    (tmp_path / "math_verify.py").write_text("raise ImportError('broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with closing(MathVerify(num_processes=1)) as checker:
        comparison = checker.compare("x", "y", deadline_s=DEADLINE_S)
    assert comparison.verdict is Verdict.FAILED
    assert comparison.detail == "math-verify is not usable here: ImportError: broken"


def test_a_process_that_never_gets_ready_is_a_failure(fake, monkeypatch):
    monkeypatch.setattr(symbolic, "START_DEADLINE_S", 0.5)
    comparison = fake("time.sleep(600)").compare("x", "y", deadline_s=DEADLINE_S)
    assert comparison.verdict is Verdict.FAILED
    assert comparison.detail == "the math-verify process was not ready within 0.5 s"


def test_a_program_that_cannot_start_is_a_failure(tmp_path, monkeypatch):
    with closing(MathVerify(program=tmp_path / "absent.py")) as checker:
        comparison = checker.compare("x", "y", deadline_s=DEADLINE_S)
        assert comparison.verdict is Verdict.FAILED
        assert "absent.py" in comparison.detail
        monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
        assert "could not start" in checker.compare("x", "y", deadline_s=DEADLINE_S).detail


def test_an_interrupted_comparison_leaves_no_stale_reply(fake, monkeypatch):
    checker = fake("serve(lambda request: (time.sleep(0.3), reply('equal', request['answer'])))")
    assert checker.compare("x", "1", deadline_s=DEADLINE_S).detail == "1"

    def interrupted(*_: object) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(symbolic.os, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            checker.compare("x", "2", deadline_s=DEADLINE_S)
    assert checker.compare("x", "3", deadline_s=DEADLINE_S).detail == "3"


def test_closing_ends_the_processes_and_a_later_comparison_starts_new_ones(fake, tmp_path):
    checker = fake("serve(lambda request: reply('equal'))")
    assert checker.compare("x", "y", deadline_s=DEADLINE_S).verdict is Verdict.EQUAL
    checker.close()
    checker.close()
    assert not is_there(started_by(tmp_path)[0])
    assert checker.compare("x", "y", deadline_s=DEADLINE_S).verdict is Verdict.EQUAL
    assert len(started_by(tmp_path)) == 2


def test_closing_during_a_comparison_ends_it(fake, tmp_path):
    checker = fake("serve(lambda request: time.sleep(600))")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(checker.compare, "x", "y", deadline_s=DEADLINE_S)
        deadline = time.monotonic() + DEADLINE_S
        while not started_by(tmp_path):
            assert time.monotonic() < deadline, "the process did not start"
            time.sleep(0.02)
        time.sleep(0.2)
        checker.close()
        assert running.result(timeout=DEADLINE_S).verdict is Verdict.FAILED


def test_a_process_ends_with_its_parent_even_inside_a_computation(tmp_path):
    script = textwrap.dedent(f"""
        import os, threading, time
        from rollout_workers.grading.symbolic import shared_math_verify
        checker = shared_math_verify()
        checker.compare("2x", "x+x", deadline_s={DEADLINE_S})
        print(checker._processes[0]._process.pid, flush=True)
        threading.Thread(target=checker.compare, args=("2", {ENDLESS!r}), kwargs={{"deadline_s": 0.5}}, daemon=True).start()
        time.sleep(0.25)
        os._exit(0)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert is_gone_within(int(done.stdout), 20)


def test_the_processes_of_a_finished_program_are_gone(tmp_path):
    script = textwrap.dedent(f"""
        from rollout_workers.grading.symbolic import shared_math_verify
        checker = shared_math_verify()
        assert checker is shared_math_verify()
        checker.compare("2x", "x+x", deadline_s={DEADLINE_S})
        print(checker._processes[0]._process.pid)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr == ""
    assert not is_there(int(done.stdout))


def test_a_forked_process_uses_its_own(fake, tmp_path):
    checker = fake("serve(lambda request: reply('equal', str(os.getppid())))")
    assert checker.compare("x", "y", deadline_s=DEADLINE_S).detail == str(os.getpid())
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = int(checker.compare("x", "y", deadline_s=DEADLINE_S).detail != str(os.getpid()))
            checker.close()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert checker.compare("x", "y", deadline_s=DEADLINE_S).detail == str(os.getpid())


@pytest.mark.parametrize("deadline_s", [0, -1.0])
def test_a_deadline_must_be_positive(math_verify, deadline_s):
    with pytest.raises(ValueError, match=f"deadline_s must be > 0, got {deadline_s}"):
        math_verify.compare("x", "y", deadline_s=deadline_s)


def test_a_pool_needs_a_process():
    with pytest.raises(ValueError, match="num_processes must be >= 1, got 0"):
        MathVerify(num_processes=0)


def test_all_threads_share_the_same_processes():
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: id(shared_math_verify()), range(64)))) == 1


def test_grades_use_the_shared_processes_unless_told_otherwise():
    grade = grade_math("2x+2", r"\boxed{2(x+1)}", symbolic=True, deadline_s=DEADLINE_S)
    shared_math_verify().close()
    assert (grade.kind, grade.score, grade.detail) == (GradeKind.CORRECT, 1.0, "")
