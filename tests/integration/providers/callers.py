"""Both adapters, calling a provider that stands on loopback."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

from billing.jobs.calling import Claim, Delivery, Refusal
from config.providers import Connection
from tasks.providers.base import Provider, ProviderError
from tasks.providers.openai import OpenAIProvider
from tasks.providers.runware import RunwareProvider, task_id

JOB = UUID("11111111-2222-4333-8444-555555555555")
KEY = "sk-test-0123456789abcdef"


@dataclass(frozen=True)
class Caller:
    """An adapter and a claim that it calls for, with what a provider answers to it."""

    provider: Provider
    claim: Claim
    answer: dict[str, Any]

    def call(self, url: str, *, timeout_s: float = 30) -> Delivery:
        return self.provider.call(self.claim, Connection(self.claim.provider, KEY, url), timeout_s=timeout_s)

    def refused(self, url: str, *, timeout_s: float = 30) -> Refusal:
        with pytest.raises(ProviderError) as caught:
            self.call(url, timeout_s=timeout_s)
        return caught.value.refusal

    @property
    def body(self) -> bytes:
        return json.dumps(self.answer).encode()


def _claim(provider: str, api: str, kind: str, params: dict[str, Any]) -> Claim:
    return Claim(
        job_id=JOB,
        attempt=1,
        call_id=1,
        provider=provider,
        model_name="model-test",
        api=api,
        kind=kind,
        params=params,
        max_output_tokens=100,
        images=params.get("n", 0),
        idempotency_key=f"creditmill-{JOB}",
        bills_tokens=api != "images",
    )


def openai(prompt: str = "Bread.") -> Caller:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Rolls."}}
    body = {"id": "c_1", "object": "chat.completion", "created": 1, "model": "model-test", "choices": [choice]}
    claim = _claim("openai", "chat_completions", "text", {"prompt": prompt})
    return Caller(OpenAIProvider(), claim, {**body, "usage": usage})


def runware(prompt: str = "Bread.") -> Caller:
    claim = _claim("runware", "images", "image", {"prompt": prompt, "n": 1, "size": "1024x1024", "quality": "standard"})
    image = {"taskType": "imageInference", "taskUUID": str(task_id(claim)), "imageURL": "https://images.example/1.png"}
    return Caller(RunwareProvider(), claim, {"data": [image]})


CALLERS = {"openai": openai, "runware": runware}
both = pytest.mark.parametrize("make", CALLERS.values(), ids=CALLERS)
