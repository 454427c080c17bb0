"""The seccomp program of the sandbox, built in plain Python for x86_64 and aarch64.

Invariant: a list of what is allowed, so a system call that nobody thought of (or that a later kernel adds) is refused. Not on
it: sockets, ptrace and the memory of other processes, namespaces, mounts, keys, bpf, perf, userfaultfd, io_uring, memfd, System V
and POSIX IPC, signals by file descriptor, personality, modules, reboot.
"""

from __future__ import annotations

import errno
import platform
import struct

from rollout_workers.grading.programs.unprivileged import PID_PLACEHOLDER

_TABLE = """
    read=0,63 write=1,64 open=2,- close=3,57 stat=4,- fstat=5,80 lstat=6,- poll=7,- lseek=8,62 mmap=9,222
    mprotect=10,226 munmap=11,215 brk=12,214 rt_sigaction=13,134 rt_sigprocmask=14,135 rt_sigreturn=15,139
    rt_sigpending=127,136 rt_sigtimedwait=128,137 rt_sigsuspend=130,133 sigaltstack=131,132 ioctl=16,29
    pread64=17,67 pwrite64=18,68 readv=19,65 writev=20,66 preadv=295,69 pwritev=296,70 access=21,- pipe=22,-
    pipe2=293,59 select=23,- pselect6=270,72 ppoll=271,73 sched_yield=24,124 mremap=25,216 madvise=28,233
    msync=26,227 dup=32,23 dup2=33,- dup3=292,24 pause=34,- nanosleep=35,101 clock_nanosleep=230,115
    getitimer=36,102 setitimer=38,103 alarm=37,- getpid=39,172 getppid=110,173 gettid=186,178 getuid=102,174
    geteuid=107,175 getgid=104,176 getegid=108,177 getgroups=115,158 getpgrp=111,- getpgid=121,155 getsid=124,156
    getresuid=118,148 getresgid=120,150 setresuid=117,147 setresgid=119,149 setgroups=116,159 socketpair=53,199
    sendto=44,206 recvfrom=45,207 shutdown=48,210 getsockname=51,204 clone=56,220 fork=57,- vfork=58,-
    clone3=435,435 execve=59,221 exit=60,93 exit_group=231,94 wait4=61,260 waitid=247,95 kill=62,129 tgkill=234,131
    tkill=200,130 uname=63,160 fcntl=72,25 flock=73,32 fsync=74,82 fdatasync=75,83 truncate=76,45 ftruncate=77,46
    fallocate=285,47 getdents=78,- getdents64=217,61 getcwd=79,17 chdir=80,49 fchdir=81,50 rename=82,-
    renameat=264,38 renameat2=316,276 mkdir=83,- mkdirat=258,34 rmdir=84,- creat=85,- link=86,- linkat=265,37
    unlink=87,- unlinkat=263,35 symlink=88,- symlinkat=266,36 readlink=89,- readlinkat=267,78 chmod=90,-
    fchmod=91,52 fchmodat=268,53 umask=95,166 utimensat=280,88 statfs=137,43 fstatfs=138,44 newfstatat=262,79
    statx=332,291 faccessat=269,48 faccessat2=439,439 openat=257,56 close_range=436,436 copy_file_range=326,285
    sendfile=40,71 fadvise64=221,223 gettimeofday=96,169 time=201,- times=100,153 clock_gettime=228,113
    clock_getres=229,114 getrlimit=97,163 setrlimit=160,164 prlimit64=302,261 getrusage=98,165 sysinfo=99,179
    getcpu=309,168 prctl=157,167 arch_prctl=158,- set_tid_address=218,96 set_robust_list=273,99 rseq=334,293
    futex=202,98 getrandom=318,278 sched_getaffinity=204,123 sched_get_priority_max=146,125
    sched_get_priority_min=147,126 epoll_create=213,- epoll_create1=291,20 epoll_ctl=233,21 epoll_wait=232,-
    epoll_pwait=281,22 setpgid=109,154 setsid=112,157 restart_syscall=219,128
"""
"""name=number on x86_64,number on aarch64; a dash where the architecture lacks it."""

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_NEWEST_KNOWN = 450
"""Numbers from here on are "not implemented" instead of "not permitted", so that the C library uses what came before."""

_LOAD, _EQUAL, _AT_LEAST, _HAS_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16

