"""Which stages of the demo are done, and what each came to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realm_core.storage.files import Store


class StageLog:
    """One small JSON file per stage that is done; its presence is what a rerun looks at."""

    def __init__(self, store: Store, folder: str) -> None:
        self._store = store
        self._folder = folder

    def has(self, name: str) -> bool:
        """True when the stage is done."""
        return self._store.exists(self._path(name))

    def write(self, name: str, record: dict[str, Any], *, seconds: float) -> None:
        """Marks the stage as done."""
        order = len(self.records())
        self._store.write_json(self._path(name), {**record, "stage_order": order, "stage_seconds": seconds})

    def read(self, name: str) -> dict[str, Any]:
        """What the stage came to."""
        return dict(self._store.read_json(self._path(name)))

    def records(self) -> dict[str, dict[str, Any]]:
        """All stages that are done, in the order in which they ran."""
        names = [name.removesuffix(".json") for name in self._store.list(self._folder)]
        records = {name: self.read(name) for name in names}
        return dict(sorted(records.items(), key=lambda item: int(item[1]["stage_order"])))

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}.json"
