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

# Left to itself DeepSpeed runs compilers to learn which ops it could build, and on a CPU builds one for inference.
# An op that this table does not list counts as impossible; with torch's own AdamW none is needed.
vars(deepspeed.ops).setdefault("__compatible_ops__", {})
deepspeed.utils.logger.setLevel(logging.ERROR)

__all__ = ["DeepSpeedEngine", "constants", "deepspeed"]
