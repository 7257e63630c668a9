"""The simulator as a process: it says who it is, refuses what it cannot serve, and stops cleanly."""

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack

import openai
import pytest
from click.testing import CliRunner

from tests.integration.simulator.running import DROPPED, ROOT, ask, wait_until
from workers.simulator.command import main


def test_the_command_refuses_an_unknown_fault(tmp_path):
    ended = CliRunner().invoke(main, ["--journal", str(tmp_path / "j"), "--fault", "explode=0.1"])

    assert ended.exit_code == 2
    assert "There is no fault named 'explode'" in ended.output
    assert not (tmp_path / "j").exists()


def test_health_names_the_process(simulator):
    assert simulator.http("GET", "/simulator/health") == (
        200,
        {"status": "ok", "pid": simulator.process.pid, "seed": 1},
    )
    assert simulator.ready["pid"] == simulator.process.pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly_while_requests_hang_and_wait(start, key, number):
    running = start("--hang", "300")
    prompts = ["[[simulate: hang_before_accept]]", "[[simulate: hang_after_accept]]", "[[simulate: latency 300]]"]
    failed: list[type] = []

    def send(prompt: str) -> None:
        try:
            ask(running.client(timeout=60), key, prompt)
        except openai.APIConnectionError as error:
            failed.append(type(error))

    threads = [threading.Thread(target=send, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    wait_until(lambda: sorted(running.events(key)) == ["executed", "received", "received", "received"])
    os.kill(running.process.pid, number)

    assert running.process.wait(10) == 0
    for thread in threads:
        thread.join(10)
    assert failed == [DROPPED] * 3
    assert running.events(key).count("dropped") == 3
    assert running.events(key).count("executed") == 1
    assert "Traceback" not in running.stderr_path.read_text()


def test_many_connections_at_once_wait_to_be_accepted(start):
    running = start()
    port = int(running.root.rpartition(":")[2])
    os.kill(running.process.pid, signal.SIGSTOP)
    try:
        with ExitStack() as connections:
            for _ in range(600):
                connections.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
    finally:
        os.kill(running.process.pid, signal.SIGCONT)

    assert running.http("GET", "/simulator/health")[0] == 200


def test_a_taken_port_is_one_clear_sentence(simulator, tmp_path):
    port = simulator.root.rpartition(":")[2]
    command = [sys.executable, "-m", "workers.simulator", "--port", port, "--journal", str(tmp_path / "j")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 1
    assert ended.stderr.startswith(f"Error: Cannot serve 127.0.0.1:{port}: ")
    assert "Traceback" not in ended.stderr
