"""Programs that a model wrote, run for real: what they print, and what they try."""

import os
import shutil
import socket
import subprocess
import time

import pytest

from hpt_megatron.rewards import code_answers
from hpt_megatron.rewards.code_answers import CodeAnswer, Sandbox, isolation, printed, program
from hpt_megatron.rewards.component import Sample

pytestmark = pytest.mark.slow
SHORT = Sandbox(seconds=1.5)


def left_over(marker):
    """Processes whose command line names the folder of a program that is over."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                found += [pid] if marker in file.read() else []
        except OSError:
            continue
    return found


def assert_nothing_is_left():
    """What was killed may take a moment to go."""
    for _ in range(200):
        if not left_over(b"/answer-"):
            return
        time.sleep(0.02)
    pytest.fail(f"still there: {left_over(b'/answer-')}")


def test_what_a_program_prints_is_its_answer():
    fenced = "I print it.\n```python\nprint(6 * 7)\n```\n"
    assert CodeAnswer().score(Sample(turns=(fenced,), golds=("42",))).score == 1.0
    assert CodeAnswer().score(Sample(turns=(fenced,), golds=("41",))).score == 0.0
    assert CodeAnswer().score(Sample(turns=(), answer="print('a ')\nprint('b')", golds=("a\nb\n",))).score == 1.0
    assert CodeAnswer().score(Sample(turns=("",), golds=("42",))).flags == ("no_answer",)
    assert CodeAnswer().score(Sample(turns=(fenced,))).valid is False
    assert program("```py\na\n```\n```\nb\n```") == "b"
    assert printed(" a  \nb\n\n") == "a\nb"


@pytest.mark.parametrize(
    ("source", "ended"),
    [
        ("while True: pass", "timeout"),
        ("import time; time.sleep(60)", "timeout"),
        ("while True: print('x' * 1000)", "output"),
        ("x = bytearray(1 << 40)", "failed"),
        ("open('f', 'wb').write(b'x' * (1 << 28))", "failed"),
        ("raise SystemExit(3)", "failed"),
        ("import os; os.abort()", "failed"),
        ("not python", "failed"),
    ],
)
def test_a_program_that_does_not_end_well_is_a_wrong_answer(source, ended):
    ran = SHORT.run(source)
    assert ran.ended == ended
    assert len(ran.output) <= 65536


def test_an_early_exit_and_the_gold_in_the_source_earn_nothing():
    for source in ("import os; os._exit(0)", "# 42", "print(open(__file__).read())"):
        assert CodeAnswer().score(Sample(turns=(), answer=source, golds=("42",))).score == 0.0


def test_a_program_sees_no_variable_of_ours(monkeypatch):
    monkeypatch.setenv("JUDGE_TOKEN", "secret-1")
    ran = SHORT.run("import os; print(dict(os.environ)); print(open('/proc/self/environ').read())")
    assert "secret-1" not in ran.output
    assert ran.ended == "done"


def may_mount():
    """Whether the kernel gives this user a /proc of its own, asked without our help."""
    if shutil.which("unshare") is None:
        return False
    own_user = [] if os.geteuid() == 0 else ["--user", "--map-current-user"]
    done = subprocess.run(["unshare", *own_user, "--pid", "--fork", "--mount-proc", "true"], check=False)
    return done.returncode == 0


@pytest.mark.skipif(not may_mount(), reason="the kernel gives this user no /proc of its own")
def test_a_program_sees_no_other_process():
    seen = SHORT.run("import os; print(sorted(int(p) for p in os.listdir('/proc') if p.isdigit()))")
    assert seen.output.strip() == "[1]"


def test_its_folder_is_its_own_and_gone_after_it():
    ran = SHORT.run("import os; open('f', 'w').write('1'); print(os.getcwd())")
    assert ran.output.strip()
    assert not os.path.exists(ran.output.strip())
    assert SHORT.run("import os; print(os.listdir('.'))").output.strip() == "['answer.py']"


def test_a_fork_bomb_is_bounded_and_leaves_nothing():
    bomb = "import os\nfor _ in range(20):\n    try: os.fork()\n    except OSError: pass\nimport time; time.sleep(30)"
    assert SHORT.run(bomb).ended in ("timeout", "failed")
    assert_nothing_is_left()


def test_without_namespaces_the_whole_group_is_still_killed(monkeypatch):
    monkeypatch.setattr(code_answers, "isolation", lambda: ())
    children = "import os, time\nfor _ in range(3): os.fork()\nprint('many', flush=True)\ntime.sleep(60)"
    ran = SHORT.run(children)
    assert (ran.ended, set(ran.output.split())) == ("timeout", {"many"})
    assert CodeAnswer().score(Sample(turns=(), answer="print(6 * 7)", golds=("42",))).score == 1.0
    assert_nothing_is_left()


@pytest.mark.skipif(not isolation(), reason="the kernel gives this user no namespaces of its own")
def test_with_namespaces_nothing_escapes_and_no_host_is_reached():
    """Not covered: a host without namespaces, where a program that starts a session of its own outlives its answer."""
    escape = "import os, time\nif os.fork() == 0:\n    os.setsid(); time.sleep(60)\nprint('left')"
    assert SHORT.run(escape).output.strip() == "left"
    assert_nothing_is_left()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        reach = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)\nprint('reached')"
        assert SHORT.run(reach).ended == "failed"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives its rights away; other users run as themselves")
def test_root_is_nobody_inside():
    assert SHORT.run("import os; print(os.getuid(), os.geteuid(), os.getgroups())").output.strip() == "65534 65534 []"
    assert SHORT.run("print(open('/etc/shadow').read())").ended == "failed"
