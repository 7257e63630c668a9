import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from workers.local import supervisor as module
from workers.local.signals import stop_signals
from workers.local.supervisor import Program, Supervisor, SupervisorError

pytestmark = pytest.mark.own_system

SLEEPS = "import time; print('up'); time.sleep(600)"
# A shell that starts tests in its background has them, and so their children, ignore SIGQUIT: this one heeds it.
IGNORES_TERM = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGQUIT, signal.SIG_DFL);"
    "print('up'); time.sleep(600)"
)
IGNORES_ALL = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGQUIT, signal.SIG_IGN);"
    "print('up'); time.sleep(600)"
)
HAS_CHILD = (
    "import subprocess, sys, time;"
    "child = subprocess.Popen(['sleep', '600']); print('child', child.pid); time.sleep(600)"
)
# A supervisor in a process of its own: it says the pids of its programs, and stops when a signal tells it to.
OWNER = """
import io, json, sys
from pathlib import Path
from workers.local.signals import stop_signals
from workers.local.supervisor import Program, Supervisor
code, state_file, log_folder, grace = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
with stop_signals() as stopping:
    programs = [Program("sleeper", [sys.executable, "-c", code], stop_grace_s=grace)]
    supervisor = Supervisor(programs, output=sys.stderr, state_file=state_file, colour=False, log_folder=log_folder)
    try:
        supervisor.start()
        print(json.dumps(supervisor.pids()), flush=True)
        supervisor.run(until=stopping.is_set)
    finally:
        supervisor.stop()
print("stopped", flush=True)
"""