_CLONE_THREAD = 0x00010000
_CLONE_NAMESPACES = 0x7E020080
_AF_UNIX = 1
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX: whether it is a terminal, and flags of descriptors."""
_FILE_CHANGES = (
    "chmod", "fchmod", "fchmodat", "utimensat", "truncate", "ftruncate", "fallocate", "rename", "renameat", "renameat2", "mkdir",
    "mkdirat", "rmdir", "creat", "link", "linkat", "unlink", "unlinkat", "symlink", "symlinkat",
)  # fmt: skip
"""Some of these Landlock leaves alone: modes and times of whatever belongs to the user."""
_PR_SET_NAME, _PR_GET_NAME = 15, 16

Instruction = tuple[int, int, int, int]
"""Code, how far to jump when true, when false, and the operand."""


class UnsupportedArchitecture(Exception):
    """There is no table of system calls for this machine."""


def build_filter(*, allow_processes: bool, alone: bool, machine: str = "") -> bytes:
    """The program for `machine` (default: this one).

    `allow_processes` allows fork; threads are always allowed unless `alone`. `alone` is for a process that shares files and process
    ids with the host: no children, no threads, no execve, no change to the file system, and signals only to itself
    (`PID_PLACEHOLDER`).
    """
    machine = machine or platform.machine()
    if machine not in _ARCHITECTURES:
        raise UnsupportedArchitecture(f"the sandbox knows {sorted(_ARCHITECTURES)}, and this machine is '{machine}'")
    architecture, column = _ARCHITECTURES[machine]
    numbers = {name: int(columns[column]) for name, columns in _rows() if columns[column] != "-"}
    special = _special_rules(allow_processes=allow_processes, alone=alone)
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]  # fmt: skip
    for name, number in numbers.items():
        rule = special.get(name, [(_RETURN, 0, 0, _ALLOW)])
        program += [(_EQUAL, 0, len(rule), number), *rule]
    program += [
        (_AT_LEAST, 0, 1, _NEWEST_KNOWN), (_RETURN, 0, 0, _ERROR | errno.ENOSYS), (_RETURN, 0, 0, _ERROR | errno.EPERM),
    ]  # fmt: skip
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _rows() -> list[tuple[str, list[str]]]:
    return [(name, numbers.split(",")) for name, _, numbers in (word.partition("=") for word in _TABLE.split())]


def _argument(index: int, *, high: bool = False) -> Instruction:
    """Loads one half of an argument; both architectures are little-endian."""
    return (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * index + 4 * high)


def _deny(error: int = errno.EPERM) -> Instruction:
    return (_RETURN, 0, 0, _ERROR | error)


def _only(index: int, *values: int) -> list[Instruction]:
    """Allows the call when the low half of the argument is one of `values`."""
    tests = [(_EQUAL, len(values) - place, 0, value) for place, value in enumerate(values)]
    return [_argument(index), *tests, _deny(), (_RETURN, 0, 0, _ALLOW)]


def _special_rules(*, allow_processes: bool, alone: bool) -> dict[str, list[Instruction]]:
    allow = (_RETURN, 0, 0, _ALLOW)
    no_process = [_deny(errno.EAGAIN)]
    clone = [_argument(0), (_HAS_BITS, 0, 1, _CLONE_NAMESPACES), _deny()]
    if allow_processes:
        clone.append(allow)
    else:
        clone += [(_HAS_BITS, 0, 1, _CLONE_THREAD), allow, *no_process]
    rules: dict[str, list[Instruction]] = {
        "clone": clone,
        "clone3": [_deny(errno.ENOSYS)],  # its flags lie in memory, where no filter can see them
        "ioctl": _only(1, *_IOCTLS),
        "prctl": _only(0, _PR_SET_NAME, _PR_GET_NAME),
        "prlimit64": _only(0, 0),
        "sendto": [_argument(4), (_EQUAL, 0, 2, 0), _argument(4, high=True), (_EQUAL, 1, 0, 0), _deny(), allow],
        "socketpair": _only(0, _AF_UNIX),
    }
    if not allow_processes:
        rules |= {"fork": no_process, "vfork": no_process}
    if alone:
        own = _only(0, PID_PLACEHOLDER)
        rules |= {name: no_process for name in ("clone", "fork", "vfork")}
        rules |= {name: [_deny()] for name in _FILE_CHANGES}
        rules |= {
            "execve": [_deny()],
            "kill": own,
            "tgkill": own,
            "tkill": own,
            "setsid": [_deny()],
            "setpgid": [_deny()],
        }
    return rules
