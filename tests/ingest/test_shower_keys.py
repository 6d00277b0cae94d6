"""A shower that comes a second time is found, in the same file or another; showers without points never are."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from hepfm.core.errors import HepfmError
from hepfm.ingest.build import BuildOptions, build
from hepfm.ingest.sources.calochallenge import CaloChallengeSource
from hepfm.ingest.sources.showerclouds import ShowerCloudsSource

SHOWERS, AGAIN = 60, (3, 41, 17)


def voxels(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Showers of CaloChallenge's data set 2 [MeV]; the first four and the eighth are empty, at the same energy."""
    draws = np.random.default_rng(seed)
    energies = 10 ** draws.uniform(3, 6, (SHOWERS, 1))
    deposits = draws.exponential(1.0, (SHOWERS, 6480)) * (draws.random((SHOWERS, 6480)) < 0.01)
    deposits *= 0.8 * energies / deposits.sum(axis=1, keepdims=True)
    empty = [0, 1, 2, 7]
    deposits[empty], energies[empty] = 0, 2000
    return energies, deposits


def write(path: Path, energies: np.ndarray, deposits: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        file["incident_energies"], file["showers"] = energies, deposits
    return path


def test_voxels_that_come_again_are_left_out_and_empty_showers_stay(tmp_path: Path) -> None:
    energies, deposits = voxels(1)
    first = write(tmp_path / "a.hdf5", energies, deposits)
    others = voxels(2)
    rows = list(AGAIN)
    second = write(
        tmp_path / "b.hdf5",
        *(np.concatenate([o, o[:1], m[rows]]) for o, m in zip(others, (energies, deposits), strict=True)),
    )
    files, options = [first, second], BuildOptions(splits=(1, 0, 0))
    with pytest.raises(HepfmError, match=r"came before, in this file or another \(3 such entries in all\)") as error:
        build(CaloChallengeSource(), files, tmp_path / "stopped", options)
    assert str(second) in str(error.value)
    assert not (tmp_path / "stopped").exists()
    options = BuildOptions(splits=(1, 0, 0), on_bad="skip")
    manifest = build(CaloChallengeSource(), files, tmp_path / "kept", options).manifest
    assert manifest.splits["train"].records == 2 * SHOWERS + 1
    assert dict(manifest.provenance["cut_flow"])["rejected: came a second time"] == len(AGAIN)


def test_points_in_another_order_are_the_same_shower(tmp_path: Path) -> None:
    draws = np.random.default_rng(3)
    points = np.zeros((20, 4, 30), dtype=np.float32)
    points[:, :2] = draws.integers(0, 30, (20, 2, 30))
    points[:, 2] = draws.integers(0, 30, (20, 30))
    points[:, 3] = draws.exponential(1.0, (20, 30)) + 0.1
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["events"], file["energy"] = points, np.full((20, 1), 50, np.float32)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["events"], file["energy"] = points[:, :, draws.permutation(30)], np.full((20, 1), 50, np.float32)
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["events"], file["energy"] = points, np.full((20, 1), 60, np.float32)
    source = ShowerCloudsSource()
    keys = [source.keys(tmp_path / f"{name}.h5") for name in "abc"]
    assert (keys[0] == keys[1]).all()
    assert len(np.unique(keys[0])) == 20
    assert not np.isin(keys[2], keys[0]).any()