class Harness:
    """Starts supervisors and owners, and sees to it that nothing of theirs outlives the test."""

    def __init__(self, folder):
        self.folder = folder
        self.output = io.StringIO()
        self.state_file = folder / "state" / "programs.json"
        self.supervisors = []
        self.owners = []

    def supervisor(self, *programs, **options):
        options = {"output": self.output, "state_file": self.state_file, "colour": False} | options
        self.supervisors.append(Supervisor(programs, **options))
        return self.supervisors[-1]

    def owner(self, code=SLEEPS, grace_s=30):
        arguments = [code, str(self.state_file), str(self.folder / "logs"), str(grace_s)]
        owner = subprocess.Popen(
            [sys.executable, "-c", OWNER, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.owners.append(owner)
        owner.program_pid = json.loads(owner.stdout.readline())["sleeper"]
        wait_until(lambda: "up" in (self.folder / "logs" / "sleeper.log").read_text())
        return owner

    def lines(self):
        return self.output.getvalue().splitlines()


@pytest.fixture
def harness(tmp_path):
    harness = Harness(tmp_path)
    yield harness
    for supervisor in harness.supervisors:
        for pid in supervisor.pids().values():
            os.killpg(pid, signal.SIGKILL)
        supervisor.stop()
    for owner in harness.owners:
        owner.kill()
        owner.wait()
        owner.stdout.close()
        owner.stderr.close()
        if not is_gone(owner.program_pid):
            os.killpg(owner.program_pid, signal.SIGKILL)


def python(name, code, *arguments, **options):
    return Program(name, [sys.executable, "-c", code, *arguments], **options)


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def is_gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_lines_are_prefixed_whole_and_complete(harness):
    code = "import sys\nfor i in range(2000): print(sys.argv[1] * 50, i)\nimport time; time.sleep(600)"
    harness.supervisor(python("a", code, "x"), python("longer", code, "y")).start()
    wait_until(lambda: len(harness.lines()) >= 4000)

    lines = harness.lines()
    assert [line for line in lines if line.startswith("a")] == [f"a      | {'x' * 50} {i}" for i in range(2000)]
    assert [line for line in lines if line.startswith("l")] == [f"longer | {'y' * 50} {i}" for i in range(2000)]


def test_undecodable_bytes_and_standard_error_and_a_last_line_without_end_are_shown(harness):
    code = r"import os; os.write(1, b'caf\xe9\n'); os.write(2, b'bad news\n'); os.write(1, b'no end'); os._exit(0)"
    harness.supervisor(python("p", code)).start()
    wait_until(lambda: "p | no end" in harness.lines())

    assert {"p | caf\ufffd", "p | bad news"} <= set(harness.lines())


def test_a_terminal_that_cannot_show_a_character_or_is_gone_stops_nothing(harness, tmp_path):
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    log = tmp_path / "logs" / "p.log"
    harness.supervisor(python("p", "print('5 ×'); " + SLEEPS), output=narrow, log_folder=log.parent).start()
    wait_until(lambda: "up" in log.read_text())
    wait_until(lambda: b"p | up" in narrow.buffer.getvalue())
    assert narrow.buffer.getvalue().startswith(b"p | 5 ?")

    narrow.close()
    os.kill(harness.supervisors[0].pids()["p"], signal.SIGKILL)
    wait_until(lambda: log.read_text().count("up") == 2)


def test_prefixes_are_coloured_when_asked(harness):
    harness.supervisor(python("a", SLEEPS), python("b", SLEEPS), colour=True).start()
    wait_until(lambda: len(harness.lines()) == 2)

    assert sorted(harness.lines()) == ["\x1b[33mb |\x1b[0m up", "\x1b[36ma |\x1b[0m up"]


def test_quiet_lines_go_to_the_log_files_only(harness, tmp_path):
    harness.supervisor(python("p", SLEEPS), log_folder=tmp_path / "logs", quiet=True).start()
    log = tmp_path / "logs" / "p.log"
    wait_until(lambda: log.read_text() == "up\n")

    assert harness.lines() == []
    assert log.stat().st_mode & 0o777 == 0o600


def test_the_environment_reaches_the_program_but_not_its_command_or_name(harness):
    program = python("p", "import os; print(os.environ['API_KEY']); " + SLEEPS, environment={"API_KEY": "hunter2"})
    supervisor = harness.supervisor(program)
    supervisor.start()
    wait_until(lambda: "p | hunter2" in harness.lines())

    assert "hunter2" not in " ".join(psutil.Process(supervisor.pids()["p"]).cmdline())
    assert "hunter2" not in repr(program)


def test_a_killed_program_is_restarted_and_its_orphans_end(harness):
    supervisor = harness.supervisor(python("p", HAS_CHILD))
    supervisor.start()
    first = supervisor.pids()["p"]
    wait_until(harness.lines)
    orphan = int(harness.lines()[0].split()[-1])
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: supervisor.pids().get("p", first) != first)

    assert "p | ended with SIGKILL; starting it again in 1 s" in harness.lines()
    assert is_gone(orphan)
    recorded = json.loads(harness.state_file.read_text())["programs"]
    assert [(entry["name"], entry["pid"]) for entry in recorded] == list(supervisor.pids().items())


def test_pauses_grow_and_begin_anew_after_a_good_run(harness, monkeypatch):
    supervisor = harness.supervisor(python("p", "raise SystemExit(3)"))
    supervisor.start()
    wait_until(lambda: len(harness.lines()) >= 2)
    assert harness.lines() == [f"p | ended with exit code 3; starting it again in {s} s" for s in (1, 2)]

    monkeypatch.setattr(module, "RAN_WELL_S", 0)
    wait_until(lambda: len(harness.lines()) >= 3)
    assert harness.lines()[2].endswith("in 1 s")


def test_pauses_end_at_30_seconds(harness):
    supervisor = harness.supervisor(python("p", SLEEPS))
    slot = supervisor._slots[0]
    for _ in range(50):
        supervisor._plan_restart(slot, "ended", now=0.0)

    pauses = [int(re.search(r"(\d+) s$", line).group(1)) for line in harness.lines()]
    assert pauses == [1, 2, 4, 8, 16] + [30] * 45


def test_a_clean_stop_says_nothing_and_removes_the_state_file(harness):
    supervisor = harness.supervisor(python("a", SLEEPS), python("b", SLEEPS))
    supervisor.start()
    pids = supervisor.pids()
    assert harness.state_file.stat().st_mode & 0o777 == 0o600
    assert all(os.getsid(pid) == pid for pid in pids.values())
    wait_until(lambda: len(harness.lines()) == 2)
    supervisor.stop()
    supervisor.stop()

    assert all(is_gone(pid) for pid in pids.values())
    assert supervisor.pids() == {}
    assert not harness.state_file.exists()
    assert len(harness.lines()) == 2


def test_programs_stop_in_their_order(harness):
    says = (
        "import signal, time\ndef stop(*_): time.sleep(0.3); print('bye'); raise SystemExit\n"
        "signal.signal(signal.SIGTERM, stop); " + SLEEPS
    )
    programs = [python(name, says, stop_order=order) for name, order in (("last", 9), ("first", -1), ("middle", 5))]
    supervisor = harness.supervisor(*programs)
    supervisor.start()
    wait_until(lambda: len(harness.lines()) == 3)
    supervisor.stop()

    assert [line.split()[0] for line in harness.lines()[3:]] == ["first", "middle", "last"]


@pytest.mark.parametrize(("code", "steps"), [(IGNORES_TERM, 1), (IGNORES_ALL, 2)], ids=["SIGQUIT", "SIGKILL"])
def test_a_stubborn_program_is_stopped_step_by_step(harness, code, steps, monkeypatch):
    monkeypatch.setattr(module, "QUIT_S", 1)
    supervisor = harness.supervisor(python("p", code, stop_grace_s=0.3))
    supervisor.start()
    pid = supervisor.pids()["p"]
    wait_until(harness.lines)
    supervisor.stop()

    assert is_gone(pid)
    expected = [
        "p | did not stop within 0.3 s; sending SIGQUIT",
        "p | still runs; sending SIGKILL to its whole process group",
    ]
    assert harness.lines()[1:] == expected[:steps]


def test_stopping_ends_the_whole_group(harness):
    supervisor = harness.supervisor(python("p", HAS_CHILD))
    supervisor.start()
    wait_until(harness.lines)
    child = int(harness.lines()[0].split()[-1])
    supervisor.stop()

    wait_until(lambda: is_gone(child))


def test_stop_works_from_another_thread_and_during_a_pause(harness):
    supervisor = harness.supervisor(python("a", "raise SystemExit(3)"), python("b", SLEEPS))
    supervisor.start()
    wait_until(lambda: any("exit code 3" in line for line in harness.lines()))
    pid = supervisor.pids()["b"]
    thread = threading.Thread(target=supervisor.stop)
    thread.start()
    thread.join(30)

    assert not thread.is_alive()
    assert is_gone(pid)


def test_a_program_that_does_not_exist_fails_the_start_and_stops_the_others(harness):
    supervisor = harness.supervisor(python("a", SLEEPS), Program("b", ["/nowhere/program"]))
    with pytest.raises(SupervisorError, match="The program b cannot be started"):
        supervisor.start()

    assert supervisor.pids() == {}
    assert not harness.state_file.exists()


def test_names_must_differ(harness):
    with pytest.raises(ValueError, match="a name of its own"):
        harness.supervisor(python("a", SLEEPS), python("a", SLEEPS))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_supervisor_and_programs(harness, signum):
    owner = harness.owner()
    os.killpg(owner.pid, signum)

    assert owner.stdout.readline() == "stopped\n"
    assert owner.wait(30) == 0
    assert is_gone(owner.program_pid)
    assert not harness.state_file.exists()


def test_a_second_ctrl_c_hastens(harness):
    owner = harness.owner(IGNORES_ALL, grace_s=300)
    os.killpg(owner.pid, signal.SIGINT)
    while "still finishing" not in owner.stderr.readline():
        assert not is_gone(owner.program_pid)
    os.killpg(owner.pid, signal.SIGINT)

    assert owner.stderr.readline() == "sleeper | is ended at once with SIGKILL\n"
    assert owner.wait(30) == 0
    assert is_gone(owner.program_pid)


def test_leftovers_of_a_killed_supervisor_are_stopped_first(harness):
    owner = harness.owner()
    owner.kill()
    owner.wait()
    assert not is_gone(owner.program_pid)
    supervisor = harness.supervisor(python("sleeper", SLEEPS), python("other", SLEEPS))
    supervisor.start()

    assert is_gone(owner.program_pid)
    message = f"sleeper | was left behind as process {owner.program_pid}; stopping it first"
    assert harness.lines()[0] == message
    assert owner.program_pid not in supervisor.pids().values()


def test_another_process_with_a_recorded_number_is_left_alone(harness):
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        created = psutil.Process(stranger.pid).create_time()
        entry = {"name": "p", "pid": stranger.pid, "create_time": created - 60}
        harness.state_file.parent.mkdir()
        harness.state_file.write_text(json.dumps({"supervisor": entry, "programs": [entry]}))
        harness.supervisor(python("p", SLEEPS)).start()
        wait_until(harness.lines)

        assert stranger.poll() is None
        assert harness.lines() == ["p | up"]
    finally:
        stranger.kill()
        stranger.wait()


def test_a_damaged_state_file_does_no_harm(harness):
    harness.state_file.parent.mkdir()
    harness.state_file.write_text("{")
    harness.supervisor(python("p", SLEEPS)).start()

    assert json.loads(harness.state_file.read_text())["programs"][0]["name"] == "p"


def test_two_supervisors_do_not_share_a_state_file(harness):
    owner = harness.owner()
    with pytest.raises(SupervisorError, match=f"already run by process {owner.pid}"):
        harness.supervisor(python("p", SLEEPS)).start()
    harness.supervisors[0].stop()

    assert not is_gone(owner.program_pid)
    assert harness.state_file.exists()


def test_stop_signals_sets_the_event_and_restores_the_handlers():
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    former = [signal.getsignal(number) for number in numbers]
    for number in numbers:
        with stop_signals() as stopping:
            assert not stopping.is_set()
            os.kill(os.getpid(), number)
            assert stopping.wait(30)
    assert [signal.getsignal(number) for number in numbers] == former


def test_run_returns_when_told(harness):
    supervisor = harness.supervisor(python("p", SLEEPS))
    supervisor.start()
    supervisor.run(until=lambda: "p | up" in harness.lines())

    assert list(supervisor.pids()) == ["p"]
