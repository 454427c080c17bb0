"""Programs that try to pass without solving, or to get out: none passes, none gets out, none makes the grader fail.

`FORGERIES` go for the verdict of honest tests that they cannot satisfy. `ESCAPES` report each forbidden thing that worked. Both
run in the namespaces; those that need nothing of theirs run in the weaker mode too.
"""

from __future__ import annotations

import os
import pwd
import socket
from pathlib import Path

import pytest

from rollout_workers.grading.answers import Grade, GradeKind
from rollout_workers.grading.code import CodeCheck, run_checks
from rollout_workers.grading.sandbox import SandboxLimits, SandboxMode, open_sandbox

ROOT_HOME = pwd.getpwuid(0).pw_dir
TESTS = """
def check(f):
    results = [f(x) for x in (2, 3, 10)]
    assert results == [7, 12, 103], results
    assert f(4) == 19 and 19 == f(4)
    assert not f(4) != 19
    assert abs(f(5) - 28) < 1e-9
    assert f(6) in [39]
    assert f([1]) == [1, 3]
check(f)
"""
"""f(x) = x**2 + 3, and for a list the list with 3 appended; no attack below computes that."""

ALWAYS = """
class Always({base}):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __contains__ = __lt__
    def __hash__(self): return 0
    def __sub__(self, other): return {zero}
    __rsub__ = __add__ = __radd__ = __mod__ = __sub__
    def __abs__(self): return {zero}
    def __bool__(self): return True
    def __index__(self): return 0
    def __getattr__(self, name): return self
    def __call__(self, *a, **k): return self
    def __iter__(self): return iter([])
    def __len__(self): return 2
    def __getitem__(self, i): return self
    def __instancecheck__(self, other): return True
    def __repr__(self): return '19'
def f(x): return Always()
"""

