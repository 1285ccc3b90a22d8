"""Walks the pickle of an array of byte strings without running it.

A pickle is a program for a stack machine. This one keeps a stack of plain values and of *names*: where a pickle asks
for a function to be called, the walker notes what would be called, and calls nothing. It knows the instructions that
`np.save` writes for an array of `bytes` objects, in pickle protocols 3 to 5, and four names; all else is refused.
At the end, what was noted must be exactly such an array.
"""

from __future__ import annotations

import os
import pickletools
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

from realm_core.corpora.compression import truncated
from realm_core.errors import SourceError

MAX_RECORD_BYTES = 1 << 28
"""The longest value that is read; a damaged length must not fill the memory."""
MAX_NAME_BYTES = 1024
MAX_STACK = 64
MAX_VALUES = 1024
"""Values besides records that a pickle may make; np.save's makes some 40."""

_RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
"""NumPy 1's and NumPy 2's name of one function."""
_NDARRAY, _DTYPE = "numpy.ndarray", "numpy.dtype"
_ADMITTED = frozenset((*_RECONSTRUCT, _NDARRAY, _DTYPE))
_BYTES_IN_PROTOCOL_2 = "_codecs.encode"
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_EXPECTED = "an array of byte strings, as np.save writes it, and nothing else"
_DAMAGED = "Download or copy it again and compare its size and checksum with the publisher's."
_SAVE_AGAIN = "Where you trust it, load the array with NumPy and save it again with `np.save`: protocol 4."
_HOSTILE = "No code was run. Do not open this file otherwise; take it from a source that you trust."


@dataclass(frozen=True, slots=True)
class _Name:
    """A function or class that the pickle names."""

    name: str


@dataclass(frozen=True, slots=True)
class _Call:
    """What the pickle would call."""

    function: object
    arguments: object


@dataclass(frozen=True, slots=True)
class _State:
    """What the pickle would set on an object."""

    target: object
    state: object


@dataclass(frozen=True, slots=True)
class _Marker:
    """Something on the stack that is only itself."""

    name: str


_MARK, _LIST = _Marker("mark"), _Marker("list of records")
_RECORD = _Marker("record")
"""Stands for the records that were given since the list's mark, or for the one before APPEND."""


