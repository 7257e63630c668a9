"""What the simulator answers: texts, images and embeddings with usage, in the shapes of OpenAI's API."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from workers.simulator.draws import Draw, count_tokens
from workers.simulator.questions import Question, embedding_inputs
from workers.simulator.texts import Desk, write_text

EMBEDDING_DIMENSIONS = 8
DECLINED = "I am sorry, but the simulator cannot help with that."
MODELS = (
    "gpt-5", "gpt-5-mini", "gpt-4o", "gpt-4o-mini", "gpt-image-1", "o3", "o4-mini", "dall-e-2", "dall-e-3",
    "text-embedding-3-small", "text-embedding-3-large", "runware:101@1", "google:4@1", "sim-text", "sim-image",
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """The answer's body, and what a provider would bill for it, if anything: its usage (tokens) and its images."""

    body: dict[str, Any]
    usage: dict[str, Any] | None = None
    images: int | None = None
    billable: bool = True


def answer_response(question: Question, desk: Desk) -> Answer:
    """Answer POST /v1/responses."""
    body = question.body
    options = body.get("text")
    shape = options.get("format") if isinstance(options, dict) else None
    shape = shape if isinstance(shape, dict) else {"type": "text"}
    text = write_text(question, desk, body.get("max_output_tokens"), shape)
    status = "incomplete" if text.cut else "completed"
    output: list[dict[str, Any]] = []
    if text.reasoning_tokens:
        output.append({"id": f"rs_{desk.draw.hex('reasoning id', 48)}", "type": "reasoning", "summary": []})
    if text.text:
        part = {"type": "output_text", "text": text.text, "annotations": [], "logprobs": []}
        message = {"type": "message", "role": "assistant", "status": status, "content": [part]}
        output.append({"id": f"msg_{desk.draw.hex('message id', 48)}", **message})
    usage = {
        "input_tokens": text.input_tokens,
        "input_tokens_details": {"cached_tokens": text.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": text.output_tokens,
        "output_tokens_details": {"reasoning_tokens": text.reasoning_tokens},
        "total_tokens": text.input_tokens + text.output_tokens,
    }
    answer = {
        "id": f"resp_{desk.draw.hex('answer id', 48)}",
        "object": "response",
        "created_at": desk.created,
        "completed_at": None if text.cut else desk.created,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if text.cut else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "model": question.model,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "temperature": body.get("temperature", 1.0),
        "text": {"format": shape},
        "tool_choice": "auto",
        "tools": [],
        "top_p": body.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": usage,
    }
    return Answer(answer, usage)


def answer_chat(question: Question, desk: Desk) -> Answer:
    """Answer POST /v1/chat/completions."""
    body = question.body
    shape = body.get("response_format")
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    text = write_text(question, desk, limit, shape if isinstance(shape, dict) else {})
    usage = {
        "prompt_tokens": text.input_tokens,
        "completion_tokens": text.output_tokens,
        "total_tokens": text.input_tokens + text.output_tokens,
        "prompt_tokens_details": {"cached_tokens": text.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": text.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    message: dict[str, Any] = {"role": "assistant", "content": text.text, "refusal": None, "annotations": []}
    finish = "length" if text.cut else "stop"
    answer = {
        "id": f"chatcmpl-{desk.draw.hex('answer id', 28)}",
        "object": "chat.completion",
        "created": desk.created,
        "model": question.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        "usage": usage,
        "service_tier": "default",
        "system_fingerprint": "fp_simulated",
    }
    return Answer(answer, usage)


def _png() -> bytes:
    """Make a grey image of one pixel whose comment says that it is simulated."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    comment = b"Comment\x00Simulated by Creditmill; no image was generated."
    chunks = ((b"IHDR", header), (b"tEXt", comment), (b"IDAT", zlib.compress(b"\x00\x80")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in chunks)


PNG = _png()

# Output tokens of one gpt-image-1 image: square, portrait or landscape (OpenAI's image generation guide).
_IMAGE_TOKENS = {"low": (272, 408, 400), "medium": (1_056, 1_584, 1_568), "high": (4_160, 6_240, 6_208)}
_IMAGE_SIZES = ("1024x1024", "1024x1536", "1536x1024")


def answer_images(question: Question, desk: Desk) -> Answer:
    """Answer POST /v1/images/generations with `n` images; gpt-image models give base64 and usage, as OpenAI's do."""
    body = question.body
    count, size, quality = body.get("n") or 1, body.get("size") or "auto", body.get("quality") or "auto"
    tokenized = question.model.startswith("gpt-image")
    as_url = (body.get("response_format") or ("b64_json" if tokenized else "url")) == "url"
    answer: dict[str, Any] = {"created": desk.created}
    answer["data"] = [_image(question, desk, number, as_url, revised=not tokenized) for number in range(count)]
    if size != "auto":
        answer["size"] = size
    if quality not in ("auto", "standard", "hd"):
        answer["quality"] = quality
    usage = None
    if tokenized:
        by_size = _IMAGE_TOKENS["medium" if quality == "auto" else quality if quality in _IMAGE_TOKENS else "high"]
        text_tokens = count_tokens(question.prompt)
        made = count * by_size[_IMAGE_SIZES.index(size) if size in _IMAGE_SIZES else 0]
        usage = {
            "input_tokens": text_tokens,
            "input_tokens_details": {"text_tokens": text_tokens, "image_tokens": 0},
            "output_tokens": made,
            "output_tokens_details": {"text_tokens": 0, "image_tokens": made},
            "total_tokens": text_tokens + made,
        }
        answer |= {"usage": usage, "output_format": "png"}
    return Answer(answer, usage, images=count)


def _image(question: Question, desk: Desk, number: int, as_url: bool, revised: bool) -> dict[str, str]:
    image = {"revised_prompt": f"A simulated image of: {question.prompt}"} if revised else {}
    if as_url:
        return image | {"url": f"{desk.address}/images/{desk.draw.hex(f'image {number}')}.png"}
    return image | {"b64_json": base64.b64encode(PNG).decode()}


def ask_one_image_less(question: Question) -> Question:
    """Ask for one image fewer, at least one; a request for anything else keeps its meaning."""
    return replace(question, body={**question.body, "n": max(1, (question.body.get("n") or 1) - 1)})


def declined(body: Mapping[str, Any]) -> dict[str, Any]:
    """The answer with the model's refusal in the place of its text; an answer without a text as it is."""
    if "choices" in body:
        choice = body["choices"][0]
        message = {**choice["message"], "content": None, "refusal": DECLINED}
        return {**body, "choices": [{**choice, "message": message, "finish_reason": "stop"}]}
    if "output" in body:
        part = {"type": "refusal", "refusal": DECLINED}
        others = [item for item in body["output"] if item["type"] != "message"]
        message = {"id": f"msg_{body['id']}", "type": "message", "role": "assistant", "status": "completed"}
        message |= {"content": [part]}
        return {**body, "output": [*others, message], "status": "completed", "incomplete_details": None}
    return dict(body)


def answer_embeddings(question: Question, desk: Desk) -> Answer:
    """Answer POST /v1/embeddings; the same model, text and seed always give the same vector."""
    body = question.body
    inputs = embedding_inputs(body["input"])
    dimensions = body.get("dimensions") or EMBEDDING_DIMENSIONS
    packed = body.get("encoding_format") == "base64"
    tokens = sum(count for _, count in inputs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    data: list[dict[str, Any]] = []
    for index, (text, _) in enumerate(inputs):
        vector = _unit_vector(Draw(desk.seed, f"{question.model}|{text}", 0), dimensions)
        values = base64.b64encode(vector).decode() if packed else list(struct.unpack(f"<{dimensions}f", vector))
        data.append({"object": "embedding", "index": index, "embedding": values})
    return Answer({"object": "list", "data": data, "model": question.model, "usage": usage}, usage)


def _unit_vector(draw: Draw, dimensions: int) -> bytes:
    """Give a vector of length 1 as 32-bit floats, little end first, as OpenAI packs them."""
    values = [number - 32_767.5 for number in draw.numbers("vector", dimensions)]
    length = math.hypot(*values)
    return struct.pack(f"<{dimensions}f", *(value / length for value in values))


ANSWERS: Mapping[str, Callable[[Question, Desk], Answer]] = {
    "responses": answer_response,
    "chat/completions": answer_chat,
    "images/generations": answer_images,
    "embeddings": answer_embeddings,
}


def list_models() -> dict[str, Any]:
    """Answer GET /v1/models with some of the models that the simulator knows."""
    models = [{"id": name, "object": "model", "created": 0, "owned_by": "creditmill-simulator"} for name in MODELS]
    return {"object": "list", "data": models}