FORGERIES = {
    "always equal": ALWAYS.format(base="object", zero="0.0"),
    "always equal, closed under arithmetic": ALWAYS.format(base="object", zero="self"),
    "an always equal int": ALWAYS.format(base="int", zero="0.0").replace(
        "    def __getattr__(self, name): return self\n", ""
    ),
    "an always equal str": ALWAYS.format(base="str", zero="0.0").replace(
        "    def __getattr__(self, name): return self\n", ""
    ),
    "an always equal list": ALWAYS.format(base="list", zero="0.0").replace(
        "    def __getattr__(self, name): return self\n", ""
    ),
    "an always equal dict": ALWAYS.format(base="dict", zero="0.0").replace(
        "    def __getattr__(self, name): return self\n", ""
    ),
    "an always equal tuple": ALWAYS.format(base="tuple", zero="0.0").replace(
        "    def __getattr__(self, name): return self\n", ""
    ),
    "an always equal class": """
class M(type):
    def __eq__(s, o): return True
    def __hash__(s): return 0
class f(metaclass=M):
    def __init__(s, x): pass
    def __eq__(s, o): return True
""",
    "a class in place of the function": """
class f:
    def __init__(s, x): pass
    def __contains__(s, v): return True
    def __eq__(s, o): return True
    def __sub__(s, o): return 0.0
""",
    "another number each time": """
class N:
    n = 0
    def __float__(s): N.n += 1; return [1.0, 0.0][N.n % 2]
    def __iter__(s): return iter([19])
def f(x): return N()
""",
    "a spoofed class": """
class S:
    __class__ = property(lambda s: int)
    def __eq__(s, o): return True
    def __sub__(s, o): return 0
def f(x): return S()
""",
    "raising inside comparisons": """
class R:
    def __eq__(s, o): raise SystemExit(0)
    __ne__ = __sub__ = __bool__ = __hash__ = __eq__
def f(x): return R()
""",
    "patched built-ins": """
import builtins
for n in ('all', 'any', 'abs', 'len', 'isinstance', 'print', 'sorted', 'AssertionError', 'repr', 'bool'):
    setattr(builtins, n, lambda *a, **k: True)
builtins.__import__ = lambda *a, **k: None
def f(x): return True
""",
    "its own helpers of the same names": """
def check(f): pass
def abs(x): return 0
def all(x): return True
class AssertionError(BaseException): pass
def f(x): return 0
""",
    "patched protocol": """
import sys
for n, m in list(sys.modules.items()):
    if 'programs' in n:
        for k in list(vars(m)):
            if k in ('is_unchanged', 'to_json', 'Encoder', 'parts_of'): setattr(m, k, lambda *a, **k: True)
def f(x): return 0
""",
    "patched link": """
import sys
L = sys.modules['rollout_workers.grading.programs.link'].Link
L._serve = lambda self, r: self._send(b'["reply","%s",true,19,[]]' % r[1].encode())
def f(x): return 0
""",
    "sys.exit in the call": """
import sys
def f(x): sys.exit(0)
""",
    "sys.exit while loading": """
def f(x): return 0
import sys
sys.exit(0)
""",
    "os._exit in the call": """
import os
def f(x): os._exit(0)
""",
    "os._exit while loading": """
import os
os._exit(0)
""",
    "atexit": """
import atexit, os
atexit.register(os._exit, 0)
def f(x): raise KeyboardInterrupt
""",
    "fork and leave": """
import os
def f(x):
    if os.fork(): os._exit(0)
    return 19
""",
    "fork and answer twice": """
import os
def f(x):
    os.fork()
    return 19
""",
    "closing every descriptor": """
import os
def f(x):
    os.closerange(0, 4096)
    return 19
""",
    "a verdict on every descriptor": r"""
import os
def f(x):
    for fd in range(64):
        for text in (b'["ready"]\n', b'["nonce","correct",""]\n', b'correct\n'):
            try: os.write(fd, text)
            except OSError: pass
    return 0
""",
    "an answer before the question": """
import sys, os
L = sys.modules['rollout_workers.grading.programs.link']
for fd in range(3, 64):
    try: os.write(fd, b'00000032["reply","0000000000000000",true]')
    except OSError: pass
def f(x): return 0
""",
    "garbage on every descriptor": """
import os
def f(x):
    for fd in range(3, 64):
        try: os.write(fd, os.urandom(4096))
        except OSError: pass
""",
    "a message without end": """
import os
def f(x):
    for fd in range(3, 64):
        try:
            os.write(fd, b'99999999[')
            while True: os.write(fd, b'[' * 65536)
        except OSError: pass
""",
    "nested JSON": """
import os
def f(x):
    m = b'[' * 1000000
    for fd in range(3, 64):
        try: os.write(fd, b'%08d' % len(m) + m)
        except OSError: pass
""",
    "endless callbacks": """
import sys
def f(x):
    link = next(v for v in map(lambda fr: fr.f_locals.get('self'), frames()) if hasattr(v, 'request'))
    while True: link.request('callback', 0, (), {})
def frames():
    fr = sys._getframe()
    while fr: yield fr; fr = fr.f_back
""",
    "a search for the nonce": """
import gc, sys
def f(x):
    fr = sys._getframe()
    found = []
    while fr: found += list(map(repr, fr.f_locals.values())); fr = fr.f_back
    found += [o for o in gc.get_objects() if isinstance(o, str) and len(o) == 32]
    return found[0] if found else 19
""",
    "lies about a class": """
import sys
C = sys.modules['rollout_workers.grading.programs.candidate'].Candidate
C._do_describe = lambda s, k: ('int', (int, object), ('__eq__', '__sub__'), False)
class A:
    def __eq__(s, o): return True
def f(x): return A()
""",
    "wrong contents for a class": """
import sys
C = sys.modules['rollout_workers.grading.programs.candidate'].Candidate
C.encode_other = lambda s, v, e: ['x', ['l', []], 0, 0]
class A: pass
def f(x): return A()
""",
    "negative references": """
import sys
C = sys.modules['rollout_workers.grading.programs.candidate'].Candidate
C.encode_other = lambda s, v, e: ['k', 0]
class A: pass
def f(x): return A()
""",
    "wrong lists of names": """
import sys
C = sys.modules['rollout_workers.grading.programs.candidate'].Candidate
C._do_export = lambda s, n: 19
C._do_names = lambda s: 19
def f(x): return 0
""",
    "changed arguments only": """
def f(x):
    if isinstance(x, list): x[:] = [1, 3]
    return x
""",
    "an exception that fits all": """
class E(BaseException):
    def __eq__(s, o): return True
    def __str__(s): raise SystemExit
def f(x): raise E()
""",
    "the exceptions of tests": "def f(x): raise AssertionError('passed')",
    "StopIteration": "def f(x): raise StopIteration(19)",
    "GeneratorExit": "def f(x): raise GeneratorExit",
    "an endless generator": """
def f(x):
    while True: yield 19
""",
    "a property that raises": """
class P:
    @property
    def __class__(s): raise SystemExit
    def __getattribute__(s, n): raise SystemExit
def f(x): return P()
""",
    "deep data": """
def f(x):
    r = 19
    for _ in range(100000): r = [r]
    return r
""",
    "deep tuples in deep dicts": """
def f(x):
    r = 19
    for _ in range(300): r = {1: (r,)}
    return r
""",
    "a cyclic tuple": """
def f(x):
    r = []
    t = (r,)
    r.append(t)
    return t
""",
    "not a number": "def f(x): return float('nan')",
    "a huge integer": "def f(x): return 19 ** 200000",
    "a result of a gigabyte": "def f(x): return 'x' * (100 << 20)",
    "a result at the limit": "def f(x): return [[]] * 200000",
    "lone surrogates": "def f(x): return '\\ud800\\udfff' * 10",
    "a segmentation fault": """
import ctypes
def f(x): ctypes.string_at(0)
""",
    "a stack overflow": """
import sys
sys.setrecursionlimit(10**9)
class A:
    def __repr__(s): return repr([s])
def f(x): return repr(A())
""",
    "endless recursion": "def f(x): return f(x)",
    "memory": """
def f(x):
    r = []
    while True: r.append(bytearray(1 << 24))
""",
    "memory while loading": """
r = 'x' * (1 << 40)
def f(x): return 19
""",
    "killing itself": """
import os, signal
def f(x): os.kill(os.getpid(), signal.SIGKILL)
""",
    "killing all": """
import os, signal
def f(x):
    try: os.kill(-1, signal.SIGKILL)
    except OSError: pass
    try: os.kill(1, signal.SIGKILL)
    except OSError: pass
    try: os.kill(os.getppid(), signal.SIGKILL)
    except OSError: pass
    return 0
""",
    "tracing": """
import sys, threading
sys.settrace(lambda *a: None)
sys.setprofile(lambda *a: None)
threading.settrace(lambda *a: None)
def f(x): return 0
""",
    "other streams": """
import sys, io
sys.stdout = sys.stderr = io.StringIO()
sys.excepthook = sys.unraisablehook = lambda *a: None
def f(x): print('19'); raise SystemExit(0)
""",
    "a module of the tests' name": """
import sys
sys.modules['tests'] = sys.modules['__main__'] = sys
def f(x): return 0
""",
    "input": "def f(x): return int(input())",
    "debugger": "def f(x): breakpoint()",
    "redefined exports": """
def f(x):
    global f
    f = lambda x: 19
    return 0
""",
    "an answer by thread": """
import threading, os
def late():
    for fd in range(3, 64):
        try: os.write(fd, b'00000000')
        except OSError: pass
def f(x):
    threading.Timer(0.01, late).start()
    return 0
""",
}

