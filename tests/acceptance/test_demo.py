"""The demonstration, on a folder of its own: it proves the books, also when its processes are killed on the way."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.acceptance.commands import instance, ours, shell, started
from tests.system import wait_until

pytestmark = pytest.mark.own_system

# Shorter waits than a person wants to watch.
PACE = {"CREDITMILL_TEXT_CALL_S": "3", "CREDITMILL_IMAGE_CALL_S": "3", "CREDITMILL_UNKNOWN_WAIT_S": "2"}


@pytest.fixture
def folder():
    with TemporaryDirectory(prefix="creditmill-demo-") as made:
        yield Path(made)


def journal(folder):
    path = folder / ".creditmill" / "simulator-journal.jsonl"
    return path.read_text() if path.exists() else ""


def output(folder):
    return (folder / "output.log").read_text()


def test_the_demo_proves_its_books_although_a_worker_is_killed(folder):
    with started(folder, "demo", **PACE) as demo:
        wait_until(lambda: journal(folder).count('"executed"') >= 5, within_s=90, what="the first calls")
        ours(folder, "worker generation")[0].kill()
        code = demo.wait(150)

    told = output(folder)
    assert code == 0, told
    assert "The audit: the books balance." in told
    assert "Failed jobs have their credits back: yes." in told
    settled = re.search(r"(\d+) charges were computed again from their recorded usage: 0 differ", told)
    assert settled
    # One worker may have been making nearly all the calls: nearly all are given up then, as OpenAI cannot be asked.
    assert int(settled[1]) >= 1


def test_a_demo_that_was_killed_whole_is_finished_by_up(folder):
    with started(folder, "demo", **PACE) as demo:
        wait_until(lambda: journal(folder).count('"executed"') >= 5, within_s=90, what="the first calls")
        for process in [demo, *ours(folder, "workers.cli")]:
            process.send_signal(signal.SIGKILL)
        demo.wait(30)
        with instance(folder, "--no-flower", **PACE, CREDITMILL_RECOVER_EVERY_S="1", CREDITMILL_REPUBLISH_AFTER_S="3"):

            def all_ended():
                listed = shell(folder, "creditmill jobs list --limit 1000 --json").stdout
                open_states = ("queued", "reserved", "calling", "unknown", "generated")
                return listed.count('"state"') == 48 and not any(
                    f'"state": "{state}"' in listed for state in open_states
                )

            wait_until(all_ended, within_s=120, what="the end of every job")
            audited = shell(folder, "creditmill audit")
            assert audited.returncode == 0, audited.stdout
            accounts = shell(folder, "creditmill accounts list --json").stdout

    assert accounts.count('"reserved": 0') == 3
    assert ours(folder) == []
