"""One hostile program a promise: what untrusted code tries, and what the judge says of it."""

import pytest

from o1jax.records import Status, TestCase
from o1jax.sandbox.interface import Job, Limits
from o1jax.sandbox.wire import payload

DENIED = ("PermissionError", "OSError")


def test_fork_bomb_makes_no_process(stdin_case):
    case = stdin_case("import os\nwhile True: os.fork()")
    assert case.status is Status.RE and case.detail.startswith("PermissionError")


def test_raw_fork_and_exec_are_refused(stdin_case):
    source = """
import ctypes, os
libc = ctypes.CDLL(None)
clone = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
made = [libc.fork(), libc.syscall(clone, 17, 0, 0, 0, 0)]
try:
    os.execv("/bin/true", ["true"])
except OSError:
    print("ok" if made == [-1, -1] else made)
"""
    assert stdin_case(source).status is Status.AC


def test_endless_loop_is_a_cpu_verdict(stdin_case):
    case = stdin_case("while True: pass")
    assert (case.status, case.detail) == (Status.TLE, "CPU time") and case.cpu_s >= 0.5


def test_endless_loop_in_c_that_ignores_signals(stdin_case):
    source = """
import signal
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
sum(iter(int, 1))
"""
    assert stdin_case(source).status is Status.TLE


def test_sleep_is_a_wall_verdict(stdin_case):
    case = stdin_case("import time\ntime.sleep(60)", limits=Limits(cpu_s=0.2, wall_s=0.8))
    assert (case.status, case.detail) == (Status.TLE, "wall time")


@pytest.mark.parametrize(
    "source", ["x = [0] * 10**9", "x = bytearray(1 << 32)", "x = 'a'\nwhile True: x += x"]
)
def test_memory_is_capped(stdin_case, source):
    assert stdin_case(source, limits=Limits(5.0, 60.0, memory_mb=64)).status is Status.MLE


def test_shared_memory_is_capped(stdin_case):
    assert stdin_case("import mmap\nm = mmap.mmap(-1, 1 << 32)").status is Status.RE


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_flood_is_cut(stdin_case, stream):
    case = stdin_case(f"import sys\nwhile True: sys.{stream}.write('x' * 9999)")
    assert case.status in (Status.OLE, Status.RE)


def test_output_limit_is_its_own_verdict(stdin_case):
    assert stdin_case("print('x' * (2 << 20))").status is Status.OLE


def test_exit_before_output_is_wrong(stdin_case):
    assert stdin_case("import os\nprint('ok')\nos._exit(0)").status is Status.WA


def test_right_output_and_wrong_exit_status_fails(stdin_case):
    case = stdin_case("print('ok')\nexit(3)")
    assert (case.status, case.detail) == (Status.RE, "exit status 3")


def test_right_output_and_an_exception_fails(stdin_case):
    case = stdin_case("print('ok')\nraise ValueError('why')")
    assert (case.status, case.detail) == (Status.RE, "ValueError: why")


def test_segfault_is_a_signal(stdin_case):
    assert stdin_case("import ctypes\nctypes.string_at(0)").detail == "SIGSEGV"


@pytest.mark.parametrize("target", ["-1", "os.getppid()", "0", "1", "os.getpid()"])
def test_signals_reach_nobody(stdin_case, target):
    source = f"import os\ntry: os.kill({target}, 9)\nexcept PermissionError: print('ok')"
    assert stdin_case(source).status is Status.AC


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_VSOCK", "AF_PACKET"])
def test_no_socket_of_any_family(stdin_case, family):
    case = stdin_case(f"import socket\nsocket.socket(socket.{family}, socket.SOCK_RAW)")
    assert case.status is Status.RE and case.detail.startswith(DENIED)


def test_environment_is_scrubbed(stdin_case):
    assert stdin_case(
        "import os, sys\nprint('ok' if not os.environ and sys.argv == ['__main__'] else 0)"
    ).passed


@pytest.mark.parametrize("path", ["/tmp/o1jax_escape", "/dev/shm/o1jax_escape", "o1jax_escape"])
def test_no_file_can_be_written(stdin_case, path):
    assert stdin_case(f"open({path!r}, 'w')").detail.startswith(DENIED)


def test_standard_library_cannot_be_changed(stdin_case):
    assert stdin_case("import this, os\nos.unlink(this.__file__)").detail.startswith("PermissionError")


def test_the_project_and_the_supervisor_cannot_be_read(stdin_case, judge):
    if "landlock" not in judge.isolation:
        pytest.skip("needs Landlock")
    for path in (__file__, "/proc/self/environ", "/proc/1/environ", "/etc/passwd"):
        assert stdin_case(f"open({path!r}).read()").detail.startswith("PermissionError")


def test_limits_cannot_be_raised(stdin_case):
    source = "import resource as r\nr.setrlimit(r.RLIMIT_AS, (-1, -1))"
    assert stdin_case(source).status is Status.RE


def test_harness_cannot_be_undone(stdin_case):
    source = (
        "import ctypes\nlibc = ctypes.CDLL(None)\nprint('ok' if libc.prctl(1, 0, 0, 0, 0) < 0 else 'undone')"
    )
    assert stdin_case(source).passed


def test_closing_every_descriptor_harms_nobody(stdin_case):
    assert not stdin_case("import os\nos.closerange(0, 9999)\nprint('ok')").passed
    assert stdin_case("print('ok')").passed


