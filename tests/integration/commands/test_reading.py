"""Files as other programs write them: a byte-order mark is no part of the text, and UTF-16 is not UTF-8."""

from __future__ import annotations

import json

import pytest

from tests.factories import an_account, rows
from tests.integration.commands.told import a_line, assert_one_sentence, lines

MARK = "\ufeff"


def test_files_with_a_byte_order_mark_are_read_where_they_begin_and_where_they_were_joined(run):
    code, out, _ = run(
        "submit", "--account", an_account(), "--no-wait", stdin=f"{MARK}{a_line()}\n{MARK}{a_line()}\n{MARK}\n"
    )

    assert code == 0
    assert [line["line"] for line in lines(out)] == [1, 2]


def test_a_quote_reads_a_file_with_a_byte_order_mark(run, tmp_path):
    usage = {"operation": "linking", "model": "gpt-4o-mini", "input_tokens": 900, "output_tokens": 300}
    file = tmp_path / "usage.jsonl"
    file.write_text(json.dumps(usage), encoding="utf-8-sig")

    code, out, _ = run("quote", file)

    assert (code, lines(out)[0]["credits"]) == (0, 12)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_refused_in_one_sentence_and_nothing_is_submitted(run, tmp_path, encoding):
    file = tmp_path / "requests.jsonl"
    file.write_text(a_line(), encoding=encoding)

    code, out, err = run("submit", file, "--account", an_account())

    assert (code, out) == (2, "")
    assert_one_sentence(err, "invalid_encoding")
    assert rows("SELECT count(*) FROM generation_jobs") == [(0,)]