class RecordWalker:
    """Gives the records of one pickle, in order."""

    def __init__(self, file: BinaryIO, *, num_records: int, where: str) -> None:
        """Begins at the file's position; `num_records` is what there should be, `where` names the file in errors."""
        self._window = _Window(file)
        self._memo = _Memo()
        self._num_expected = num_records
        self._where = where
        self._position = self._window.position
        self._stack: list[object] = []
        self._record_place = (0, 0)
        self._records: list[bytes] = []
        self._num_bytes = self._num_records = self._num_values = 0
        self._has_list = self._has_stopped = False

    def batches(self, *, max_records: int, max_bytes: int) -> Iterator[list[bytes]]:
        """All records, in lists of at most `max_records` or about `max_bytes`.

        Raises:
            SourceError: anything but an array of `num_records` byte strings that ends where the file ends.
        """
        try:
            for opcode, argument, position in pickletools.genops(self._window):  # type: ignore[arg-type] # IO is wider
                self._position = position or 0
                _INSTRUCTIONS.get(opcode.name, RecordWalker._refuse_instruction)(self, opcode.name, argument)
                if len(self._records) >= max_records or self._num_bytes >= max_bytes:
                    yield self._taken()
        except ValueError as error:
            raise self._damaged(str(error)) from error
        self._check_end()
        if self._records:
            yield self._taken()

    def _taken(self) -> list[bytes]:
        records, self._records, self._num_bytes = self._records, [], 0
        return records

    def _bytes(self, _: str, value: bytes) -> None:
        self._add_bytes(value, (self._window.position - len(value), len(value)))

    def _add_bytes(self, value: bytes, place: tuple[int, int]) -> None:
        """A byte string is a record where the list is at the top of the stack, itself or under its mark."""
        stack = self._stack
        if not (stack and stack[-1] is _RECORD and stack[-2] is _MARK):
            if not self._is_at_list():
                self._check_short(value)
                self._push(value)
                return
            self._push(_RECORD)
        self._record_place = place
        self._records.append(value)
        self._num_bytes += len(value)
        self._num_records += 1
        if self._num_records > self._num_expected:
            self._refuse(f"more than the {self._num_expected:,} records that its header names", _DAMAGED)

    def _is_at_list(self) -> bool:
        """Whether the list, or its mark, is at the top of the stack."""
        top = self._stack[-2:]
        return top[-1:] == [_LIST] or top == [_LIST, _MARK]

    def _remember(self, name: str, index: int | None) -> None:
        if not self._stack or (name != "MEMOIZE" and index != len(self._memo)):
            self._refuse("values numbered out of their order")
        if self._stack[-1] is _RECORD:
            self._memo.add_record(self._record_place)
        elif not self._memo.add_value(self._stack[-1]):
            self._refuse(f"more than {MAX_VALUES} values that are no records")

    def _recall(self, _: str, index: int) -> None:
        if index >= len(self._memo):
            self._refuse(f"the value number {index} of {len(self._memo)}")
        place = self._memo.place(index)
        value = self._memo.value(index) if place is None else self._window.again(*place)
        if isinstance(value, bytes):
            self._add_bytes(value, place or (0, 0))
        else:
            self._push(value)

    def _constant(self, name: str, _: object) -> None:
        self._push(_CONSTANTS[name])

    def _value(self, _: str, value: int | str) -> None:
        if isinstance(value, str):
            self._check_short(value)
        self._push(value)

    def _mark(self, *_: object) -> None:
        self._push(_MARK)

    def _new_list(self, *_: object) -> None:
        if self._has_list:
            self._refuse("a second list")
        self._has_list = True
        self._push(_LIST)

    def _append(self, *_: object) -> None:
        self._check_records(self._pop(1))

    def _appends(self, *_: object) -> None:
        self._check_records(self._pop_to_mark())

    def _check_records(self, values: tuple[object, ...]) -> None:
        if not self._stack or self._stack[-1] is not _LIST or any(value is not _RECORD for value in values):
            self._refuse(self._intruder(values))

    def _tuple(self, name: str, _: object) -> None:
        self._push(self._pop(_TUPLES[name]) if name in _TUPLES else self._pop_to_mark())

    def _global(self, name: str, argument: str) -> None:
        if name == "STACK_GLOBAL":
            module, attribute = self._pop(2)
            argument = f"{module} {attribute}"
        named = argument.replace(" ", ".")
        if name == "INST" or named not in _ADMITTED:
            self._refuse_name(named)
        self._push(_Name(named))

    def _call(self, *_: object) -> None:
        function, arguments = self._pop(2)
        self._push(_Call(function, arguments))

    def _state(self, *_: object) -> None:
        target, state = self._pop(2)
        self._push(_State(target, state))

    def _protocol(self, _: str, version: int) -> None:
        if version > 5:
            self._refuse(f"pickle protocol {version}")

    def _nothing(self, *_: object) -> None:
        """Frames only help a reader to read ahead, and STOP is the last instruction that `genops` gives."""

    def _push(self, value: object) -> None:
        self._num_values += not isinstance(value, _Marker)
        if len(self._stack) >= MAX_STACK or self._num_values > MAX_VALUES:
            self._refuse(self._intruder(tuple(self._stack)))
        self._stack.append(value)

    def _pop(self, count: int) -> tuple[object, ...]:
        values = tuple(self._stack[-count:])
        if len(values) < count or _MARK in values:
            self._refuse("an instruction without its values")
        del self._stack[-count:]
        return values

    def _pop_to_mark(self) -> tuple[object, ...]:
        if _MARK not in self._stack:
            self._refuse("an instruction without its mark")
        start = len(self._stack) - 1 - self._stack[::-1].index(_MARK)
        values = tuple(self._stack[start + 1 :])
        del self._stack[start:]
        return values

    def _check_short(self, value: bytes | str) -> None:
        if len(value) > MAX_NAME_BYTES:
            self._refuse(self._intruder((*self._stack, value)))

    def _intruder(self, values: tuple[object, ...]) -> str:
        """What is wrong with a list, or outside it: a value that is no record."""
        strangers = [value for value in values if not isinstance(value, _Marker | bytes)]
        kind = type(strangers[-1]).__name__.strip("_") if strangers else "value"
        if self._has_list:
            return f"a {kind} instead of a byte string as record {self._num_records:,}"
        return f"values that are no records, such as a {kind}"

    def _check_end(self) -> None:
        num_left = self._window.size - self._window.position
        if num_left:
            self._refuse(f"{num_left:,} bytes after the end of the array", _DAMAGED)
        if len(self._stack) != 1 or not _is_array(self._stack[0], self._num_expected):
            self._refuse("an object of another structure")
        if self._num_records != self._num_expected:
            self._refuse(f"{self._num_records:,} records where its header names {self._num_expected:,}", _DAMAGED)

    def _refuse_instruction(self, name: str, argument: object) -> NoReturn:
        if name in ("EXT1", "EXT2", "EXT4"):
            self._refuse(f"it asks for whatever is registered under the extension code {argument}")
        if name in ("PERSID", "BINPERSID"):
            self._refuse("it asks for a persistent id" + (f", {argument!r}" if argument else ""))
        self._refuse(f"the pickle instruction {name}")

    def _refuse_name(self, name: str) -> NoReturn:
        if name == _BYTES_IN_PROTOCOL_2:
            self._refuse(f"it asks for {name}, as pickle protocol 2 does for each byte string", _SAVE_AGAIN)
        self._refuse(f"it asks for the function or class {name}")

    def _refuse(self, found: str, action: str = _HOSTILE) -> NoReturn:
        where = f"{self._where}, byte {self._position}"
        raise SourceError(where=where, found=found, expected=_EXPECTED, action=action)

    def _damaged(self, reason: str) -> SourceError:
        if self._window.position >= self._window.size:
            return truncated(self._where, f"the file ends inside the array, after {self._num_records:,} records")
        return SourceError(
            where=f"{self._where}, byte {self._position}",
            found=f"no pickle instruction ({reason})",
            expected=_EXPECTED,
            action=_DAMAGED,
        )


