"""One file format for everything that is saved: a zip of JSON and safetensors. Reading one never runs code from it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import torch as safetensors

from agents.atomic import whole_file

FORMAT = {"format": "mtrl-surgery", "version": 1}
JSON, TENSORS = "state.json", "tensors.safetensors"  # the two members, uncompressed
_LONGEST_JSON = 2**26  # bytes; numbers lie in the other member
DTYPES = {
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.bool: "BOOL"},
    **{torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8"},
}


class StateFileError(ValueError):
    """A file that is not ours, or is damaged; the message says which and what to do."""


@contextmanager
def damage_told(path: str | Path, unless: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Inside, an error means that the contents of the file at `path` do not fit: tell it as `StateFileError`.

    All errors, as readers of damaged or hostile bytes meet many kinds: for flipped bits, zipfile alone raises five.

    :param unless: kinds of errors that are about something else, and pass as they are.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, (StateFileError, *unless)):
            raise
        raise StateFileError(
            f"{path} is damaged, or of another version: {error or type(error).__name__}. Use an earlier checkpoint."
        ) from error


def pack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """JSON for a nested dict, list or tuple; tensors and arrays go into `tensors` and leave a reference behind.

    :raises TypeError: for anything else, such as a function or an object.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
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
    if "$tuple" in value:
        return tuple(unpack(item, tensors) for item in value["$tuple"])
    if "$items" in value:
        return {unpack(key, tensors): unpack(item, tensors) for key, item in value["$items"]}
    return {key: unpack(item, tensors) for key, item in value.items()}


def write_state(path: str | Path, kind: str, state: dict[str, Any]) -> None:
    """Write `state` to `path`; the file appears whole or not at all.

    :param kind: what the file is ("agent", "buffer", ...); reading asks for the same.
    """
    path = Path(path)
    tensors: dict[str, torch.Tensor] = {}
    body = json.dumps({**FORMAT, "kind": kind, "state": pack(state, tensors)}, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(JSON, body)
        with archive.open(TENSORS, "w", force_zip64=True) as member:
            _write_tensors(member.write, tensors)


def _write_tensors(write: Callable[[Any], Any], tensors: dict[str, torch.Tensor]) -> None:
    """The safetensors format, tensor by tensor: the library's own `save` holds a large buffer three times in memory."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the numbers begin at a multiple of eight
    write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        write(tensor.reshape(-1).contiguous().numpy().data)


def read_state(path: str | Path, kind: str) -> dict[str, Any]:
    """Read what `write_state` wrote.

    :raises FileNotFoundError: if there is no such file.
    :raises StateFileError: if it is damaged, of another kind, or not ours (a pickle, say): nothing of it was run.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # flipped bits raise many kinds
        raise StateFileError(
            f"{path} is not one of our files, or is damaged ({error}). Pickles are never opened: they can run code."
        ) from error
    with damage_told(path), archive:
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


def _check_members(path: Path, archive: zipfile.ZipFile) -> None:
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
