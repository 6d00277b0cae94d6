"""Random draws keyed by what they are for, never by a worker's state.

A draw that is named by (seed, purpose, epoch, record, ...) is the same in any process, on any number of ranks and
after any interruption.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def key_of(*parts: object) -> int:
    """A 63-bit key that depends on every part and on their order."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1


def generator(*parts: object) -> np.random.Generator:
    """A counter-based (Philox) NumPy generator for the purpose named by ``parts``."""
    return np.random.Generator(np.random.Philox(key=key_of(*parts)))


def torch_generator(*parts: object, device: str = "cpu") -> torch.Generator:
    """A torch generator for the purpose named by ``parts``."""
    import torch  # here, because corpora are built and read without it and it takes seconds to import

    return torch.Generator(device=device).manual_seed(key_of(*parts))


def hashed_uniform(key: int, *indices: np.ndarray) -> np.ndarray:
    """Uniform numbers in [0, 1), one for each element of the (broadcast) non-negative integer ``indices``.

    A splitmix64 finaliser (Steele, Lea, Flood, OOPSLA 2014) over key and indices: draw (record, step) costs the
    same whichever others are asked for with it.
    """
    return np.asarray((hashed(key, *indices) >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def hashed(key: int, *indices: np.ndarray) -> np.ndarray:
    """64-bit hashes (uint64), one for each element of the (broadcast) non-negative integer ``indices``."""
    with np.errstate(over="ignore"):
        state = np.asarray(key, dtype=np.uint64)
        for index in indices:
            state = _splitmix(state + _GOLDEN * (np.asarray(index).astype(np.uint64) + np.uint64(1)))
    return state


def _splitmix(value: np.ndarray) -> np.ndarray:
    value = (value ^ (value >> np.uint64(30))) * _MIX_1
    value = (value ^ (value >> np.uint64(27))) * _MIX_2
    return value ^ (value >> np.uint64(31))