ENDLESS = {
    "an endless loop": """
def f(x):
    while True: pass
""",
    "a sleep": """
import time
def f(x): time.sleep(1000)
""",
    "deaf to signals": """
import signal, time
for s in range(1, 65):
    try: signal.signal(s, signal.SIG_IGN)
    except (OSError, ValueError): pass
def f(x):
    while True: time.sleep(1)
""",
    "catching everything": """
def f(x):
    while True:
        try:
            while True: pass
        except BaseException: pass
""",
    "threads without end": """
import threading
def spin():
    while True: pass
def f(x):
    try:
        while True: threading.Thread(target=spin).start()
    except RuntimeError: spin()
""",
    "processes without end": """
import os
def f(x):
    while True:
        try: os.fork()
        except OSError: pass
""",
    "a daemon": """
import os, time
def f(x):
    try:
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0: time.sleep(1000)
            os._exit(0)
    except OSError: pass
    time.sleep(1000)
""",
    "printing without end": """
import sys, os
def f(x):
    while True: sys.stdout.write('x' * 65536); os.write(1, b'x' * 65536); os.write(2, b'x' * 65536)
""",
    "files without end": """
import os
def f(x):
    n = 0
    while True:
        n += 1
        try: open(f'/tmp/{n}', 'wb').write(bytes(1 << 20))
        except OSError: pass
""",
    "a regular expression": """
import re
def f(x): return re.match('(a+)+$', 'a' * 60 + 'b')
""",
    "a big power": "def f(x): return len(str(7 ** 7 ** 8))",
    "never reading": """
import time
time.sleep(1000)
""",
}
"""Those that must be cut off by the clock, or fail earlier."""

