"""Compares what ours gives with the golden files.

Every value may be off by 1e-5 of itself, gradients by 1e-4. What cancellation leaves may be far smaller than what was
summed, so a value may also be off by 4e-6 of the array's largest: with these weights the fp32 outputs of 4.40.2 are up
to 2.1e-6 of the largest away from its own outputs in fp64, and ours may be as far away on the other side.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from golden.configurations import CONFIGURATIONS, MAX_STORED_VALUES
from golden.files import read_arrays, read_json
from golden.outputs import Arrays, shapes, thinned
from numpy.typing import NDArray

RELATIVE = 1e-5
RELATIVE_OF_LARGEST = 4e-6
GRADIENT_RELATIVE = 1e-4
GRADIENT_RELATIVE_OF_LARGEST = 1e-6

arrays_of = lru_cache(maxsize=8)(read_arrays)
json_of = lru_cache(maxsize=16)(read_json)


def case_names(kind: str) -> list[tuple[str, str]]:
    """Configuration and name of every stored case of a kind of model."""
    return [(name, case) for name in CONFIGURATIONS for case in json_of(f"{name}/outputs").get(kind, {})]


def expected_shapes(name: str, kind: str, case: str) -> list[str]:
    """Names, types and shapes of the outputs of a case, in order."""
    found: list[str] = json_of(f"{name}/outputs")[kind][case]
    return found


def expected_array(name: str, kind: str, case: str, output: str) -> NDArray[Any]:
    """An output of a case, thinned."""
    return arrays_of(f"{name}/{kind}")[f"{case}/{output}"]


def assert_outputs(actual: Arrays, name: str, kind: str, case: str) -> None:
    """The same outputs in the same order, and the same values."""
    assert shapes(actual) == expected_shapes(name, kind, case)
    for output in actual:
        assert_output(actual, name, kind, case, output)


def assert_output(actual: Arrays, name: str, kind: str, case: str, output: str) -> None:
    """The same values of one output."""
    values = thinned(actual[output], MAX_STORED_VALUES[name])
    assert_close(values, expected_array(name, kind, case, output), f"{name}, {kind}, {case}: {output}")


def assert_close(actual: NDArray[Any], expected: NDArray[Any], what: str) -> None:
    """Integers and truth values exactly, floats within the tolerance."""
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(actual, expected, what)
        return
    assert_within(actual, expected, RELATIVE, RELATIVE_OF_LARGEST * float(np.abs(expected).max()), what)


def assert_within(actual: NDArray[Any], expected: NDArray[Any], relative: float, absolute: float, what: str) -> None:
    """Each value is within the larger of both tolerances."""
    difference = np.abs(actual.astype(np.float64) - expected)
    excess = difference - np.maximum(relative * np.abs(expected), absolute)
    worst = np.unravel_index(excess.argmax(), excess.shape)
    assert excess[worst] <= 0, (
        f"{what} at {list(map(int, worst))}: {actual[worst]} instead of {expected[worst]}; {(excess > 0).sum()} of "
        f"{excess.size} values are off by more than {relative} of themselves and {absolute}"
    )


def assert_gradients(loss: float, actual: Arrays, name: str, loss_name: str) -> None:
    """The same loss, and for every parameter the same gradient or the same lack of one."""
    stored, names = arrays_of(f"{name}/gradients"), json_of(f"{name}/gradients")[loss_name]
    expected = dict(zip(names, stored[f"{loss_name}/gradients"], strict=True))
    assert_close(np.array([loss]), stored[f"{loss_name}/loss"], f"{name}, {loss_name}")
    assert _with_gradient(actual) == _with_gradient(expected)
    largest = max(row[0] for row in expected.values() if not np.isnan(row[0]))
    for parameter in sorted(_with_gradient(expected)):
        _assert_gradient(actual[parameter], expected[parameter], largest, f"{name}, {loss_name}: {parameter}")


def _with_gradient(rows: Arrays) -> set[str]:
    return {parameter for parameter, row in rows.items() if not np.isnan(row[0])}


def _assert_gradient(actual: NDArray[Any], expected: NDArray[Any], largest_norm: float, what: str) -> None:
    """The norm, then single values, measured by the largest of them.

    Some gradients are 0 but for rounding, for example that of an attention key's bias: adding to all keys of a query
    changes no weight. They are measured by the largest norm of the model.
    """
    rounding = GRADIENT_RELATIVE_OF_LARGEST * largest_norm
    assert_within(actual[:1], expected[:1], GRADIENT_RELATIVE, rounding, f"{what}: norm")
    among_values = max(rounding, GRADIENT_RELATIVE * float(np.abs(expected[1:]).max()))
    assert_within(actual[1:], expected[1:], GRADIENT_RELATIVE, among_values, f"{what}: values")
