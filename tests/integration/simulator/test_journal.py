"""The simulator's journal: what it says was executed, also after a restart and with a torn last line."""

import pytest

from tests.integration.simulator.running import PROMPT, ask, outcomes
from workers.simulator.journal import Journal, read_journal


def test_double_calls_are_both_executed_and_differ(simulator, key):
    first, second = ask(simulator.client(), key), ask(simulator.client(), key)

    assert simulator.events(key).count("executed") == 2
    assert first.id != second.id
    assert first.output_text != second.output_text


def test_the_sdk_sends_no_idempotency_key_by_itself(start):
    running = start()
    running.client().responses.create(model="gpt-4o", input=PROMPT)

    assert {entry.idempotency_key for entry in read_journal(running.journal_path)} == {None}


def test_the_executed_entry_holds_the_usage_that_was_answered(simulator, key):
    response = ask(simulator.client(), key)
    received, executed, answered = simulator.journal(key)

    assert executed.usage == response.usage.to_dict()
    assert (received.status, executed.status, answered.status) == (None, None, 200)
    assert received.seq < executed.seq < answered.seq
    assert {entry.endpoint for entry in (received, executed, answered)} == {"responses"}
    assert {entry.model for entry in (received, executed, answered)} == {"gpt-4o-mini"}


def test_the_journal_is_served_by_key_and_event(simulator, key):
    ask(simulator.client(), key)
    _, served = simulator.http("GET", f"/simulator/journal?key={key}&event=executed")

    assert [(entry["event"], entry["idempotency_key"]) for entry in served["entries"]] == [("executed", key)]


def test_the_journal_and_the_turns_of_keys_resume_after_a_restart(start, key):
    prompt = "Hi [[simulate: rate_limit x2]]"
    before = start()
    ended = outcomes(before.client(), key, prompt, 1)
    before.stop()
    with before.journal_path.open("ab") as journal:
        journal.write(b'{"seq": 99, "torn')
    after = start()
    ended += outcomes(after.client(), key, prompt, 2)

    assert ended == ["rate_limit_exceeded", "rate_limit_exceeded", "completed"]
    assert [entry.seq for entry in read_journal(after.journal_path)] == list(range(1, 8))


def test_a_torn_last_line_is_left_out_and_a_broken_one_is_an_error(tmp_path):
    path = tmp_path / "journal.jsonl"
    assert read_journal(path) == []

    journal = Journal(path)
    journal.write("received", idempotency_key=None, request_id="req_1", endpoint="responses")
    journal.close()
    with path.open("ab") as file:
        file.write(b'{"seq": 2, "at"')
    assert [entry.request_id for entry in read_journal(path)] == ["req_1"]

    with path.open("ab") as file:
        file.write(b"\n")
    with pytest.raises(ValueError, match="delimiter"):
        read_journal(path)
