"""Messages between the trainer and its workers: JSON, with numpy arrays inside; nothing is pickled."""

import base64
import json
from typing import Any

import numpy as np

_ARRAY = "__array__"


def pack(value: Any) -> bytes:
    """Write JSON values and numpy arrays as bytes; floats keep every bit.

    :raises TypeError: for anything else: only plain data crosses a process boundary.
    """
    return json.dumps(value, default=_encode).encode()


def unpack(message: bytes) -> Any:
    """Read what `pack` wrote; tuples come back as lists."""
    return json.loads(message, object_hook=_decode)


def _encode(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {_ARRAY: [value.dtype.str, value.shape, data]}
    raise TypeError(f"expected JSON values and numeric arrays, found {type(value).__name__}")


def _decode(value: dict[str, Any]) -> Any:
    if set(value) != {_ARRAY}:
        return value
    dtype, shape, data = value[_ARRAY]
    return np.frombuffer(base64.b64decode(data), dtype=dtype).reshape(shape).copy()


STEP, DONE = pack({"command": "step", "arguments": []}), pack({"answer": None})  # the two that are sent all the time
