"""A client of the retrieval service's HTTP front."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from realm_core.errors import ServiceUnavailableError, UsageError
from realm_core.retrieval.evidence import Evidence, EvidenceResult

TIMEOUT_SECONDS = 60.0


def search_http(url: str, text: str, num_hits: int, token: str | None) -> EvidenceResult:
    """The blocks most relevant to a text.

    Raises:
        UsageError: no such URL, or the front refuses the request or the token.
        ServiceUnavailableError: nothing answers there, or not in time.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise UsageError(
            where=f"--url {url}", found="no web address", expected="http://HOST:PORT", action="Correct the address."
        )
    body = json.dumps({"texts": [text], "k": num_hits, "fields": ["title", "body"]}).encode()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(f"{url.rstrip('/')}/search", data=body, headers=headers)  # noqa: S310 - checked
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310 - checked
            return _evidence(json.loads(response.read()))
    except urllib.error.HTTPError as error:
        with error:
            raise _refused(url, error.code, error.read()) from error
    except (OSError, ValueError, KeyError) as error:
        raise ServiceUnavailableError(
            where=f"--url {url}",
            found=f"no answer of a retrieval service ({error})",
            expected="the HTTP front of one, as `realm serve --http` starts it",
            action="Check the address, and `realm serve status`.",
        ) from error


def _evidence(answer: dict[str, Any]) -> EvidenceResult:
    hits = tuple(Evidence(**hit) for hit in answer["hits"][0])
    return EvidenceResult((hits,), answer["snapshot"], answer["encoder_step"])


def _refused(url: str, code: int, body: bytes) -> UsageError | ServiceUnavailableError:
    try:
        message = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        message = body[:200].decode("utf-8", "replace")
    kind = ServiceUnavailableError if code >= 500 else UsageError
    action = "Set REALM_HTTP_TOKEN to the service's token." if code == 401 else "Do what the message says."
    return kind(where=f"--url {url}", found=f"HTTP {code}: {message}", expected="an answer", action=action)
