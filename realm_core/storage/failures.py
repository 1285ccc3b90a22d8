"""What went wrong in a store: which failures pass by themselves, and the errors for those that do not.

Errors are known by their class names, numbers and codes, so that no store's library has to be installed.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from realm_core.errors import RealmError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

RETRY_VARIABLE = "REALM_STORE_RETRY_SECONDS"
"""Environment variable: for how many seconds one operation of a remote store is tried; 0 tries once."""

_TRANSIENT_NUMBERS = {
    errno.EBUSY,  # s3fs: SlowDown, ServiceUnavailable
    getattr(errno, "EREMOTEIO", errno.EIO),  # s3fs: InternalError
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EPIPE,
    errno.ETIMEDOUT,
}
_TRANSIENT_CLASSES = {
    "ConnectionError",  # Python's own, botocore's (with EndpointConnectionError), requests'
    "TimeoutError",  # with fsspec's FSTimeoutError
    "HTTPClientError",  # botocore, with ConnectionClosedError, ReadTimeoutError and ResponseStreamingError
    "IncompleteReadError",  # botocore
    "ResponseParserError",  # botocore: an answer that a proxy cut or replaced
    "ClientConnectionError",  # aiohttp, with ServerDisconnectedError
    "ClientPayloadError",  # aiohttp: the connection ended in the middle of an answer
    "ServiceRequestError",  # azure
    "ServiceResponseError",  # azure
    "TransportError",  # google
    "gaierror",  # no name server
}
_LASTING_CLASSES = {
    "FileNotFoundError",
    "PermissionError",
    "FileExistsError",
    "IsADirectoryError",
    "NotADirectoryError",
    "SSLError",
    "ClientSSLError",
}
_TRANSIENT_CODES = {"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "RequestLimitExceeded"}
_TRANSIENT_STATUSES = {408, 429}
_REFUSED_CLASSES = {"PermissionError", "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"}
_OWN_DISK_NUMBERS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


def is_of_a_store(error: BaseException) -> bool:
    """True for what a file system or its library raised; False for faults of the program, and for a full disk of this
    machine that a download goes to.
    """
    if isinstance(error, OSError):
        return error.errno not in _OWN_DISK_NUMBERS
    return type(error).__module__ != "builtins" and not isinstance(error, RealmError)


def is_missing_bucket(error: BaseException) -> bool:
    """True when not the file alone is missing, but the bucket it would be in."""
    return "NoSuchBucket" in _codes(error)


def missing_bucket(url: str, error: BaseException) -> StoreError:
    """The error for a bucket that is not there."""
    return StoreError(
        where=f"store {url}",
        found=f"no such bucket ({brief(error)})",
        expected="a bucket that is there; it is not made by itself",
        action="Make the bucket, or correct --store.",
    )


def local_failure(url: str, what: str, error: BaseException) -> StoreError:
    """The error for a file or folder of this machine that cannot be used."""
    return StoreError(
        where=f"store {url}",
        found=f"{what} failed ({brief(error)})",
        expected="files that can be read, on a disk that works",
        action="Correct the permissions or --store; if neither is wrong, check the disk.",
    )


def remote_failure(url: str, what: str, error: BaseException, *, tried_seconds: float) -> StoreError:
    """The error for an operation of a remote store that failed for good, after so many seconds if it was retried."""
    found = f"{what} failed ({brief(error)})"
    if is_transient(error):
        return StoreError(
            where=f"store {url}",
            found=f"{what} failed again and again for {tried_seconds:g} s, at last with: {brief(error)}",
            expected="a store that answers",
            action="Check the store and the network, then run the command again: it goes on where it stopped. "
            f"{RETRY_VARIABLE} sets for how many seconds a store is waited for.",
        )
    if _names(error) & _REFUSED_CLASSES:
        return StoreError(
            where=f"store {url}",
            found=found,
            expected="credentials that may read and write the store",
            action="Set its credentials (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), or correct --store.",
        )
    return StoreError(
        where=f"store {url}",
        found=found,
        expected="a store that can be read and written",
        action="Check --store and the settings that the message names.",
    )


def is_transient(error: BaseException) -> bool:
    """True for refused, cut and timed-out connections, and for a server that is busy or broken (429, 5xx)."""
    chain, names = list(_causes(error)), _names(error)
    if names & _LASTING_CLASSES:
        return False
    if names & _TRANSIENT_CLASSES:  # before the status: aiohttp gives one, 400, to an answer that was cut
        return True
    statuses = [status for status in map(_http_status, chain) if status is not None]
    if statuses:
        is_busy = any(status >= 500 or status in _TRANSIENT_STATUSES for status in statuses)
        return is_busy or bool(_codes(error) & _TRANSIENT_CODES)
    return any(getattr(one, "errno", None) in _TRANSIENT_NUMBERS for one in chain)


def brief(error: BaseException) -> str:
    """The first line of its message, or its class where it has none."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for one in _causes(error) for kind in type(one).__mro__}


def _codes(error: BaseException) -> set[str]:
    """What S3 calls it, such as `NoSuchBucket`."""
    responses = [getattr(one, "response", None) for one in _causes(error)]
    return {str(r["Error"].get("Code", "")) for r in responses if isinstance(r, dict) and "Error" in r}


def _http_status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:  # aiohttp, azure, gcsfs
        status = getattr(error, "status", None) or getattr(error, "status_code", None) or getattr(error, "code", None)
    return status if isinstance(status, int) and 100 <= status < 600 else None
