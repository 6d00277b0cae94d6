"""AspenOpenJets files as the data set's own producer writes them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import vector


def make_raw(jets: int, seed: int, longest: int = 20) -> dict[str, np.ndarray]:
    """The four data sets, as the data set's own producer lays them out: candidates in no order, events of 1-4 jets."""
    rng = np.random.default_rng(seed)
    number = np.repeat(np.arange(jets), rng.integers(1, 5, jets))[:jets]
    info = np.stack([278_000 + number // 50, 1 + number // 7, 10_000_000_000 + number], axis=1).astype(np.int64)
    softdrop_mass = np.where(rng.random(jets) < 0.1, -1, rng.uniform(5, 200, jets))
    axes = rng.uniform(300, 1500, jets), rng.uniform(-2.4, 2.4, jets), rng.uniform(-np.pi, np.pi, jets)
    kinematics = np.stack([*axes, softdrop_mass], axis=1).astype(np.float32)
    candidates = np.zeros((jets, 150, 11), dtype=np.float32)
    lengths = rng.integers(2, longest + 1, jets)
    for jet, length in enumerate(lengths):
        pdg = rng.choice([211, -211, 130, 22, 11, -13, 1, 2, 310], length)
        charge = np.select([pdg == 211, pdg == -211, pdg == 11, pdg == -13], [1, -1, -1, 1], 0)
        share = rng.exponential(1, length) + 0.01
        momentum = vector.array(
            {
                "pt": share / share.sum() * 0.92 * kinematics[jet, 0],
                "eta": kinematics[jet, 1] + rng.uniform(-0.5, 0.5, length),
                "phi": kinematics[jet, 2] + rng.uniform(-0.5, 0.5, length),
                "mass": np.full(length, 0.1396),
            }
        )
        tracked = (charge != 0) & (rng.random(length) < 0.7)
        sizes = rng.normal(0, 0.01, length), rng.normal(0, 0.02, length)
        errors = rng.exponential(0.002, length) + 1e-4, rng.exponential(0.003, length) + 1e-4
        impact = np.stack([sizes[0], errors[0], sizes[1], errors[1]])
        impact = np.where(tracked, impact, -1)
        weight = rng.choice([0.0, 0.25, 1.0], length, p=[0.1, 0.2, 0.7])
        weight[0] = 1
        candidates[jet, :length] = np.stack(
            [momentum.px, momentum.py, momentum.pz, momentum.energy, *impact, charge, pdg, weight], axis=1
        )
    tagging = rng.random((jets, 13)).astype(np.float32)
    tagging[:, 0] = lengths
    return {"event_info": info, "jet_kinematics": kinematics, "PFCands": candidates, "jet_tagging": tagging}


def write_raw(path: Path, raw: dict[str, np.ndarray]) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in raw.items():
            compression = None if name == "event_info" else "gzip"
            file.create_dataset(
                name, data=values, chunks=True, maxshape=(None, *values.shape[1:]), compression=compression
            )
    return path
