"""Chance that repeats itself: one seed gives one course of events."""

import openai

from tests.integration.simulator.running import PROMPT, Running, ask, keyed


def run_through(running: Running) -> list[object]:
    """Send a fixed series of requests and say what came of them, without addresses and times."""
    client = running.client()

    def response(number: int) -> object:
        made = ask(client, f"key-{number}", f"Story {number}", model="gpt-5")
        return made.id, made._request_id, made.output_text, made.usage.to_dict()

    def images(number: int) -> object:
        made = client.images.generate(model="dall-e-2", prompt=PROMPT, n=2, extra_headers=keyed(f"image-{number}"))
        return [image.url.removeprefix(running.root) for image in made.data]

    def vector(number: int) -> object:
        made = client.embeddings.create(model="text-embedding-3-small", input=f"{number}", encoding_format="float")
        return made.data[0].embedding

    seen: list[object] = []
    for send in (response, images, vector, response):
        for number in range(8):
            try:
                seen.append(send(number))
            except openai.APIStatusError as error:
                seen.append(error.code)
    return seen


def test_one_seed_gives_one_course_of_events_and_another_seed_another(start):
    faults = ("--fault", "rate_limit=0.3", "--fault", "server_error=0.2")
    first, second, other = (
        run_through(start("--seed", seed, *faults, journal=journal))
        for seed, journal in (("7", "first"), ("7", "second"), ("8", "other"))
    )

    assert first == second
    assert first != other
    assert {type(item) for item in first} == {tuple, list, str}
