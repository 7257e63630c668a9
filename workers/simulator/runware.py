"""Runware's API as simulated: images, and looking up what became of a task, by the id that the client gave it.

See https://runware.ai/docs/platform/introduction, .../errors and .../task-details. What was executed is known after a
restart, too: the journal's request id of a task is its UUID, and its images follow from that and the seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from workers.simulator.answers import Answer
from workers.simulator.calls import Call, model_named
from workers.simulator.draws import Draw
from workers.simulator.faults import Refusal, RefusalError, echo
from workers.simulator.journal import Entry
from workers.simulator.questions import KNOWN_MODEL, Question
from workers.simulator.texts import Desk

PATH = "/runware/v1"
IMAGES, LOOK_UP = "imageInference", "getTaskDetails"
COST_USD = 0.0038
"""The simulated cost of one image."""

# Runware's status and code for each refusal of the faults and of the server, which are known by OpenAI's code.
CODES: Mapping[str | None, tuple[int, str]] = {
    "rate_limit_exceeded": (429, "rateLimitExceeded"),
    "overloaded": (503, "serviceUnavailable"),
    "server_error": (500, "internalServerError"),
    "content_policy_violation": (400, "contentPolicyViolation"),
    "invalid_value": (400, "invalidPositivePrompt"),
    "insufficient_quota": (402, "insufficientCredits"),
    "invalid_api_key": (401, "invalidApiKey"),
    "invalid_json": (400, "invalidRequestBody"),
    "request_too_large": (413, "invalidRequestBody"),
}
AT_THE_DOOR = {401, 402, 413, 425, 429, 503}
"""Statuses of refusals that never become a task, so that no look-up knows of them."""


@dataclass(frozen=True)
class Task:
    """What is kept of a task: that it is worked on, how many images it made, or why it failed."""

    request: Mapping[str, Any] | None = None
    images: int | None = None
    errors: list[dict[str, Any]] | None = None


class RunwareApi:
    """Runware's API: every task has a UUID of the client's, which is never worked on twice."""

    def __init__(self, earlier: Iterable[Entry]) -> None:
        self._tasks = {
            entry.request_id: Task(images=entry.images)
            for entry in earlier
            if entry.event == "executed" and entry.endpoint == IMAGES
        }

    def name(self, call: Call, body: Any) -> Call:
        """Tell the kind of task, its model and its UUID, which is the id of the request."""
        task = body[0] if isinstance(body, list) and body else None
        if not isinstance(task, dict):
            return call
        kind, uuid = task.get("taskType"), _uuid(task)
        call = replace(call, model=model_named(task), endpoint=kind if kind in (IMAGES, LOOK_UP) else call.endpoint)
        return call if uuid is None else replace(call, request_id=uuid)

    def read(self, call: Call, body: Any) -> Question:
        """Check the body, a list of one task; raises RefusalError."""
        if not (isinstance(body, list) and len(body) == 1 and isinstance(body[0], dict)):
            raise _invalid("invalidRequestBody", "The simulator takes a list of one task.", None)
        task = body[0]
        if call.endpoint not in (IMAGES, LOOK_UP):
            raise _invalid("unsupportedTaskType", f"The simulator knows {IMAGES} and {LOOK_UP}.", "taskType")
        if _uuid(task) is None:
            raise _invalid("invalidTaskUUID", "The parameter 'taskUUID' must be a UUID v4.", "taskUUID")
        if call.endpoint == LOOK_UP:
            return Question(LOOK_UP, "", (f"{LOOK_UP} {task['taskUUID']}",), task)
        return _image_question(task)

    def replay(self, call: Call) -> Answer | None:
        """None; raises RefusalError for a task whose UUID was used before."""
        if call.endpoint == IMAGES and call.request_id in self._tasks:
            raise _invalid("conflictTaskUUID", "This taskUUID was used before.", "taskUUID")
        return None

    @contextmanager
    def working_on(self, call: Call) -> Iterator[None]:
        """While this is open, a look-up says that the task is being worked on."""
        if call.endpoint != IMAGES or call.question is None:
            yield
            return
        working = Task(request=call.question.body)
        self._tasks[call.request_id] = working
        try:
            yield
        finally:
            if self._tasks[call.request_id] is working:
                del self._tasks[call.request_id]

    def one_image_less(self, question: Question) -> Question:
        """The question for one image fewer, at least one."""
        if question.endpoint != IMAGES:
            return question
        return replace(question, body={**question.body, "numberResults": max(1, _count(question.body) - 1)})

    def answer(self, call: Call, question: Question, desk: Desk) -> Answer:
        """Make the images, or look a task up, which is no work; raises RefusalError for an unknown task."""
        if question.endpoint == LOOK_UP:
            return Answer({"data": [self._details(call.request_id, desk)]}, billable=False)
        count = _count(question.body)
        self._tasks[call.request_id] = Task(request=question.body, images=count)
        return Answer({"data": _results(call.request_id, count, desk)}, images=count)

    def without_usage(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The body without its costs, which are all that Runware tells of usage."""
        results = [{name: value for name, value in item.items() if name != "cost"} for item in body["data"]]
        return {**body, "data": results}

    def declined(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The body as it is: images have no text."""
        return dict(body)

    def refuse(self, call: Call, refusal: Refusal) -> tuple[Refusal, dict[str, Any]]:
        """The refusal with Runware's status, code and body; the failure of a task is kept for look-ups."""
        status, code = CODES.get(refusal.code, (refusal.status, refusal.code or "standardError"))
        error = {
            "code": code,
            "message": refusal.message,
            "parameter": refusal.param,
            "taskType": call.endpoint,
            "taskUUID": call.request_id if _is_uuid(call.request_id) else None,
        }
        errors = [{name: value for name, value in error.items() if value is not None}]
        if call.endpoint == IMAGES and call.question is not None and status not in AT_THE_DOOR:
            self._tasks.setdefault(call.request_id, Task(request=call.question.body, errors=errors))
        return replace(refusal, status=status, code=code), {"errors": errors}

    def _details(self, uuid: str, desk: Desk) -> dict[str, Any]:
        task = self._tasks.get(uuid)
        if task is None:
            raise RefusalError(Refusal(404, "taskNotFound", "There is no task with this taskUUID.", param="taskUUID"))
        response: dict[str, Any] = {"data": [{"taskType": IMAGES, "taskUUID": uuid, "status": "processing"}]}
        if task.images is not None:
            response = {"data": _results(uuid, task.images, desk)}
        elif task.errors is not None:
            response = {"errors": task.errors}
        request = [] if task.request is None else [task.request]
        return {"taskType": LOOK_UP, "taskUUID": uuid, "request": request, "response": response}


def _image_question(task: dict[str, Any]) -> Question:
    model, prompt = task.get("model"), task.get("positivePrompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise _invalid("missingPositivePrompt", "The parameter 'positivePrompt' is missing.", "positivePrompt")
    if not isinstance(model, str) or not KNOWN_MODEL.match(model):
        raise _invalid("invalidModel", "There is no such model.", "model")
    for name, low, high in (("width", 128, 8_192), ("height", 128, 8_192), ("numberResults", 1, 20)):
        value = task.get(name, 1 if name == "numberResults" else None)
        if type(value) is not int or not low <= value <= high:
            message = f"Invalid value for '{name}': a whole number from {low} to {high}. The prompt was: {echo(prompt)}"
            raise _invalid(f"invalid{name[0].upper()}{name[1:]}", message, name)
    if task.get("deliveryMethod", "sync") != "sync":
        raise _invalid("unsupportedDeliveryMethod", "The simulator delivers at once only.", "deliveryMethod")
    return Question(IMAGES, model, (prompt,), task)


def _results(uuid: str, count: int, desk: Desk) -> list[dict[str, Any]]:
    draw = Draw(desk.seed, f"task {uuid}", 0)
    return [
        {
            "taskType": IMAGES,
            "taskUUID": uuid,
            "imageUUID": str(UUID(draw.hex(f"image {number}"), version=4)),
            "imageURL": f"{desk.address}/images/{draw.hex(f'image {number}')}.png",
            "seed": draw.whole(f"seed {number}", 1, 2**31),
            "cost": COST_USD,
        }
        for number in range(count)
    ]


def _count(task: Mapping[str, Any]) -> int:
    return int(task.get("numberResults", 1))


def _uuid(task: Mapping[str, Any]) -> str | None:
    uuid = task.get("taskUUID")
    return uuid if isinstance(uuid, str) and _is_uuid(uuid) else None


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text and UUID(text).version == 4
    except ValueError:
        return False


def _invalid(code: str, message: str, parameter: str | None) -> RefusalError:
    return RefusalError(Refusal(400, code, message, param=parameter))