ESCAPES = {
    "files of the host": """
import os
def f():
    out = []
    for p in PATHS:
        try: out.append((p, len(open(p, 'rb').read(1))))
        except OSError: pass
    return out
""",
    "folders of the host": """
import os
def f():
    out = []
    for p in FOLDERS:
        try: out += [(p, n) for n in os.listdir(p) if n not in ('.pyenv', 'ld.so.cache')]
        except OSError: pass
    return out
""",
    "the environment": """
import os, ctypes
def f():
    out = [k for k in os.environ if k not in ('HOME', 'LANG', 'PWD', 'PYTHONHASHSEED', 'LC_CTYPE')]
    return out + [v for v in os.environ.values() if 'secret' in v]
""",
    "the process table": """
import os
def f():
    files = ('/proc/1/environ', '/proc/self/environ', '/proc/self/maps', '/proc/self/mem', '/sys/kernel')
    return [p for p in files if os.access(p, os.R_OK) and opened(p)]
def opened(p):
    try: open(p, 'rb').close() if not os.path.isdir(p) else os.listdir(p)
    except OSError: return False
    return True
""",
    "writing": """
import os, sys
def f():
    out = []
    for d in ('/', '/usr/lib', '/etc', '/dev', '/dev/shm', '/home', '/var/tmp', os.path.dirname(os.__file__), sys.prefix):
        try: open(d + '/x', 'w').close(); out.append(d)
        except OSError: pass
    return out
""",
    "remounting": """
import ctypes, os, sys
def f():
    libc = ctypes.CDLL(None, use_errno=True)
    flags = 32 | 4096
    return [p for p in (b'/', b'/usr/lib', b'/tmp') if libc.mount(None, p, None, flags, None) == 0 or libc.umount2(p, 2) == 0]
""",
    "sockets": """
import socket
def f():
    out = []
    for fam in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, 16, 17, 38, 40):
        for kind in (1, 2, 3):
            try: socket.socket(fam, kind).close(); out.append((int(fam), kind))
            except OSError: pass
    return out
""",
    "connecting": """
import socket
def f():
    out = []
    for host in ('127.0.0.1', 'localhost', '::1'):
        try: socket.create_connection((host, PORT), 1); out.append(host)
        except OSError: pass
    return out
""",
    "a socket pair as a socket": r"""
import socket
def f():
    out = []
    a, b = socket.socketpair(type=socket.SOCK_DGRAM)
    for path in (UNIX, '\0' + UNIX):
        for act, args in ((a.connect, (path,)), (a.sendto, (b'x', path)), (a.bind, (path,)), (a.sendmsg, ([b'x'], [], 0, path))):
            try: act(*args); out.append(path)
            except OSError: pass
    return out
""",
    "system calls": """
import ctypes, platform
CALLS = dict(
    ptrace=(101, 117), vmread=(310, 270), unshare=(272, 97), setns=(308, 268), bpf=(321, 280), perf=(298, 241), keyctl=(250, 219),
    uffd=(323, 282), uring=(425, 425), memfd=(319, 279), shm=(29, 194), personality=(135, 92), pidfd=(434, 434), clone3=(435, 435),
    chroot=(161, 51), kexec=(246, 104), swapon=(167, 224), pivot=(155, 41), mknod=(259, 33), sched=(144, 119), execveat=(322, 281),
    openat2=(437, 437), mseal=(462, 462))
def f():
    c = ('x86_64', 'aarch64').index(platform.machine())
    libc = ctypes.CDLL(None, use_errno=True)
    return [n for n, v in CALLS.items() if libc.syscall(v[c], 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() not in (1, 38, 11)]
""",
    "new namespaces": """
import ctypes, platform, os
def f():
    libc = ctypes.CDLL(None, use_errno=True)
    nr = {'x86_64': 56, 'aarch64': 220}[platform.machine()]
    out = []
    for flag in (0x10000000, 0x00020000, 0x20000000, 0x40000000, 0x08000000, 0x04000000, 0x02000000):
        r = libc.syscall(nr, flag | 17, 0, 0, 0, 0)
        if r == 0: os._exit(0)
        if r != -1: out.append(flag)
    return out
""",
    "other architectures": """
import ctypes, mmap, platform
def f():
    if platform.machine() != 'x86_64': return []
    libc = ctypes.CDLL(None, use_errno=True)
    return [n for n in (41, 101, 272) if libc.syscall(n | 0x40000000, 2, 1, 0, 0, 0) != -1]
""",
    "becoming root": """
import os
def f():
    out = []
    for act, *args in ((os.setuid, 0), (os.setgroups, [0]), (os.chroot, '/tmp'), (os.mknod, '/tmp/n', 0o60600, 0x800)):
        try: act(*args); out.append(act.__name__)
        except OSError: pass
    return out + ([] if os.getuid() else ['root'])
""",
    "raising limits": """
import resource
def f():
    out = []
    for w in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
        soft, hard = resource.getrlimit(w)
        try: resource.setrlimit(w, (hard + 1, hard + 1)); out.append(w)
        except (OSError, ValueError): pass
        if hard == resource.RLIM_INFINITY: out.append(w)
    return out
""",
    "other programs": """
import subprocess, os
def f():
    out = []
    for c in (['/bin/sh', '-c', 'id'], ['/usr/bin/id'], ['bwrap'], ['python3', '-c', '']):
        try: subprocess.run(c); out.append(c)
        except OSError: pass
    return out
""",
    "leaked descriptors": """
import os
def f():
    out = []
    for fd in range(3, 1024):
        try: st = os.fstat(fd)
        except OSError: continue
        if (st.st_mode & 0o170000) != 0o010000: out.append(fd)
    return out
""",
    "installed packages and tests": """
import os, sys, glob
def f():
    places = (os.path.dirname(os.__file__) + '/site-packages/*', '/usr/lib/python3*/*-packages/*', '/tmp/*')
    found = [path for place in places for path in glob.glob(place)]
    return found[:3] + [n for n in ('torch', 'numpy', 'ray', 'rollout_workers.grader') if spec(n)]
def spec(n):
    try: __import__(n)
    except ImportError: return False
    return True
""",
    "the terminal": """
import os, fcntl
def f():
    out = []
    for p in ('/dev/tty', '/dev/console', '/dev/pts/0', '/dev/mem', '/dev/kmsg'):
        try: os.close(os.open(p, os.O_RDWR)); out.append(p)
        except OSError: pass
    for fd in (0, 1, 2):
        try: fcntl.ioctl(fd, 0x5412, b'x'); out.append(fd)
        except OSError: pass
    return out
""",
    "signals to the host": """
import os
def f():
    out = []
    for pid in HOST_PIDS:
        try: os.kill(pid, 0); out.append(pid)
        except OSError: pass
    return out
""",
    "changing files": """
import os
def f():
    out = []
    for p in [MINE]:
        acts = (os.chmod, p, 0o644), (os.utime, p), (os.truncate, p, 3), (os.rename, p, p), (os.chown, p, -1, -1)
        for act, *args in acts:
            try: act(*args); out.append((act.__name__, p))
            except OSError: pass
    return out
""",
    "a big file": """
import os
def f():
    try:
        with open('/tmp/big', 'wb') as file:
            for _ in range(64): file.write(bytes(1 << 20))
    except OSError: return []
    return ['wrote']
""",
    "the judge's tests": """
import gc, sys
def f():
    return [o for o in gc.get_objects() if isinstance(o, dict) and 'a-word-of-the-tests' in map(str, list(o.values())[:50])]
""",
}
IN_NAMESPACES_ONLY = {"folders of the host", "becoming root", "leaked descriptors", "installed packages and tests"}
"""Reading the names in folders and being root without privileges are what the weaker mode leaves open (docs/sandbox.md)."""

