"""Calls of OpenAI's SDK from a pool of threads, without Creditmill: how fast the same calls could be.

`python raw_calls.py URL KEY_VARIABLE CALLS THREADS` says as JSON how long they took.
"""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import click
from openai import OpenAI

MODEL = "gpt-5.1"
WARM_UP_CALLS = 20
TIMEOUT_S = 180


@click.command()
@click.argument("url")
@click.argument("key_variable")
@click.argument("calls", type=int)
@click.argument("threads", type=int)
def main(url: str, key_variable: str, calls: int, threads: int) -> None:
    """Make the calls, this many at a time."""
    client = OpenAI(api_key=os.environ[key_variable], base_url=url, max_retries=0, timeout=TIMEOUT_S)

    def call(number: int) -> str:
        answer = client.responses.create(
            model=MODEL, input=f"Bread, number {number}.", max_output_tokens=64, store=False
        )
        return answer.output_text

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(call, range(WARM_UP_CALLS)))
        began = time.perf_counter()
        answers = list(pool.map(call, range(calls)))
        seconds = time.perf_counter() - began
    assert len(answers) == calls
    click.echo(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
