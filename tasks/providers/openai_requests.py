"""What is asked of OpenAI, and of servers compatible with it: the body of each interface's request, as plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from billing.jobs.calling import Claim
from billing.jobs.requests import TextParams, WholeEmbeddingParams, WholeImageParams, read_params


def responses(claim: Claim) -> dict[str, Any]:
    """The body of POST /responses."""
    params = read_params(claim.kind, claim.params)
    assert isinstance(params, TextParams)
    body: dict[str, Any] = {
        "model": claim.model_name,
        "input": params.prompt or _turns(params),
        "max_output_tokens": claim.max_output_tokens,
        # Answers are kept by us, not by the provider.
        "store": False,
    }
    if params.system is not None:
        body["instructions"] = params.system
    if params.temperature is not None:
        body["temperature"] = params.temperature
    if params.json_mode:
        body["text"] = {"format": {"type": "json_object"}}
    return body


def chat(claim: Claim) -> dict[str, Any]:
    """The body of POST /chat/completions."""
    params = read_params(claim.kind, claim.params)
    assert isinstance(params, TextParams)
    turns = [{"role": "system", "content": params.system}] if params.system is not None else []
    turns += [{"role": "user", "content": params.prompt}] if params.prompt is not None else _turns(params)
    body: dict[str, Any] = {
        "model": claim.model_name,
        "messages": turns,
        "max_completion_tokens": claim.max_output_tokens,
    }
    if params.temperature is not None:
        body["temperature"] = params.temperature
    if params.json_mode:
        body["response_format"] = {"type": "json_object"}
    return body


def images(claim: Claim) -> dict[str, Any]:
    """The body of POST /images/generations."""
    params = read_params(claim.kind, claim.params)
    assert isinstance(params, WholeImageParams)
    body: dict[str, Any] = {
        "model": claim.model_name,
        "prompt": params.told,
        "n": claim.images,
    }
    return body | _named(params, "size", "quality", "style", "response_format")


def embeddings(claim: Claim) -> dict[str, Any]:
    """The body of POST /embeddings."""
    params = read_params(claim.kind, claim.params)
    assert isinstance(params, WholeEmbeddingParams)
    return {"model": claim.model_name, "input": params.input} | _named(params, "encoding_format")


def _named(params: WholeImageParams | WholeEmbeddingParams, *names: str) -> dict[str, Any]:
    """Those of these parameters that the job has: its model takes no others."""
    return {name: value for name in names if (value := getattr(params, name)) is not None}


REQUESTS: Mapping[str, tuple[str, Callable[[Claim], dict[str, Any]]]] = {
    "responses": ("/responses", responses),
    "chat_completions": ("/chat/completions", chat),
    "images": ("/images/generations", images),
    "embeddings": ("/embeddings", embeddings),
}
"""The path and the body of each interface."""


def _turns(params: TextParams) -> list[dict[str, Any]]:
    return [{"role": turn.role, "content": turn.content} for turn in params.messages or []]
