"""Reads pickles, as CIFAR-10's batch files are, without running what a pickle may ask for.

A pickle names functions and calls them. Here every name resolves to a stand-in defined in this
file or to a harmless builtin; numpy's own reconstruction, which can be misled by a crafted data
type, is never called.
"""

import io
import math
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

# Old and new homes of numpy's functions; Python 2 and 3 names of the builtins.
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
_BUILTINS = ("__builtin__", "builtins")

# Plain numbers only: an object array would hold pointers.
_KINDS = frozenset("biuf")
_REMEMBER = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})


def load_batch(path: Path) -> dict[bytes, Any]:
    """The dictionary of one batch file: bytes keys, numpy arrays, lists, numbers, bytes.

    Raises ValueError, naming the file, for a pickle that is damaged, that is not a dictionary or
    that names anything but arrays and builtins.
    """
    try:
        data = path.read_bytes()
        _check_sizes(data)
        value = _BatchUnpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        what = str(error) or type(error).__name__
        raise ValueError(f"{path} is not a readable CIFAR-10 batch: {what:.300}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not the dictionary of a batch")
    return {_as_bytes(key): _plain(item) for key, item in value.items()}


def load_plain(path: Path) -> Any:
    """Whatever a pickle of dictionaries, lists, texts and numbers holds.

    Raises ValueError, naming the file, for one that is damaged or that names anything at all.
    """
    try:
        data = path.read_bytes()
        _check_sizes(data)
        return _PlainUnpickler(io.BytesIO(data)).load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        what = str(error) or type(error).__name__
        raise ValueError(f"{path} is not a readable pickle of plain values: {what:.300}") from error


def _check_sizes(data: bytes) -> None:
    """Raise ValueError for a pickle that would take more memory than its own length allows.

    The unpickler has a table of as many entries as the largest number under which something is
    remembered, whatever else the file holds.
    """
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in _REMEMBER and int(argument or 0) > len(data):
            raise ValueError(f"it remembers something under the number {argument}")


class _BatchUnpickler(pickle.Unpickler):
    """Knows the names in `_ALLOWED` and no other."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module:.60}.{name:.60}, which a batch never needs: the file is not "
                "CIFAR-10's (or was tampered with) and was not loaded"
            ) from None


class _PlainUnpickler(pickle.Unpickler):
    """Knows no names."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(
            f"it asks for {module:.60}.{name:.60}, which plain values never need; it was not loaded"
        )


def _empty(kind: type) -> Any:
    """Stands for a builtin type, of which pickles only ask for an empty object."""

    def make() -> Any:
        return kind()

    return make


class _DType:
    """Stands for numpy.dtype: remembers the code, and then the byte order, of plain numbers."""

    def __init__(self, code: str | bytes, *_: Any) -> None:
        self.code = code.decode("ascii") if isinstance(code, bytes) else code
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        self.order = order.decode("ascii") if isinstance(order, bytes) else order

    def dtype(self) -> np.dtype[Any]:
        """The numpy type. Raises ValueError for one that is not a plain number."""
        if self.code[:1] not in _KINDS or not self.code[1:].isdigit() or self.order not in "<>|=":
            raise ValueError(f"an array of type {self.code!r}; only plain numbers are read")
        return np.dtype(self.order + self.code)


class _Array:
    """Stands for numpy.ndarray while the pickle is read; `value` is the array afterwards."""

    value: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        flat = np.frombuffer(raw, dtype=dtype.dtype())
        if flat.size != math.prod(shape):
            raise ValueError(f"an array of shape {shape} with {flat.size} elements")
        self.value = flat.reshape(shape, order="F" if fortran else "C")


def _reconstruct(*_: Any) -> _Array:
    """Stands for numpy's function of that name: an array that is filled in later."""
    return _Array()


def _encode(text: str, encoding: str | bytes) -> bytes:
    """Stands for codecs.encode, with which Python 3 writes bytes in old protocols."""
    if encoding not in ("latin1", b"latin1"):
        raise ValueError(f"bytes written in encoding {encoding!r}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    **{(module, "_reconstruct"): _reconstruct for module in _NUMPY},
    **{
        (module, kind.__name__): _empty(kind)
        for module in _BUILTINS
        for kind in (list, dict, str, bytes)
    },
}


def _as_bytes(key: Any) -> bytes:
    # A batch that was written again with Python 3 may have text keys.
    return key if isinstance(key, bytes) else str(key).encode()


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, _Array) else value
