"""DeepSpeed, imported so that it looks for no compiler, builds nothing and stays quiet.

Import DeepSpeed's names from here: what it finds in the environment at its first import decides.
"""

# ruff: noqa: E402
from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path

import torch

# Should a user's own settings make DeepSpeed build an op: not into the cache that all environments share.
os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix) / "torch_extensions"))
if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
# DeepSpeed calls collectives by names that newer versions of torch are giving up, at every step.
warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)

import deepspeed
import deepspeed.ops
from deepspeed.checkpoint import constants
from deepspeed.runtime.engine import DeepSpeedEngine

from hepfm.core.errors import HepfmError

# Left to itself DeepSpeed runs compilers to learn which ops it could build, and on a CPU builds one for inference.
# An op that this table does not list counts as impossible; with torch's own AdamW none is needed.
vars(deepspeed.ops).setdefault("__compatible_ops__", {})
deepspeed.utils.logger.setLevel(logging.ERROR)


def allow_async_io() -> None:
    """Let DeepSpeed build and load the op that reads and writes files for ZeRO offload to NVMe.

    Raises:
        HepfmError: it cannot be built here.
    """
    from deepspeed.ops.op_builder import AsyncIOBuilder

    builder = AsyncIOBuilder()
    try:
        if not builder.is_compatible(verbose=False):
            raise RuntimeError("libaio or its headers were not found")
        builder.load(verbose=False)
    except Exception as error:  # compilers fail in many ways
        raise HepfmError(
            f"nvme needs DeepSpeed's async_io, which cannot be built here: {str(error).splitlines()[0]}",
            "--offload-optimizer, --offload-parameters",
            "install libaio with its headers, ninja and a C++ compiler, or offload to cpu",
        ) from error
    vars(deepspeed.ops)["__compatible_ops__"][builder.NAME] = True


__all__ = ["DeepSpeedEngine", "allow_async_io", "constants", "deepspeed"]
