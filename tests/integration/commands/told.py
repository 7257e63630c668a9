"""What a command told, as its tests read it; and a line that it is given."""

from __future__ import annotations

import json

PLANTED = "planted-prompt"


def lines(told):
    return [json.loads(line) for line in told.splitlines()]


def one(told):
    (line,) = lines(told)
    return line


def a_line(operation="clustering", **given):
    return json.dumps({"operation": operation, "params": {"prompt": PLANTED, "max_output_tokens": 100}} | given)


def assert_one_sentence(told, code):
    assert told.startswith("creditmill: ")
    assert told.rstrip().endswith(f"[{code}]")
    assert told.count("\n") == 1
    assert len(told) < 400
    assert PLANTED not in told
