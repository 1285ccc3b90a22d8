"""Whom the HTTP front answers: the token, the host that is asked for, the size of a body."""

from __future__ import annotations

import secrets
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import Request

from cluster.http_address import is_loopback
from cluster.http_errors import asked_for, error_answer
from realm_core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fastapi import FastAPI

MAX_BODY_BYTES = 32 << 20


def guard_requests(app: FastAPI, *, token: str | None, is_on_loopback: bool) -> None:
    """Every path asks for the token, where there is one; where there is none, only loopback hosts are answered."""

    @app.middleware("http")
    async def guard(request: Request, answer: Callable[[Request], Awaitable[Any]]) -> Any:  # noqa: ANN401 - Starlette's signature
        given = request.headers.get("authorization", "").encode("utf-8", "replace")
        if token and not secrets.compare_digest(given, f"Bearer {token}".encode()):
            return error_answer(
                _no_token(asked_for(request)), HTTPStatus.UNAUTHORIZED, headers={"WWW-Authenticate": "Bearer"}
            )
        # Without a token, a page in a browser of this machine could reach the service under a name of its own.
        host = request.url.hostname or ""
        if is_on_loopback and not token and not is_loopback(host):
            return error_answer(_other_host(asked_for(request), host), HTTPStatus.MISDIRECTED_REQUEST)
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES or "transfer-encoding" in request.headers:
            return error_answer(_too_large(asked_for(request), length), HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return await answer(request)


def _no_token(where: str) -> UsageError:
    return UsageError(
        where=where,
        found="no token, or a wrong one",
        expected="the header Authorization: Bearer TOKEN",
        action="Send the token that REALM_HTTP_TOKEN held when the front was started.",
    )


def _other_host(where: str, host: str) -> UsageError:
    return UsageError(
        where=where,
        found=f"a request for the host {host!r}",
        expected="127.0.0.1, localhost or [::1], as there is no token",
        action="Ask under one of these names, or start the service with REALM_HTTP_TOKEN set.",
    )


def _too_large(where: str, length: str) -> UsageError:
    return UsageError(
        where=where,
        found=f"a body of {length[:20]} bytes" if length != "0" else "a body of unknown length",
        expected=f"a known length, of at most {MAX_BODY_BYTES} bytes",
        action="Send fewer queries at a time, with Content-Length.",
    )
