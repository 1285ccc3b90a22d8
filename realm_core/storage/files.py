"""Whole-file reads and atomic writes on any fsspec URL."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from realm_core.errors import ArtifactCorruptError, ArtifactMissingError, StoreError
from realm_core.storage.failures import (
    is_missing_bucket,
    is_of_a_store,
    local_failure,
    missing_bucket,
    remote_failure,
)
from realm_core.storage.local_files import TEMPORARY_MARK, Place, exclusive, remove_leftovers, write_atomically
from realm_core.storage.retries import retry_seconds, with_retries

Result = TypeVar("Result")

MAKERS = {"parts": "`realm ingest`", "embeddings": "`realm embed`", "quantized": "`realm embed`"}
"""Which command makes what is in a folder of the store."""
CACHE_VARIABLE = "REALM_CACHE"
"""Environment variable naming the folder that keeps local copies of a remote store's immutable files."""

_BYTES_PER_READ = 8 * 1024 * 1024


class Store:
    """A folder of immutable artifacts and a few small pointers, on a local disk or an object store.

    Paths are relative to the store's root, with forward slashes. A write is visible whole or not at all: on a local
    disk the bytes go to a temporary name, are flushed to the disk and renamed; on an object store they are one put.

    An object store that is busy or cannot be reached is tried again for `REALM_STORE_RETRY_SECONDS` (300), with a
    warning in the log for each wait. What waiting does not mend (no such bucket, access denied, a full disk) is a
    `StoreError` at once.

    `s3://bucket/folder` needs the package s3fs. Credentials, region and endpoint come from where all tools for S3 look
    for them: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_DEFAULT_REGION`, ~/.aws; `AWS_ENDPOINT_URL` names a
    server other than Amazon's, as in `AWS_ENDPOINT_URL=http://minio:9000`.
    """

    def __init__(self, url: str, *, max_retry_seconds: float | None = None) -> None:
        """Opens nothing yet.

        Args:
            url: a local path or an fsspec URL.
            max_retry_seconds: instead of what the environment says; 0 tries once.

        Raises:
            StoreError: an unknown protocol.
            UsageError: the environment says nonsense.
        """
        self.url = str(url).rstrip("/") or "/"
        self._max_retry_seconds = retry_seconds() if max_retry_seconds is None else max_retry_seconds
        try:
            self.fs, self.root = fsspec.core.url_to_fs(self.url, **_options(self.url))
        except (ValueError, ImportError) as error:
            raise StoreError(
                where=f"store {self.url}",
                found=str(error),
                expected="a local path or an fsspec URL whose protocol is installed",
                action="Check the URL, or install the package that the message names.",
            ) from error
        if self.is_local:
            self.url = self.root  # absolute: the processes of a cluster start in other folders

    @property
    def is_local(self) -> bool:
        """True where files can be memory-mapped and locked in place."""
        return isinstance(self.fs, LocalFileSystem)

    def full_path(self, path: str) -> str:
        """The path as the file system spells it."""
        return f"{self.root.rstrip('/')}/{path}"

    def exists(self, path: str) -> bool:
        """True when the file is there, whole; sees at once what other processes wrote."""

        def look() -> bool:
            if self.is_local:
                Path(self.full_path(path)).stat()
            else:
                self.fs.invalidate_cache()  # of listings, which s3fs and others keep
                self.fs.info(self.full_path(path))
            return True

        try:
            return self._call(f"looking for {path}", look)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def require_initialized(self) -> None:
        """Raises `StoreError` when no corpus has ever been ingested here."""
        if not self.exists("corpora/CURRENT"):
            raise StoreError(
                where=f"store {self.url}",
                found="no corpus",
                expected="a store that `realm ingest` has filled",
                action="Check --store, or run `realm ingest --store … --source …` first.",
            )

    def list(self, folder: str) -> list[str]:
        """Names directly under a folder, sorted; empty when the folder is not there. Temporary names are left out."""
        try:
            entries = self._call(
                f"listing {folder}", lambda: self.fs.ls(self.full_path(folder), detail=False, refresh=True)
            )
        except FileNotFoundError:
            return []
        return sorted(name for name in (Path(e).name for e in entries) if TEMPORARY_MARK not in name)

    def read_bytes(self, path: str) -> bytes:
        """The whole file. Raises `ArtifactMissingError` when it is not there."""
        try:
            return bytes(self._call(f"reading {path}", lambda: self.fs.cat_file(self.full_path(path))))
        except FileNotFoundError as error:
            raise missing_file(self, path) from error

    def read_json(self, path: str, *, required: tuple[str, ...] = ()) -> Any:  # noqa: ANN401 - the caller knows
        """The file as JSON. Raises `ArtifactCorruptError` when it is not, or lacks a required key."""
        data = self.read_bytes(path)
        try:
            value = json.loads(data)
            if required and not (isinstance(value, dict) and set(required) <= value.keys()):
                raise ValueError(f"no mapping with {', '.join(required)}")
            return value
        except ValueError as error:
            raise ArtifactCorruptError(
                where=f"{self.url}/{path}",
                found=f"{len(data)} bytes that are no such JSON ({error})",
                expected="a manifest",
                action="Remove the file and run the command that wrote it again.",
            ) from error

    def write_bytes(self, path: str, data: bytes) -> None:
        """Writes the file, atomically; an existing one is replaced."""
        if not self.is_local:
            self._put(path, lambda: self.fs.pipe_file(self.full_path(path), data))
            return

        def write(temporary: Path) -> None:
            temporary.write_bytes(data)

        write_atomically(Path(self.full_path(path)), write, self._place)

    def write_json(self, path: str, value: object) -> None:
        """Writes a manifest or pointer, atomically; readable by people, keys in the given order."""
        self.write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

    def write_file(self, path: str, write: Callable[[Path], None]) -> None:
        """Lets `write(local path)` make the file, then makes it visible atomically."""
        if self.is_local:
            write_atomically(Path(self.full_path(path)), write, self._place)
            return
        try:
            with tempfile.TemporaryDirectory(prefix="realm-") as folder:
                local = Path(folder) / Path(path).name
                write(local)
                self._put(path, lambda: self.fs.put_file(str(local), self.full_path(path)))
        except OSError as error:
            raise Place(f"folder {tempfile.gettempdir()}", "TMPDIR").cannot_write(error) from error

    def put_folder(self, folder: Path, path: str, *, last: str) -> None:
        """Copies a folder's files; the one named `last` (the manifest) goes last, so that its presence means all."""
        names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        for name in [n for n in names if n != last] + [last]:
            source = folder / name

            def copy(target: Path, source: Path = source) -> None:
                shutil.copyfile(source, target)

            self.write_file(f"{path}/{name}", copy)

    def local_file(self, path: str) -> Path:
        """A local path of an immutable file: the file itself, or a cached copy of a remote one.

        A remote file is downloaded once per machine, also when several processes ask for it at the same moment.
        """
        if self.is_local:
            if not self.exists(path):
                raise missing_file(self, path)
            return Path(self.full_path(path))
        copy = self._copy_of(path)
        if not copy.exists():
            with exclusive(self._cache_folder() / "locks" / hashlib.sha256(path.encode()).hexdigest(), self._cache):
                if not copy.exists():
                    remove_leftovers(copy)
                    write_atomically(copy, lambda temporary: self._download(path, temporary), self._cache)
        return copy

    def local_folder(self, path: str) -> Path:
        """A local path of an immutable folder of files, see `local_file`."""
        names = self.list(path)
        if not names:
            raise missing_file(self, path)
        return [self.local_file(f"{path}/{name}").parent for name in names][-1]

    def read_checked(self, path: str, read: Callable[[Path], Result]) -> Result:
        """What `read(local path)` makes of an immutable file.

        Where it finds a cached copy corrupt, a fresh one is downloaded and read: the copy may have been damaged, or the
        file mended since.

        Raises:
            ArtifactMissingError: not there.
            ArtifactCorruptError: from `read`.
            StoreError: it cannot be read.
        """
        try:
            return self._read_local(path, read)
        except ArtifactCorruptError:
            if self.is_local:
                raise
            self._forget_copy(path)
            return self._read_local(path, read)

    def sizes_bytes(self, folder: str) -> dict[str, int]:
        """Size of every file under a folder, by its path in the store; also of those with temporary names."""
        root = self.full_path("")

        def look() -> dict[str, dict[str, Any]]:
            self.fs.invalidate_cache()
            found: dict[str, dict[str, Any]] = self.fs.find(self.full_path(folder), detail=True)
            return found

        try:
            found = self._call(f"listing {folder}", look)
        except FileNotFoundError:
            return {}
        return {name.removeprefix(root): int(info["size"]) for name, info in sorted(found.items())}

    def modified_at_seconds(self, path: str) -> float:
        """When the file was written, seconds since the epoch.

        Raises:
            ArtifactMissingError: not there.
            StoreError: it cannot be read.
        """
        try:
            return float(self._call(f"looking for {path}", lambda: self.fs.modified(self.full_path(path)).timestamp()))
        except FileNotFoundError as error:
            raise missing_file(self, path) from error

    def sha256(self, path: str) -> str:
        """Digest (hex) of the file's bytes as they are in the store now, whatever copies of it this machine has.

        Raises:
            ArtifactMissingError: not there.
            StoreError: it cannot be read.
        """

        def digest_of(file: BinaryIO) -> str:
            digest = hashlib.sha256()
            while piece := file.read(_BYTES_PER_READ):
                digest.update(piece)
            return digest.hexdigest()

        return self.read_open(path, digest_of)

    def read_open(self, path: str, read: Callable[[BinaryIO], Result]) -> Result:
        """What `read(open file)` makes of the file in the store: of a remote one, only what it reads is fetched.

        Raises:
            ArtifactMissingError: not there.
            StoreError: it cannot be read.
        """

        def open_and_read() -> Result:
            with self.fs.open(self.full_path(path), "rb") as file:
                return read(file)

        try:
            return self._call(f"reading {path}", open_and_read)
        except FileNotFoundError as error:
            raise missing_file(self, path) from error

    def forget_copies(self, folder: str) -> None:
        """Removes this machine's copies of a remote folder's files: they are downloaded again when they are read."""
        for name in self.list(folder):
            self._forget_copy(f"{folder}/{name}")

    def remove_folder(self, folder: str, *, first: str) -> None:
        """Removes a folder, first the file (its manifest) whose presence means that all others are there."""
        self.remove(f"{folder}/{first}")
        self.remove(folder)

    def remove(self, path: str) -> None:
        """Removes a file or folder; nothing happens when it is not there."""

        def remove() -> None:
            self.fs.invalidate_cache()
            self.fs.rm(self.full_path(path), recursive=True)

        with suppress(FileNotFoundError):
            self._call(f"removing {path}", remove)

    @property
    def _place(self) -> Place:
        return Place(f"store {self.url}", "--store")

    @property
    def _cache(self) -> Place:
        return Place(f"cache {self._cache_folder()}", CACHE_VARIABLE)

    def _cache_folder(self) -> Path:
        base = os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "realm"
        return Path(base) / hashlib.sha256(self.url.encode()).hexdigest()[:16]

    def _copy_of(self, path: str) -> Path:
        return self._cache_folder() / "files" / path

    def _forget_copy(self, path: str) -> None:
        if not self.is_local and self._copy_of(path).is_file():
            self._copy_of(path).unlink(missing_ok=True)

    def _download(self, path: str, target: Path) -> None:
        try:
            self._call(f"reading {path}", lambda: self.fs.get_file(self.full_path(path), str(target)))
        except FileNotFoundError as error:
            raise missing_file(self, path) from error

    def _put(self, path: str, put: Callable[[], object]) -> None:
        try:
            self._call(f"writing {path}", put)
        except FileNotFoundError as error:
            raise missing_bucket(self.url, error) from error
        self._forget_copy(path)

    def _read_local(self, path: str, read: Callable[[Path], Result]) -> Result:
        local = self.local_file(path)
        try:
            return read(local)
        except FileNotFoundError as error:
            raise missing_file(self, path) from error
        except OSError as error:
            raise local_failure(self.url, f"reading {local}", error) from error

    def _call(self, what: str, call: Callable[[], Result]) -> Result:
        """An operation of the file system, repeated while it fails in passing.

        Raises:
            FileNotFoundError, NotADirectoryError: no such file; the caller knows what that means.
            StoreError: all other failures of the store.
        """
        try:
            if self.is_local:
                return call()
            return with_retries(call, what=f"{what} in store {self.url}", max_seconds=self._max_retry_seconds)
        except (FileNotFoundError, NotADirectoryError) as error:
            if is_missing_bucket(error):
                raise missing_bucket(self.url, error) from error
            raise
        except Exception as error:
            if not is_of_a_store(error):
                raise
            if self.is_local:
                raise local_failure(self.url, what, error) from error
            raise remote_failure(self.url, what, error, tried_seconds=self._max_retry_seconds) from error


def missing_file(store: Store, path: str) -> ArtifactMissingError:
    """The error for a file that a manifest names and the store lacks."""
    maker = MAKERS.get(path.split("/")[0], "the command that makes it")
    return ArtifactMissingError(
        where=f"store {store.url}",
        found=f"no {path}",
        expected="every file that a manifest names",
        action=f"Run {maker} again; it makes only what is missing.",
    )


def _options(url: str) -> dict[str, Any]:
    """Of s3fs: its own retries, up to minutes each and unseen, are left to `with_retries`."""
    if not url.startswith(("s3://", "s3a://")):
        return {}
    configured = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
    return {"config_kwargs": {"retries": {"total_max_attempts": 1, "mode": "standard"}, **configured}}
