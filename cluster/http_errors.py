"""Errors as answers of the HTTP front: a status, and the four facts that every error of the program has."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from realm_core.errors import (
    ArtifactCorruptError,
    ArtifactMissingError,
    DeadlineExceededError,
    OverloadedError,
    QueryError,
    RealmError,
    ServiceUnavailableError,
    StoreError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastapi import FastAPI, Request

_STATUS = (
    (QueryError, HTTPStatus.BAD_REQUEST),
    (ArtifactCorruptError, HTTPStatus.INTERNAL_SERVER_ERROR),
    (ArtifactMissingError, HTTPStatus.INTERNAL_SERVER_ERROR),
    (OverloadedError, HTTPStatus.SERVICE_UNAVAILABLE),
    (DeadlineExceededError, HTTPStatus.GATEWAY_TIMEOUT),
    (ServiceUnavailableError, HTTPStatus.SERVICE_UNAVAILABLE),
    (StoreError, HTTPStatus.NOT_FOUND),
)
RETRY_AFTER_SECONDS = 1
MAX_PROBLEMS = 5
"""Of a malformed request, as many as are told."""
MAX_VALUE_CHARACTERS = 40
"""Of a malformed value, as many as are told."""


class ErrorAnswer(BaseModel):
    """Why there is no answer: all in one sentence, then fact by fact."""

    error: str
    where: str
    found: str
    expected: str
    action: str


RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": what}
    for status, what in (
        ("default", "an error"),
        (400, "what makes no sense"),
        (401, "no token, or a wrong one"),
        (404, "no such block or snapshot"),
        (413, "too large a body"),
        (500, "a damaged store, or a fault of the program"),
        (503, "not ready, or too busy: try again"),
        (504, "no answer by the deadline"),
    )
}


def error_answer(
    error: RealmError, status: HTTPStatus | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The answer that says so; by default with the status of the error's type."""
    status = status or next((s for kind, s in _STATUS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)
    facts = ErrorAnswer(
        error=str(error), where=error.where, found=error.found, expected=error.expected, action=error.action
    )
    passing = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    return JSONResponse(facts.model_dump(), status_code=status, headers={**passing, **(headers or {})})


def explain_errors(app: FastAPI) -> None:
    """Makes every error of the application an `ErrorAnswer`, those of its framework too."""

    @app.exception_handler(RealmError)
    async def ours(_: Request, error: RealmError) -> JSONResponse:
        return error_answer(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        return error_answer(malformed_request(asked_for(request), error.errors()))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        facts = RealmError(
            where=asked_for(request),
            found=str(error.detail),
            expected="a path and a method that there are",
            action="See /docs.",
        )
        return error_answer(facts, HTTPStatus(error.status_code), error.headers)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:  # uvicorn logs its traceback
        facts = RealmError(
            where=asked_for(request),
            found=f"{type(error).__name__}: {error}",
            expected="an answer",
            action="This is a fault of the program: the log of the front has its traceback.",
        )
        return error_answer(facts, HTTPStatus.INTERNAL_SERVER_ERROR)


def asked_for(request: Request) -> str:
    """Method and path."""
    return f"{request.method} {request.url.path}"


def malformed_request(where: str, problems: Sequence[Mapping[str, Any]]) -> QueryError:
    """The error for what pydantic found in a request: the first few values, and what each should be."""
    told = problems[:MAX_PROBLEMS]
    more = f"; {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
    return QueryError(
        where=where,
        found="; ".join(map(_found, told)) + more,
        expected="; ".join(f"{_place(one)}: {one['msg'].removeprefix('Input should be ')}" for one in told),
        action="Correct the request; see /docs.",
    )


def _found(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "missing":
        return f"no {_place(problem)}"
    value = problem.get("input")
    return f"{_place(problem)} {_shortened(value)}" if isinstance(value, (str, int, float)) else _place(problem)


def _shortened(value: float | str) -> str:
    text = repr(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[:MAX_VALUE_CHARACTERS] + "…"


def _place(problem: Mapping[str, Any]) -> str:
    return ".".join(map(str, problem["loc"]))
