"""Drop-ins for functions of numpy, scipy and metaworld in which Meta-World's rewards spend their time, bit for bit.

Each takes the case that the rewards are made of and hands every other case to the original. Types are kept as well as
values: under NumPy 2 a Python float times a float32 is rounded to float32 and a float64 times a float32 is not, so a
drop-in that answers with another type of the same value changes later digits, and with them branches.
"""

import types
from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np
from metaworld.utils import reward_utils
from scipy.spatial.transform import Rotation  # type: ignore[import-untyped]

_GAUSSIAN_SCALE = float(np.sqrt(-2 * np.log(0.1)))  # at the distance `margin` the answer is 0.1
_HUGE = 1e100  # far below where the square of a Python float raises and that of a numpy float is infinite


def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    """Length of a vector: numpy itself takes the square root of `x.dot(x)`, which IEEE arithmetic rounds in one way."""
    if (
        type(x) is np.ndarray
        and x.ndim == 1
        and x.dtype.char == "d"
        and ord in (None, 2)
        and axis is None
        and not keepdims
    ):
        return np.float64(sqrt(x.dot(x)))
    if type(x) is np.float64 and ord is None and axis is None and not keepdims:
        return np.float64(sqrt(x * x))
    return np.linalg.norm(x, ord, axis, keepdims)


def hstack(tup: Sequence[Any], **kwargs: Any) -> np.ndarray:
    """Join vectors, or make one of two scalars, without numpy's look at each part."""
    first = tup[0]
    if type(first) is np.ndarray and first.ndim == 1 and not kwargs:
        try:
            return np.concatenate(tup)
        except ValueError:  # a scalar among them
            pass
    elif type(first) is np.float64 and len(tup) == 2 and type(tup[1]) is np.float64 and not kwargs:
        return np.array(tup)
    return np.hstack(tup, **kwargs)


def clip(a: Any, *args: Any, **kwargs: Any) -> Any:
    """Clip a numpy scalar between two Python numbers: it stays itself, or becomes a bound of the same type."""
    if (type(a) is np.float32 or type(a) is np.float64) and len(args) == 2 and not kwargs:
        low, high = args
        if type(low) in (int, float) and type(high) in (int, float) and low < a < high:
            return a
    return np.clip(a, *args, **kwargs)


def absolute(x: Any, *args: Any, **kwargs: Any) -> Any:
    """Absolute value; of a numpy scalar the builtin gives the same, with its type, sooner."""
    if type(x) is np.float64 and not args and not kwargs:
        return abs(x)
    return np.abs(x, *args, **kwargs)


def tolerance(
    x: Any,
    bounds: tuple[Any, Any] = (0.0, 0.0),
    margin: Any = 0.0,
    sigmoid: str = "gaussian",
    value_at_margin: float = 0.1,
) -> Any:
    """`reward_utils.tolerance` of a scalar, in Python floats: the same operations in the same order.

    The original answers a scalar with a Python float, so this does. The scale of the long tail, the square root of
    1 / 0.1 - 1, is exactly 3. `**` is the C library's `pow` for Python's and numpy's scalars alike, which `x * x` is
    not; numpy's `exp` is its own and stays.
    """
    if value_at_margin == 0.1 and (type(x) is np.float64 or type(x) is float):
        lower, upper = bounds
        if lower <= upper:
            if margin > 0:
                inside = lower <= x <= upper
                x = float(x)
                distance = float(lower - x if x < lower else x - upper) / float(margin)
                if distance < _HUGE and sigmoid == "long_tail":
                    return 1.0 if inside else 1 / ((distance * 3.0) ** 2 + 1)
                if distance < _HUGE and sigmoid == "gaussian":
                    return 1.0 if inside else float(np.exp(-0.5 * (distance * _GAUSSIAN_SCALE) ** 2))
            elif margin == 0:
                return 1.0 if lower <= x <= upper else 0.0
    return reward_utils.tolerance(x, bounds, margin, sigmoid, value_at_margin)  # type: ignore[arg-type]


class _Quaternion:
    """What `Rotation.from_matrix` returns, as far as metaworld asks: the quaternion."""

    def __init__(self, values: list[float]) -> None:
        self._values = values

    def as_quat(self) -> np.ndarray:
        """Return x, y, z, w."""
        return np.array(self._values)


class FastRotation:
    """`scipy.spatial.transform.Rotation`, of which metaworld uses one conversion: matrix to quaternion."""

    @staticmethod
    def from_matrix(matrix: np.ndarray) -> Any:
        """Convert one rotation (3, 3), scipy's algorithm step by step in its order of operations.

        scipy first replaces what is no rotation by the nearest one. It tests with 1e-12 off the diagonal of the
        Gramian; whatever is not well within that goes to scipy.
        """
        (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
        off = max(abs(a * d + b * e + c * f), abs(a * g + b * h + c * i), abs(d * g + e * h + f * i))
        lengths = (a * a + b * b + c * c, d * d + e * e + f * f, g * g + h * h + i * i)
        right_handed = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g) > 0.5
        if not (off < 1e-13 and max(lengths) < 1 + 1e-8 and min(lengths) > 1 - 1e-8 and right_handed):
            return Rotation.from_matrix(matrix)
        trace = a + e + i
        largest = max(a, e, i, trace)
        if largest == a:  # the first of equals, as argmax has it
            x, y, z, w = 1 - trace + 2 * a, d + b, g + c, h - f
        elif largest == e:
            y, z, x, w = 1 - trace + 2 * e, h + f, b + d, c - g
        elif largest == i:
            z, x, y, w = 1 - trace + 2 * i, c + g, f + h, d - b
        else:
            x, y, z, w = h - f, c - g, d - b, 1 + trace
        length = sqrt(x * x + y * y + z * z + w * w)
        return _Quaternion([x / length, y / length, z / length, w / length])


def _replace(module: types.ModuleType, **replacements: Any) -> types.ModuleType:
    """Return a namespace with all that a module has, some of it replaced; the module stays as it is."""
    namespace = types.ModuleType(module.__name__)
    vars(namespace).update(vars(module), **replacements)
    return namespace


FAST_NUMPY = _replace(np, linalg=_replace(np.linalg, norm=norm), hstack=hstack, clip=clip, abs=absolute)
FAST_REWARDS = _replace(reward_utils, tolerance=tolerance)
# What metaworld's modules call by these names in their own code, and what they get instead.
DROP_INS = {"np": FAST_NUMPY, "reward_utils": FAST_REWARDS, "tolerance": tolerance, "Rotation": FastRotation}
