"""A simulator in a process of its own, and what a client of OpenAI's own SDK asks of it."""

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import openai
import toktok
from openai import OpenAI

from workers.simulator.journal import Entry, read_journal

ROOT = Path(__file__).resolve().parents[3]
PROMPT = "Describe a quiet garden in the morning."

TIMED_OUT, DROPPED = openai.APITimeoutError, openai.APIConnectionError


class Running:
    """A simulator in a process of its own."""

    def __init__(self, journal: Path, *options: str):
        command = [sys.executable, "-m", "workers.simulator", "--journal", str(journal), *options]
        self.journal_path = journal
        self.stderr_path = journal.with_suffix(f".{time.monotonic_ns()}.log")
        with self.stderr_path.open("wb") as stderr:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr)
        assert self.process.stdout is not None
        self.ready = json.loads(self.process.stdout.readline())
        self.url = self.ready["simulator"]
        self.root = self.url.removesuffix("/v1")

    def client(self, key: str = "sim-test", timeout: float = 30, strict: bool = True) -> OpenAI:
        return OpenAI(
            api_key=key, base_url=self.url, max_retries=0, timeout=timeout, _strict_response_validation=strict
        )

    def journal(self, key: str) -> list[Entry]:
        return [entry for entry in read_journal(self.journal_path) if entry.idempotency_key == key]

    def events(self, key: str) -> list[str]:
        return [entry.event for entry in self.journal(key)]

    def http(self, method: str, path: str, body: bytes | None = None, key: str = "sim-test") -> tuple[int, dict]:
        request = urllib.request.Request(self.root + path, data=body, method=method)
        request.add_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            if self.process.stdout:
                self.process.stdout.close()
        return code


Start = Callable[..., Running]


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def tokens(text: str) -> int:
    return toktok.batch_count([text], "o200k_base", threads=1)[0]


def wait_until(holds: Callable[[], bool], within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


def ask(client: OpenAI, key: str, prompt: str = PROMPT, model: str = "gpt-4o-mini", **more):
    return client.responses.create(model=model, input=prompt, extra_headers=keyed(key), **more)


def outcomes(client: OpenAI, key: str | None, prompt: str, times: int) -> list[str]:
    """Send one request `times` times and say how each ended."""
    ended = []
    for _ in range(times):
        try:
            headers = keyed(key) if key else {}
            ended.append(client.responses.create(model="gpt-4o", input=prompt, extra_headers=headers).status)
        except openai.APIStatusError as error:
            ended.append(error.code)
    return ended