_INSTRUCTIONS: dict[str, Any] = {
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"), RecordWalker._bytes),
    **dict.fromkeys(("MEMOIZE", "BINPUT", "LONG_BINPUT"), RecordWalker._remember),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), RecordWalker._recall),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "BINUNICODE", "SHORT_BINUNICODE"), RecordWalker._value),
    **dict.fromkeys(_CONSTANTS, RecordWalker._constant),
    **dict.fromkeys(("TUPLE", *_TUPLES), RecordWalker._tuple),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL", "INST"), RecordWalker._global),
    **dict.fromkeys(("FRAME", "STOP"), RecordWalker._nothing),
    "MARK": RecordWalker._mark,
    "EMPTY_LIST": RecordWalker._new_list,
    "APPEND": RecordWalker._append,
    "APPENDS": RecordWalker._appends,
    "REDUCE": RecordWalker._call,
    "BUILD": RecordWalker._state,
    "PROTO": RecordWalker._protocol,
}


class _Window:
    """A file as `pickletools` reads it: it knows where it is, and no length in the file makes it fill the memory."""

    def __init__(self, file: BinaryIO) -> None:
        self.position = file.tell()
        self.size = os.fstat(file.fileno()).st_size
        self._read, self._readline, self._descriptor = file.read, file.readline, file.fileno()

    def read(self, num_bytes: int) -> bytes:
        if num_bytes > MAX_RECORD_BYTES:
            raise ValueError(f"a value of {num_bytes:,} bytes")
        data = self._read(num_bytes)
        self.position += len(data)
        return data

    def readline(self) -> bytes:
        line = self._readline(MAX_NAME_BYTES)
        self.position += len(line)
        return line

    def tell(self) -> int:
        return self.position

    def again(self, start: int, num_bytes: int) -> bytes:
        """Bytes that were read before."""
        return os.pread(self._descriptor, num_bytes, start)


class _Memo:
    """What the pickle remembers by number. Of a record only its place in the file is kept, in 16 bytes."""

    def __init__(self) -> None:
        self._starts = array("q")
        self._lengths = array("q")
        self._values: dict[int, object] = {}

    def __len__(self) -> int:
        return len(self._starts)

    def add_record(self, place: tuple[int, int]) -> None:
        self._starts.append(place[0])
        self._lengths.append(place[1])

    def add_value(self, value: object) -> bool:
        """False when there are too many."""
        self._values[len(self)] = value
        self.add_record((0, 0))
        return len(self._values) <= MAX_VALUES

    def place(self, index: int) -> tuple[int, int] | None:
        """Where a record is; None for another value."""
        return None if index in self._values else (self._starts[index], self._lengths[index])

    def value(self, index: int) -> object:
        return self._values[index]


def _is_array(found: object, num_records: int) -> bool:
    """Whether what a pickle would build is an array of `num_records` objects from the list, in C order."""
    if not isinstance(found, _State) or not isinstance(found.state, tuple) or len(found.state) != 5:
        return False
    version, shape, dtype, is_fortran, values = found.state
    makers = [_Call(_Name(name), (_Name(_NDARRAY), (0,), b"b")) for name in _RECONSTRUCT]
    return (
        found.target in makers
        and (version, shape, is_fortran) == (1, (num_records,), False)
        and isinstance(dtype, _State)
        and dtype.target in [_Call(_Name(_DTYPE), (code, False, True)) for code in ("O8", "O4")]
        and values is _LIST
    )
