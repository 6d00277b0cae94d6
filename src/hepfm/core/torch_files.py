"""Checkpoints of PyTorch and Lightning, read without torch.load: a zip of one pickle and the bytes of the tensors.

The pickle goes through :mod:`hepfm.core.pickles`, which can run nothing; tensors are taken from the stored bytes.
Everything is bounded by the size of the file: entries of the zip must be stored, not compressed (torch never
compresses them), no tensor may reach beyond its storage or be larger than it, and each storage is read once.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hepfm.core.errors import HepfmError
from hepfm.core.pickles import Inert, Name, Refused, Vocabulary, checked_pairs, read_pickle

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_DAMAGED = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    ValueError,
    EOFError,
    OverflowError,
    KeyError,
    struct.error,
    zlib.error,
)
AGAIN = "get the file again"
# Tensors may share a storage (tied weights), so together they may have more bytes than the file, but not many times.
SHARED = 4
MAX_DEPTH = 32
MAX_SETTINGS = 10_000


@dataclass(frozen=True)
class Storage:
    """Elements outside the pickle: the member ``data/KEY`` of the zip."""

    key: str
    dtype: torch.dtype
    elements: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that has not been read: a window into a storage, in elements."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        path: the file.
        content: its dictionary; tensors in it are :class:`StoredTensor`.
    """

    path: Path
    content: dict[str, Any]

    @property
    def state(self) -> dict[str, StoredTensor]:
        """The state dict, by name: Lightning's, or the whole file where it holds nothing but tensors.

        Raises:
            HepfmError: there is none, or something in it is no tensor.
        """
        bare = all(isinstance(value, StoredTensor) for value in self.content.values())
        state = self.content if bare else self.content.get("state_dict")
        if not isinstance(state, dict) or not state:
            raise HepfmError(
                f"has no state_dict (it has {', '.join(sorted(map(repr, self.content)))[:500]})",
                self.path,
                "name a Lightning checkpoint or a file of weights alone",
            )
        for name, tensor in state.items():
            if not isinstance(name, str) or not isinstance(tensor, StoredTensor):
                raise HepfmError(f"its state_dict has {name!r}, which is no tensor", self.path, AGAIN)
        return state

    @property
    def settings(self) -> dict[str, Any]:
        """Its ``hyper_parameters`` as plain data; OmegaConf's containers and nodes are opened, objects left out.

        Raises:
            HepfmError: there are none, or they are nested without end.
        """
        plain = _plain(self.content.get("hyper_parameters"), self.path)
        if not isinstance(plain, dict):
            raise HepfmError("has no hyper_parameters", self.path, "name a Lightning checkpoint")
        return plain

    @property
    def progress(self) -> dict[str, int]:
        """How far its training was: ``epoch`` and ``global_step``, where it says so."""
        known = {name: _writable(self.content.get(name)) for name in ("epoch", "global_step")}
        return {name: value for name, value in known.items() if type(value) is int}

    def tensors(self, names: Mapping[str, str]) -> dict[str, torch.Tensor]:
        """Tensors of the state dict, on the CPU and contiguous: ``names`` maps the new name to theirs.

        Raises:
            HepfmError: a storage is missing, or has not as many bytes as the tensor says.
        """
        state = self.state
        taken = sum(math.prod(state[old].size) * state[old].storage.dtype.itemsize for old in names.values())
        if taken > SHARED * self.path.stat().st_size:
            raise HepfmError(f"its tensors take {taken:,} bytes, far more than the file", self.path, AGAIN)
        with _opened(self.path) as archive:
            read: dict[Storage, torch.Tensor] = {}
            for stored in {state[name].storage for name in names.values()}:
                read[stored] = archive.storage(stored)
            return {
                new: torch.as_strided(
                    read[state[old].storage], state[old].size, state[old].stride, state[old].offset
                ).clone(memory_format=torch.contiguous_format)
                for new, old in names.items()
            }


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint that torch.save or Lightning wrote; nothing in it is run, tensors are not read yet.

    Raises:
        HepfmError: no such file, no checkpoint, a damaged one, or one whose pickle has anything unexpected in it.
    """
    if not path.is_file():
        raise HepfmError("is a folder" if path.is_dir() else "no such file", path, "name a checkpoint file")
    if not zipfile.is_zipfile(path):
        raise HepfmError(
            "is no torch checkpoint (a zip with a data.pkl)", path, "if torch before 1.6 wrote it, save it with a newer"
        )
    with _opened(path) as archive:
        content = read_pickle(archive.pickle(), VOCABULARY, path)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise HepfmError(f"holds a {type(content).__name__}, not a checkpoint's dictionary", path, AGAIN)
    return Checkpoint(path, content)


class _Archive:
    """The zip of a checkpoint, its members checked before they are read."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self.archive, self.path = archive, path
        self.members = {info.filename: info for info in archive.infolist()}
        if len(self.members) != len(archive.infolist()):
            raise HepfmError("a member of its zip comes twice", path, AGAIN)
        pickles = [name for name in self.members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise HepfmError(f"is no torch checkpoint: its zip has {len(pickles)} data.pkl", path, AGAIN)
        self.root = pickles[0].removesuffix("data.pkl")
        self.left = path.stat().st_size
        order = f"{self.root}byteorder"
        if order in self.members and self._read(order) != b"little":
            raise HepfmError("its numbers are not little-endian", path, "save it on another machine")

    def pickle(self) -> bytes:
        return self._read(f"{self.root}data.pkl")

    def storage(self, stored: Storage) -> torch.Tensor:
        name = f"{self.root}data/{stored.key}"
        if name not in self.members:
            raise HepfmError(f"storage {stored.key} is missing", self.path, AGAIN)
        data = self._read(name)
        expected = stored.elements * stored.dtype.itemsize
        if len(data) != expected:
            raise HepfmError(f"storage {stored.key} has {len(data):,} bytes, not {expected:,}", self.path, AGAIN)
        if not data:
            return torch.empty(0, dtype=stored.dtype)
        return torch.frombuffer(bytearray(data), dtype=stored.dtype)

    def _read(self, name: str) -> bytes:
        info = self.members[name]
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise HepfmError(f"its member {name!r} is compressed, which torch never does", self.path, AGAIN)
        self.left -= info.file_size
        if self.left < 0:
            raise HepfmError("its members overlap: they have more bytes than the file", self.path, AGAIN)
        return self.archive.read(info)


@contextmanager
def _opened(path: Path) -> Iterator[_Archive]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield _Archive(archive, path)
    except _DAMAGED as error:
        raise HepfmError(f"is damaged: {error}", path, AGAIN) from error


def _ordered(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if len(arguments) > 1:
        raise Refused("its pickle makes an OrderedDict of several arguments")
    return dict(checked_pairs(arguments[0])) if arguments else {}


def _tensor(arguments: tuple[Any, ...]) -> StoredTensor:
    """Arguments of torch._utils._rebuild_tensor_v2: storage, offset, size, stride, and what concerns training."""
    if not 4 <= len(arguments) <= 7 or not isinstance(arguments[0], Storage):
        raise Refused("its pickle has a tensor that is none")
    storage, offset, size, stride = arguments[:4]
    if not (_counts((offset,)) and _counts(size) and _counts(stride) and len(size) == len(stride)):
        raise Refused("its pickle has a tensor of impossible shape")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and (last >= storage.elements or math.prod(size) > storage.elements):
        raise Refused(f"its pickle has a tensor of shape {size} that reaches beyond its storage")
    return StoredTensor(storage, offset, size, stride)


def _counts(values: Any) -> bool:
    """Is it a short tuple of non-negative integers that fit into 63 bits?"""
    return (
        isinstance(values, tuple)
        and len(values) <= MAX_DEPTH
        and all(type(value) is int and 0 <= value < 1 << 62 for value in values)
    )


def _parameter(arguments: tuple[Any, ...]) -> StoredTensor:
    if not arguments or not isinstance(arguments[0], StoredTensor):
        raise Refused("its pickle has a parameter that is no tensor")
    return arguments[0]


def _storage(arguments: Any) -> Storage:
    """The persistent id ("storage", type, key, location, elements) of torch.save."""
    if not (isinstance(arguments, tuple) and len(arguments) == 5 and arguments[0] == "storage"):
        raise Refused("its pickle refers to something outside that is no storage")
    _, kind, key, _, elements = arguments
    if not (isinstance(kind, Name) and kind.module in ("torch", "torch.storage") and kind.member in _DTYPES):
        raise Refused(f"its pickle has a storage of type {str(kind)[:200]!r}")
    if not (isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 20):
        raise Refused(f"its pickle has a storage called {str(key)[:200]!r}, not a number")
    if not _counts((elements,)):
        raise Refused("its pickle has a storage of impossible size")
    return Storage(key, _DTYPES[kind.member], elements)


# Names that a Lightning checkpoint has beside tensors. Whole packages are harmless here, as nothing is imported; what
# is not listed is refused all the same, because it is no checkpoint that anybody has described.
_INERT = frozenset(
    Name(module, member)
    for module, members in {
        "functools": "partial",
        "collections": "defaultdict Counter",
        "numpy": "dtype",
        "numpy.core.multiarray": "scalar",
        "numpy._core.multiarray": "scalar",
        "_codecs": "encode",
        "__builtin__": "dict list tuple set int float str bool bytes",
        "builtins": "dict list tuple set int float str bool bytes",
        "typing": "Any Dict List Optional Tuple Union",
        "pathlib": "Path PosixPath PurePosixPath",
        "torch": " ".join((*_DTYPES, "device", "Size", "float32", "float64", "float16", "bfloat16", "int64")),
    }.items()
    for member in members.split()
)
_INERT_PACKAGES = ("omegaconf", "gabbro", "torch.optim", "lightning", "pytorch_lightning")


def _inert(name: Name) -> bool:
    package = any(name.module == package or name.module.startswith(f"{package}.") for package in _INERT_PACKAGES)
    return package or name in _INERT


VOCABULARY = Vocabulary(
    builders={
        Name("collections", "OrderedDict"): _ordered,
        Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
        Name("torch._utils", "_rebuild_parameter"): _parameter,
    },
    inert=_inert,
    persistent=_storage,
    needs="a checkpoint of Lightning and gabbro",
)


def _plain(value: Any, where: Path) -> Any:
    """Plain data of hyper-parameters; None where there was an object."""
    left = MAX_SETTINGS

    def open_(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > MAX_DEPTH:
            raise HepfmError("its hyper_parameters are nested without end", where, AGAIN)
        if isinstance(value, Inert) and value.name.module.startswith("omegaconf.") and isinstance(value.state, dict):
            return open_(value.state.get("_content", value.state.get("_val")), depth + 1)
        if isinstance(value, dict):
            return {_writable(str(key)): open_(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [open_(item, depth + 1) for item in value]
        return _writable(value)

    return open_(value, 0)


def _writable(value: Any) -> Any:
    """A plain value that JSON can hold; None for any other."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if isinstance(value, int) and abs(value) < 1 << 63 else None
