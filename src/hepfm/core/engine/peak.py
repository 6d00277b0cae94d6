"""How fast the devices could multiply matrices: what a training's speed is a fraction of."""

from __future__ import annotations

import time

import torch
import torch.distributed as dist

from hepfm.core.engine import launch

SIDES = {"cpu": 1024, "cuda": 8192}  # of square matrices that keep all of a device busy
MEASURE_S = 0.25

# Dense peaks [TFLOP/s] in bfloat16 (fp32 accumulation) and in fp32 without tensor cores, from NVIDIA's and AMD's data
# sheets of the products. The first name that is part of the device's name counts.
GPUS: tuple[tuple[str, float, float], ...] = (
    ("H100 PCIe", 756, 51),
    ("H100 NVL", 835, 60),
    ("H100", 989, 67),
    ("H200", 989, 67),
    ("A100", 312, 19.5),
    ("L40S", 362, 91.6),
    ("MI300X", 1307, 163.4),
)


def peak_of_job(precision: str) -> tuple[float, str]:
    """FLOP/s of all processes' devices together, and where the number comes from; every process calls this.

    Processes that share a CPU measure at the same time, so that each gets its share.
    """
    own, source = _peak(precision)
    total = torch.tensor([own], dtype=torch.float64, device=launch.device())
    dist.all_reduce(total)
    return float(total), source


def _peak(precision: str) -> tuple[float, str]:
    if launch.device().type == "cuda":
        name = torch.cuda.get_device_name(launch.device())
        known = listed(name, precision)
        # What torch is allowed to do to fp32 products decides whether the table's fp32 column holds.
        if known and (precision == "bf16" or torch.get_float32_matmul_precision() == "highest"):
            return known, f"data sheet of {name}"
    dist.barrier()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    side = SIDES[launch.device().type]
    return measured(dtype), f"measured: fastest product of two {side} x {side} matrices in {MEASURE_S} s"


def listed(name: str, precision: str) -> float | None:
    """Peak [FLOP/s] of a GPU by its device name; None for one that is not in the table."""
    for part, bf16, fp32 in GPUS:
        if part in name:
            return 1e12 * (bf16 if precision == "bf16" else fp32)
    return None


def measured(dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of the matrix products that fit into a quarter of a second (two at least)."""
    here = launch.device()
    side = SIDES[here.type]
    left, right = (torch.full((side, side), 1 / side, dtype=dtype, device=here) for _ in range(2))
    fastest, done, begin = float("inf"), 0, time.perf_counter()
    while done < 2 or time.perf_counter() - begin < MEASURE_S:
        start = time.perf_counter()
        left @ right
        if here.type == "cuda":
            torch.cuda.synchronize(here)
        fastest = min(fastest, time.perf_counter() - start)
        done += 1
    return 2 * side**3 / fastest
