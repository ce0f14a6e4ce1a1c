"""One file format for everything that is saved: a zip of JSON and safetensors. Reading one never runs code from it."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import torch as safetensors
from stable_baselines3.common.save_util import open_path

from agents.saving.atomic import whole_file

FORMAT = {"format": "mtrl-surgery", "version": 1}
JSON, TENSORS = "state.json", "tensors.safetensors"  # the two members, uncompressed
_LONGEST_JSON = 2**26  # bytes; numbers lie in the other member
DTYPES = {
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.bool: "BOOL"},
    **{torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8"},
}


class StateFileError(ValueError):
    """A file that is not ours, does not go with what it is opened for, or is damaged; the message says what to do."""


@contextmanager
def damage_told(path: Any, changes: Collection[str] = ()) -> Iterator[None]:
    """Inside, an error means that the contents of the file at `path` do not fit: tell it as `StateFileError`.

    All errors, as readers of damaged or hostile bytes meet many kinds: for flipped bits, zipfile alone raises five.
    But a package that is not installed (ImportError) is no damage.

    :param changes: names of what the caller wants to be otherwise than in the file: then these may be to blame, and
        the error is a ValueError about them.
    """
    try:
        yield
    except (StateFileError, ImportError):
        raise
    except Exception as error:
        found = str(error) or type(error).__name__
        if not changes:
            raise StateFileError(
                f"{path} is damaged, or of another version: {found}. Use an earlier checkpoint."
            ) from error
        if isinstance(error, ValueError):  # which says by itself what was expected
            raise
        raise ValueError(f"{path} does not go with the change of {', '.join(changes)}: {found}") from error


def pack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """JSON for a nested dict, list or tuple; tensors and arrays go into `tensors` and leave a reference behind.

    :raises TypeError: for anything else, such as a function or an object.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}  # JSON has no such numbers
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return pack(value.item(), tensors)
    if isinstance(value, torch.Tensor | np.ndarray):
        name, is_array = str(len(tensors)), isinstance(value, np.ndarray)
        tensors[name] = torch.as_tensor(value).detach().cpu()
        return {"$array" if is_array else "$tensor": name}
    if isinstance(value, list):
        return [pack(item, tensors) for item in value]
    if isinstance(value, tuple):
        return {"$tuple": [pack(item, tensors) for item in value]}
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: pack(item, tensors) for key, item in value.items()}
        return {"$items": [[pack(key, tensors), pack(item, tensors)] for key, item in value.items()]}
    raise TypeError(
        f"{type(value).__name__} cannot be saved: files hold numbers, text, lists, dicts, arrays and tensors."
    )


def unpack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Inverse of `pack`."""
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$array" in value:
        return tensors[value["$array"]].numpy()
    if "$float" in value:
        return float(value["$float"])
    if "$tuple" in value:
        return tuple(unpack(item, tensors) for item in value["$tuple"])
    if "$items" in value:
        return {unpack(key, tensors): unpack(item, tensors) for key, item in value["$items"]}
    return {key: unpack(item, tensors) for key, item in value.items()}


def write_state(path: Any, kind: str, state: dict[str, Any]) -> None:
    """Write `state` to `path`, where the file appears whole or not at all, or into a binary file that is open.

    :param kind: what the file is ("agent", "buffer", ...); reading asks for the same.
    """
    tensors: dict[str, torch.Tensor] = {}
    body = json.dumps({**FORMAT, "kind": kind, "state": pack(state, tensors)}, indent=1, allow_nan=False)
    with _to_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(JSON, body)
        with archive.open(TENSORS, "w", force_zip64=True) as member:
            _write_tensors(member.write, tensors)


def is_path(path: Any) -> bool:
    """Whether this is a path, and not an open file."""
    return isinstance(path, str | os.PathLike)


def _to_write(path: Any) -> AbstractContextManager[Any]:
    if not is_path(path):
        return nullcontext(open_path(path, "w"))  # which checks that it is a binary file, open for writing
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return whole_file(path)


def _to_read(path: Any) -> AbstractContextManager[Any]:
    if not is_path(path):
        return nullcontext(open_path(path, "r"))
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    return Path(path).open("rb")


def _write_tensors(write: Callable[[Any], Any], tensors: dict[str, torch.Tensor]) -> None:
    """Write safetensors tensor by tensor: the library's own `save` holds a large buffer three times in memory."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the numbers begin at a multiple of eight
    write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        numbers = tensor.reshape(-1).contiguous()
        if numbers.dtype == torch.bfloat16:  # which numpy does not know
            numbers = numbers.view(torch.int16)
        write(numbers.numpy().data)


def read_state(path: Any, kind: str) -> dict[str, Any]:
    """Read what `write_state` wrote, from a path or a binary file that is open.

    :raises FileNotFoundError: if there is no such file.
    :raises StateFileError: if it is damaged, of another kind, or not ours (a pickle, say): nothing of it was run.
    """
    with _to_read(path) as file:
        file.seek(0)  # one that was just written stands at its end
        beginning = file.read(8)
        if not beginning.startswith(b"PK"):  # as every zip does
            found = f"a file that begins with {beginning!r}" if beginning else "an empty file"
            raise StateFileError(
                f"{path} is not one of our files: expected a zip that was written by `save`, found {found}. Pickles "
                "are never opened: they can run code."
            )
        with damage_told(path), zipfile.ZipFile(file) as archive:
            _check_members(path, archive)
            body = json.loads(archive.read(JSON))
            tensors = safetensors.load(archive.read(TENSORS))
            if body["format"] != FORMAT["format"] or body["version"] != FORMAT["version"] or body["kind"] != kind:
                found = ", ".join(f"{key} {body[key]!r}" for key in (*FORMAT, "kind"))
                raise StateFileError(
                    f"{path}: expected an {FORMAT['format']} file, version 1, kind {kind!r}; found {found}."
                )
            state = unpack(body["state"], tensors)
    if not isinstance(state, dict):
        raise StateFileError(f"{path} is damaged: expected a dict of values, found {type(state).__name__}.")
    return state


def _check_members(path: Any, archive: zipfile.ZipFile) -> None:
    """Exactly our two members, stored as they are: no path leads anywhere, and no small file unpacks to a huge one."""
    members = archive.infolist()
    names = [member.filename for member in members]
    if "pytorch_variables.pth" in names:
        raise StateFileError(
            f"{path} is in Stable-Baselines3's format, which holds pickles: opening one can run code. If you trust its "
            "origin: MTSAC.load(path, trust=True)."
        )
    if sorted(names) != [JSON, TENSORS]:
        raise StateFileError(f"{path} is a zip, but not one of ours: expected {JSON} and {TENSORS}, found {names[:5]}.")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise StateFileError(f"{path} is a zip, but not one of ours: its members are compressed, and ours never are.")
    if (size := archive.getinfo(JSON).file_size) > _LONGEST_JSON:
        raise StateFileError(f"{path} is not one of ours: {JSON} has {size} bytes, expected at most {_LONGEST_JSON}.")