QUICK = SandboxLimits(wall_s=20.0, cpu_s=5)


def grade_all(mode: SandboxMode, checks: dict[str, CodeCheck]) -> dict[str, Grade]:
    sandbox = open_sandbox(mode, QUICK)
    return dict(zip(checks, run_checks(list(checks.values()), sandbox=sandbox, num_parallel=3), strict=True))


@pytest.fixture(
    scope="module", params=[SandboxMode.NAMESPACES, pytest.param(SandboxMode.PROCESS, marks=pytest.mark.slow)]
)
def forged(request) -> dict[str, Grade]:
    checks = {name: CodeCheck(code, TESTS, exports=("f",)) for name, code in FORGERIES.items()}
    checks |= {name: CodeCheck(code, TESTS, exports=("f",), timeout_s=0.25) for name, code in ENDLESS.items()}
    return grade_all(request.param, checks)


@pytest.mark.parametrize("name", [*FORGERIES, *ENDLESS])
def test_no_forgery_passes_and_none_breaks_the_grader(forged, name):
    allowed = {GradeKind.WRONG, GradeKind.TIMED_OUT}
    assert forged[name].kind in allowed, f"{forged[name].kind}: {forged[name].detail}"


@pytest.fixture(scope="module", params=list(SandboxMode))
def escaped(request, tmp_path_factory) -> dict[str, Grade]:
    secret = tmp_path_factory.mktemp("host") / "secret.txt"
    secret.write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOST_SECRET", "secret")
        given = {
            "PATHS": ["/etc/passwd", "/etc/shadow", str(secret), __file__, f"/proc/{os.getpid()}/environ", f"{ROOT_HOME}/.bashrc"],
            "FOLDERS": ["/home", ROOT_HOME, str(Path(__file__).parent), "/tmp", "/etc", "/proc"],
            "MINE": str(secret),
            "PORT": server.getsockname()[1],
            "UNIX": str(secret.parent / "socket"),
            "HOST_PIDS": [os.getpid(), os.getppid()],
        }  # fmt: skip
        head = "".join(f"{name} = {value!r}\n" for name, value in given.items())
        names = [name for name in ESCAPES if request.param is SandboxMode.NAMESPACES or name not in IN_NAMESPACES_ONLY]
        tests = "word = 'a-word-of-the-tests'\nfound = f()\nassert found == [], found"
        return grade_all(request.param, {name: CodeCheck(head + ESCAPES[name], tests) for name in names})


@pytest.mark.parametrize("name", ESCAPES)
def test_nothing_forbidden_works(escaped, name):
    if name not in escaped:
        pytest.skip("documented as open in the mode 'process'")
    assert escaped[name].is_correct, f"{escaped[name].kind}: {escaped[name].detail}"
