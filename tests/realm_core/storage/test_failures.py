import errno
import itertools
import random
import socket

import pytest

from realm_core.errors import StoreError, UsageError
from realm_core.storage.failures import is_of_a_store, is_transient, remote_failure
from realm_core.storage.retries import (
    LONGEST_WAIT_SECONDS,
    RETRY_SECONDS,
    retry_seconds,
    wait_seconds,
    with_retries,
)


def caused_by(error, cause):
    error.__cause__ = cause
    return error


def with_attributes(kind, **attributes):
    error = type(kind, (Exception,), {})()
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


def answered(status, code):
    """As botocore reports an answer of the server."""
    response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return with_attributes("ClientError", response=response)


PASSING = [
    ConnectionResetError("reset"),
    ConnectionRefusedError("refused"),
    BrokenPipeError("pipe"),
    TimeoutError(),
    socket.gaierror(socket.EAI_AGAIN, "name resolution"),
    OSError(errno.EBUSY, "Please reduce your request rate."),
    OSError(errno.ENETUNREACH, "Network is unreachable"),
    OSError(getattr(errno, "EREMOTEIO", errno.EIO), "We made a mistake."),
    caused_by(OSError(errno.EIO, "unknown"), answered(503, "ServiceUnavailable")),
    answered(500, "InternalError"),
    answered(400, "RequestTimeout"),
    answered(429, "TooManyRequests"),
    with_attributes("HttpError", code=502),
    with_attributes("HttpResponseError", status_code=503),
    caused_by(with_attributes("ClientPayloadError"), with_attributes("ContentLengthError", code=400)),
]
LASTING = [
    FileNotFoundError("x"),
    PermissionError("Access Denied"),
    IsADirectoryError("x"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EINVAL, "The specified bucket is not valid."),
    answered(404, "NoSuchBucket"),
    answered(403, "SignatureDoesNotMatch"),
    answered(400, "InvalidRequest"),
    with_attributes("NoCredentialsError"),
    with_attributes("HttpError", code=404),
    caused_by(FileNotFoundError("x"), answered(404, "NoSuchKey")),
    ValueError("x"),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_passes_by_itself(error):
    assert is_transient(error)


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_what_does_not(error):
    assert not is_transient(error)


def test_faults_of_the_program_and_a_full_disk_are_not_the_stores():
    for error in (
        TypeError(),
        KeyError(),
        OSError(errno.ENOSPC, ""),
        StoreError(where="", found="", expected="", action=""),
    ):
        assert not is_of_a_store(error)
    for error in (PermissionError(), OSError(errno.EIO, ""), answered(403, "AccessDenied")):
        assert is_of_a_store(error)


def test_the_error_names_the_store_the_operation_and_what_to_do():
    message = str(remote_failure("s3://b", "reading x", ConnectionResetError("reset by peer"), tried_seconds=300))
    assert message.startswith(
        "store s3://b: reading x failed again and again for 300 s, at last with: reset by peer; expected"
    )
    assert "REALM_STORE_RETRY_SECONDS" in message
    refused = str(remote_failure("s3://b", "reading x", PermissionError("Access Denied"), tried_seconds=300))
    assert "reading x failed (Access Denied); expected credentials" in refused


class Flaky:
    """Fails so many times, then answers."""

    def __init__(self, num_failures, error):
        self.num_calls, self._num_failures, self._error = 0, num_failures, error

    def __call__(self):
        self.num_calls += 1
        if self.num_calls <= self._num_failures:
            raise self._error
        return "answer"


def test_a_call_is_repeated_until_it_succeeds_and_each_wait_is_logged(caplog):
    call = Flaky(2, ConnectionResetError("reset by peer"))
    assert with_retries(call, what="reading x", max_seconds=60) == "answer"
    assert call.num_calls == 3
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert all(line.startswith("reading x failed (reset by peer); trying again in ") for line in lines)


def test_what_lasts_is_raised_at_once(caplog):
    call = Flaky(1, PermissionError("no"))
    with pytest.raises(PermissionError):
        with_retries(call, what="reading x", max_seconds=60)
    assert call.num_calls == 1
    assert caplog.records == []


def test_the_last_call_comes_when_the_time_is_over():
    call = Flaky(100, ConnectionResetError("reset"))
    with pytest.raises(ConnectionResetError):
        with_retries(call, what="reading x", max_seconds=0.1)
    assert call.num_calls == 2
    with pytest.raises(ConnectionResetError):
        with_retries(call, what="reading x", max_seconds=0)
    assert call.num_calls == 3


def test_waits_double_up_to_the_longest_and_differ_between_clients():
    waits = list(itertools.islice(wait_seconds(random.Random(0)), 12))
    for wait, longest in zip(waits, [0.5, 1, 2, 4, 8, 16] + 6 * [LONGEST_WAIT_SECONDS], strict=True):
        assert longest / 2 <= wait <= longest
    assert waits != list(itertools.islice(wait_seconds(random.Random(1)), 12))


@pytest.mark.parametrize(("text", "seconds"), [("", RETRY_SECONDS), ("0", 0), ("1.5", 1.5)])
def test_the_environment_sets_the_time(monkeypatch, text, seconds):
    monkeypatch.setenv("REALM_STORE_RETRY_SECONDS", text)
    assert retry_seconds() == seconds


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_nonsense_in_the_environment_is_named(monkeypatch, text):
    monkeypatch.setenv("REALM_STORE_RETRY_SECONDS", text)
    with pytest.raises(UsageError, match=f"REALM_STORE_RETRY_SECONDS: '{text}'; expected a number of seconds"):
        retry_seconds()