def test_no_state_reaches_the_next_program(stdin_case):
    stdin_case("import builtins, math, random\nbuiltins.print = None\nmath.pi = 3\nrandom.seed(5)")
    first = stdin_case("import math, random\nprint(math.pi, random.random(), hash('a'))").detail
    assert "3.14159" in stdin_case("import math\nprint(math.pi)").detail
    assert first == stdin_case("import math, random\nprint(math.pi, random.random(), hash('a'))").detail


def test_a_thousand_threads_harm_nobody(stdin_case):
    source = (
        "import threading, time\nfor _ in range(1000): threading.Thread(target=time.sleep, args=(9,)).start()"
    )
    assert stdin_case(source, limits=Limits(cpu_s=0.5, wall_s=1.0)).status in (Status.RE, Status.TLE)


@pytest.mark.parametrize(
    "source",
    ["print(", "x = '\ud800'", "a\0b", "(" * 5000, "-" * 200_000 + "1", "return 1", "1" * 5000 + "x"],
)
def test_what_does_not_compile_is_a_ce(runner, judge, source):
    verdict = runner.run(judge.judge(Job(source, (TestCase("", ""),) * 2, "stdin")))
    assert not verdict.compiled and [case.status for case in verdict.cases] == [Status.CE] * 2


def test_compile_bomb_costs_its_own_limit_only(runner, judge):
    job = Job("x = " + "9 ** " * 5 + "9", (TestCase("", ""),), "stdin", limits=Limits(0.5, 4.0, 256))
    assert not runner.run(judge.judge(job)).passed


def test_lying_values_are_bad_values(call_cases):
    lies = [
        "class Z(int):\n  def __eq__(s, o): return True\n  __hash__ = int.__hash__\ndef f(): return Z()",
        "class Z(str):\n  def __eq__(s, o): return True\n  __hash__ = str.__hash__\ndef f(): return Z()",
        "class Z:\n  def __eq__(s, o): return True\ndef f(): return Z()",
        "class Z(list):\n  def __eq__(s, o): return True\ndef f(): return [Z()]",
        "def f():\n  x = []\n  x.append(x)\n  return x",
        "def f(): yield 1",
        "def f(): return f",
    ]
    for source in lies:
        assert [case.status for case in call_cases(source, ("[]", "1"))] == [Status.BADVALUE]


def test_endless_value_is_refused(call_cases):
    case = call_cases("def f():\n  x = [0]\n  for _ in range(60): x = [x, x]\n  return x", ("[]", "1"))[0]
    assert not case.passed


def test_forged_answers_do_not_pass(call_cases):
    forged = 'import os\ndef f(x):\n  os.write(3, b\'{"e": "AC"}\\n{"v": true}\\n\')\n  os._exit(0)'
    assert [c.passed for c in call_cases(forged, ("[1]", "1"), ("[2]", "2"))] == [False, False]


@pytest.mark.parametrize(
    "answer", ['{"f": [' * 9000, '{"v": ' + "[" * 9000, '{"v": {"f": [' * 300, "9" * 9000, "\xff"]
)
def test_malformed_answers_are_no_result(call_cases, answer):
    forged = f"import os\ndef f(): os.write(3, {answer!r}.encode('latin-1') + b'\\n')"
    assert call_cases(forged, ("[]", "1"))[0].status is Status.NORESULT


def test_crashing_until_the_time_is_over_is_a_time_verdict(call_cases):
    source = "import os, time\ndef f(x):\n  time.sleep(0.2)\n  os._exit(0)"
    cases = call_cases(source, *[("[1]", "1")] * 8, limits=Limits(cpu_s=5.0, wall_s=0.9))
    assert [cases[0].status, cases[-1].status] == [Status.NORESULT, Status.TLE]


def test_patched_builtins_gain_nothing(call_cases):
    source = """
import builtins, json
json.dumps = lambda *a, **k: '{"v": 1}'
builtins.type = None
def f(x): return 0
"""
    assert not any(c.passed for c in call_cases(source, ("[1]", "5"), ("[2]", "6")))


@pytest.mark.parametrize(
    ("form", "test"),
    [
        ("stdin", TestCase("1", "secret")),
        ("call", TestCase("[1]", "'secret'")),
        ("assertion", TestCase("assert f(1) == 'secret'")),
    ],
)
def test_expected_outputs_never_leave_the_supervisor(form, test):
    job = Job("def f(x): return x", (test,), form, "f")
    assert b"secret" not in payload(job, job.tests, sealed=True, max_threads=1)


def test_a_walk_over_all_objects_finds_no_expected_output(stdin_case):
    source = """
import gc
reprs = (repr(o)[:10000] for o in gc.get_objects())
hidden = list("detcepxe-terces")
found = any("".join(reversed(hidden)) in text for text in reprs)
print("".join(reversed(hidden)) if found else "nothing")
"""
    assert stdin_case(source, expected="secret-expected\n").status is Status.WA


def test_exit_in_one_test_costs_that_test_only(call_cases):
    source = "import os\ndef f(x):\n  if x == 1: os._exit(0)\n  return x"
    statuses = [c.status for c in call_cases(source, ("[0]", "0"), ("[1]", "1"), ("[2]", "2"))]
    assert statuses == [Status.AC, Status.NORESULT, Status.AC]


def test_lying_equality_does_not_pass_an_assertion(assertion_cases):
    source = "class Z(int):\n  def __eq__(s, o): return True\ndef f(x): return Z()"
    assert [c.status for c in assertion_cases(source, "assert f(1) == 2", "assert 2 == 2")][
        0
    ] is Status.BADVALUE
