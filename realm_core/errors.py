"""Every error a user can meet.

RealmError                        exit code 1
├── UsageError                    exit code 2: flags, configuration, arguments
├── SourceError                   a corpus source that cannot be read
├── EncoderError                  an encoder directory or checkpoint that cannot be used
├── StoreError
│   ├── StoreLockedError          another run is writing the store
│   ├── ArtifactMissingError      a file that a manifest names is not there
│   └── ArtifactCorruptError      a file whose bytes are not the ones its manifest names
├── QueryError                    NaN, wrong width, k out of range
├── BlockError                    blocks that no engine can embed; has their rows
├── GateError                     a snapshot that must not go live
├── ServiceError
│   ├── ServiceUnavailableError   no retrieval service, or a shard that is down
│   ├── OverloadedError           more searches wait than can be answered in time
│   └── DeadlineExceededError     no answer before the caller's deadline
└── TrainingError                 a training run that cannot start or go on
"""

from __future__ import annotations


class RealmError(Exception):
    """Says what was found, what was expected, where, and what to do; each is an attribute."""

    exit_code = 1

    def __init__(self, *, where: str, found: str, expected: str, action: str) -> None:
        super().__init__(f"{where}: {found}; expected {expected}. {action}")
        self.where = where
        self.found = found
        self.expected = expected
        self.action = action

    def __reduce__(self) -> tuple[object, ...]:
        """Survives the trip between Ray processes, which keyword-only arguments do not by default."""
        facts = (self.where, self.found, self.expected, self.action)
        return (_rebuild, (type(self), *facts))


def _rebuild(kind: type[RealmError], where: str, found: str, expected: str, action: str) -> RealmError:
    return kind(where=where, found=found, expected=expected, action=action)


class UsageError(RealmError):
    """Flags, configuration or arguments that cannot be run."""

    exit_code = 2


class SourceError(RealmError):
    """A corpus source that is missing, truncated, of an unknown format, or empty."""


class EncoderError(RealmError):
    """An encoder directory without weights, of another architecture, or with another tokenizer."""


class StoreError(RealmError):
    """A store that cannot be read or written."""


class StoreLockedError(StoreError):
    """Another run is writing the store."""


class ArtifactMissingError(StoreError):
    """A file that a manifest names is not there."""


class ArtifactCorruptError(StoreError):
    """A file whose bytes are not the ones its manifest names."""


class QueryError(RealmError):
    """A query that has no meaning: NaN, another width, k out of range."""


class BlockError(RealmError):
    """Blocks that cannot be embedded; `rows` are their numbers in what was to be embedded."""

    def __init__(self, *, where: str, found: str, expected: str, action: str, rows: tuple[int, ...] = ()) -> None:
        super().__init__(where=where, found=found, expected=expected, action=action)
        self.rows = rows

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_block_error, (self.where, self.found, self.expected, self.action, self.rows))


def _rebuild_block_error(where: str, found: str, expected: str, action: str, rows: tuple[int, ...]) -> BlockError:
    return BlockError(where=where, found=found, expected=expected, action=action, rows=rows)


class GateError(RealmError):
    """A snapshot that failed its gate and must not go live."""


class ServiceError(RealmError):
    """The retrieval service could not answer."""


class ServiceUnavailableError(ServiceError):
    """No retrieval service is there, or one of its shards is down."""


class OverloadedError(ServiceError):
    """More searches wait already than the service can answer in time."""


class DeadlineExceededError(ServiceError):
    """No answer came before the caller's deadline."""


class TrainingError(RealmError):
    """A training run that cannot start or go on."""
