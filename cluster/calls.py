"""Waiting for Ray, with a timeout, and Ray's errors as ours."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from realm_core.errors import DeadlineExceededError, RealmError, ServiceUnavailableError


def get(ref: Any, *, timeout_seconds: float, what: str) -> Any:  # noqa: ANN401 - refs are untyped
    """The value of a reference (or a list of them).

    Raises:
        RealmError: the one that the remote call raised.
        DeadlineExceededError: no value in time.
        ServiceUnavailableError: the process that was asked has died.
    """
    try:
        return ray.get(ref, timeout=timeout_seconds)
    except RayTaskError as error:
        raise as_realm_error(error) from error
    except GetTimeoutError as error:
        raise DeadlineExceededError(
            where=what,
            found=f"no answer in {timeout_seconds:g} s",
            expected="one by then",
            action="Allow more time, or look at the cluster with `ray status`.",
        ) from error
    except RayActorError as error:
        raise dead_process(what, error) from error


def as_realm_error(error: BaseException) -> BaseException:
    """The error that a remote call raised, freed of Ray's wrapping when it is one of ours."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, RealmError) else error


def dead_process(what: str, error: BaseException) -> ServiceUnavailableError:
    """The error for a process that is gone."""
    return ServiceUnavailableError(
        where=what,
        found=f"its process has died ({str(error).splitlines()[0]})",
        expected="a running process",
        action="Run the command again; finished work is kept.",
    )
