"""Looking at a run from the driver while it goes on elsewhere."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipelines.display import say
from realm_core.errors import RealmError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS_BETWEEN_LOOKS = 1.0


@contextmanager
def watch_in_background(look: Callable[[], None]) -> Iterator[None]:
    """Calls `look` every second while the block runs, and once after it.

    What one look raises is said, and the next one is tried: a display must not end the run that it shows.
    """
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(SECONDS_BETWEEN_LOOKS):
            _try(look)

    thread = threading.Thread(target=follow, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    _try(look)


def _try(look: Callable[[], None]) -> None:
    try:
        look()
    except Exception as error:  # noqa: BLE001 - said, and the run goes on
        say(f"progress: {error if isinstance(error, RealmError) else f'{type(error).__name__}: {error}'}")
