"""``batch_norm_process.py FOLDER RANK WORLD``: a layer's outputs, gradients and statistics on this process's rows."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from hepfm.core.nn.batch_norm import BatchNorm, NormalisedLinear

ROWS = 41


def main() -> None:
    folder, rank, world = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=world)
    torch.manual_seed(0)
    first, layer = BatchNorm(3).double(), NormalisedLinear(3, 4).double()
    x, slope = torch.randn(ROWS, 3, dtype=torch.float64) + 1, torch.randn(ROWS, 4, dtype=torch.float64)
    own = slice(0, 12) if rank == 0 and world > 1 else slice(12, ROWS) if world > 1 else slice(0, ROWS)
    mine = x[own].clone().requires_grad_()
    out = layer(mine, first)
    (out * slope[own]).sum().backward()
    found = {"out": out.detach(), "x": mine.grad, "weight": layer.linear.weight.grad, "scale": first.weight.grad}
    found |= {"mean": layer.norm.running_mean, "variance": layer.norm.running_var}
    torch.save(found, folder / f"{world}-{rank}.pt")


if __name__ == "__main__":
    main()
    if dist.is_initialized():  # threads of gloo that outlive the interpreter abort the process
        dist.destroy_process_group()
        gc.collect()
