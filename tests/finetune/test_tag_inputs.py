"""Features of particles are the published ones, from corpora and from the files that others read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hepfm.benchmarks.synthetic import random_jets
from hepfm.benchmarks.weaver import SETTINGS
from hepfm.core.errors import HepfmError
from hepfm.finetune.inputs import FEATURE_SETS
from hepfm.finetune.sophon import LABELS as SOPHON
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.formats.jetclass import write_jetclass
from hepfm.ingest.sources.jetclass import JetClassSource
from hepfm.ingest.sources.jetclass2 import JetClass2Source

FULL = FEATURE_SETS["full"]
REAL_JETCLASS2 = Path(__file__).resolve().parents[2] / "../shared/data/jetclass2/JetClassII_example.parquet"


@pytest.fixture(scope="module")
def root_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JetClass jets of 1 to 150 constituents; energies and masses are those of real four-vectors."""
    draws = np.random.default_rng(3)
    lengths = np.concatenate([[1, 2, 128, 129, 150], draws.integers(1, 90, 60)])
    path = tmp_path_factory.mktemp("files") / "jets.root"
    write_jetclass(path, [random_jets(draws, lengths, 3)])
    return path


def jets_of(path: Path) -> pa.RecordBatch:
    source = JetClassSource()
    return source.read(path, 0, source.entries(path))


def branches_of(path: Path) -> dict[str, Any]:
    """A file's own branches, jet by jet."""
    import uproot

    with uproot.open(path) as file:
        return {name: branch.array() for name, branch in file["tree"].items() if name.startswith(("part_", "jet_"))}


def formulas(branches: Mapping[str, Any], entry: int, scale: bool) -> tuple[np.ndarray, np.ndarray]:
    """The YAML's formulas, by hand and in double precision, on a file's own branches of one jet."""
    row = {name: np.asarray(values[entry], dtype=np.float64) for name, values in branches.items()}
    keep = slice(0, 128)
    part = {name: values[keep] for name, values in row.items() if name.startswith("part_")}
    factor = 500 / row["jet_pt"] if scale else 1.0
    pt = np.hypot(part["part_px"], part["part_py"])
    columns = [
        (np.log(pt * factor) - 1.7) * 0.7,
        (np.log(part["part_energy"] * factor) - 2.0) * 0.7,
        (np.log(pt / row["jet_pt"]) + 4.7) * 0.7,
        (np.log(part["part_energy"] / row["jet_energy"]) + 4.7) * 0.7,
        (np.hypot(part["part_deta"], part["part_dphi"]) - 0.2) * 4.0,
    ]
    columns = [np.clip(column, -5, 5) for column in columns]
    flags = ("ChargedHadron", "NeutralHadron", "Photon", "Electron", "Muon")
    columns += [part["part_charge"], *(part[f"part_is{name}"] for name in flags)]
    columns += [np.tanh(part["part_d0val"]), np.clip(part["part_d0err"], 0, 1)]
    columns += [np.tanh(part["part_dzval"]), np.clip(part["part_dzerr"], 0, 1)]
    columns += [part["part_deta"], part["part_dphi"]]
    vectors = np.stack([part[f"part_{name}"] for name in ("px", "py", "pz", "energy")], axis=1) * factor
    return np.stack(columns, axis=1), vectors


@pytest.mark.parametrize("name", ["full", "sophon"])
def test_features_are_the_published_formulas(name: str, root_file: Path) -> None:
    check_formulas(name, jets_of(root_file), branches_of(root_file))


def test_features_of_real_jets_are_the_published_formulas() -> None:
    if not REAL_JETCLASS2.exists():
        pytest.skip(f"{REAL_JETCLASS2} is not there")
    source = JetClass2Source()
    records = source.read(REAL_JETCLASS2, 0, 100)
    table = pq.read_table(REAL_JETCLASS2)
    columns = {name: table[name].to_pylist() for name in table.column_names if name.startswith(("part_", "jet_"))}
    check_formulas("sophon", records, columns)
    assert records.column("label").to_pylist() == [SOPHON[number] for number in columns["jet_label"]]


def check_formulas(name: str, records: pa.RecordBatch, branches: Mapping[str, Any]) -> None:
    inputs = FEATURE_SETS[name].read(records, "jets")
    offsets = inputs.layout.offsets.numpy()
    phi = records.column("phi").to_numpy()
    for entry in range(len(records)):
        expected, vectors = formulas(branches, entry, name == "sophon")
        mine = slice(offsets[entry], offsets[entry + 1])
        np.testing.assert_allclose(inputs.features[mine], expected, rtol=0, atol=2e-5)
        px, py, pz, energy = inputs.vectors[mine].double().numpy().T
        turned = [px * np.cos(phi[entry]) - py * np.sin(phi[entry]), px * np.sin(phi[entry]) + py * np.cos(phi[entry])]
        np.testing.assert_allclose(np.stack([*turned, pz, energy], axis=1), vectors, rtol=2e-5, atol=2e-4)


def test_smaller_sets_are_columns_of_the_full_one(root_file: Path) -> None:
    records = jets_of(root_file)
    names = [feature.name for feature in FULL.features]
    full = FULL.read(records, "jets")
    for name, count in (("kinpid", 13), ("kin", 7)):
        smaller = FEATURE_SETS[name]
        assert len(smaller.features) == count
        found = smaller.read(records, "jets")
        columns = [names.index(feature.name) for feature in smaller.features]
        assert torch.equal(found.features, full.features[:, columns])
        assert torch.equal(found.vectors, full.vectors)


@pytest.mark.slow
def test_features_are_those_that_weaver_makes_of_the_file(root_file: Path, tmp_path: Path) -> None:
    import shutil

    from torch.utils.data import DataLoader
    from weaver.utils.dataset import SimpleIterDataset

    settings = shutil.copy(SETTINGS, tmp_path)
    # In steps of its default, a hundredth of the file, it gives some of so few jets twice.
    whole = {"for_training": False, "fetch_by_files": True, "fetch_step": 1}
    dataset = SimpleIterDataset({"jets": [str(root_file)]}, str(settings), **whole)
    (batch,) = [inputs for inputs, *_ in DataLoader(dataset, batch_size=1000)]
    mask = batch["pf_mask"][:, 0].bool()
    inputs = FULL.read(jets_of(root_file), "jets")
    theirs = batch["pf_features"].mT[mask]
    assert theirs.shape == inputs.features.shape
    torch.testing.assert_close(inputs.features, theirs, rtol=0, atol=1e-5)


def test_a_value_that_is_not_finite_is_named_with_its_record(root_file: Path) -> None:
    records = jets_of(root_file)
    column = records.column("constituents")
    points = column.flatten()
    position = int(column.offsets[4].as_py()) + 3
    for name, feature in (("energy", "part_e_log"), ("d0err", "part_d0err"), ("dphi", "part_deltaR")):
        values = points.field(name).fill_null(0).to_numpy(zero_copy_only=False).copy()
        values[position] = np.inf if name == "d0err" else np.nan
        children = [
            pa.array(values) if field.name == name else points.field(number) for number, field in enumerate(points.type)
        ]
        changed = pa.StructArray.from_arrays(children, fields=list(points.type))
        broken = records.set_column(
            0, records.schema.field(0), pa.ListArray.from_arrays(column.offsets, changed, type=column.type)
        )
        with pytest.raises(HepfmError, match=rf"{feature} of record 104 is not finite"):
            FULL.read(broken, "jets", first=100)


def test_a_jet_without_constituents_is_refused(root_file: Path) -> None:
    records = jets_of(root_file).slice(0, 3)
    column = pa.ListArray.from_arrays(
        pa.array([0, 1, 1, 3], pa.int32()), records.column(0).flatten(), type=records.column(0).type
    )
    with pytest.raises(HepfmError, match="record 1 has no constituents"):
        FULL.read(records.set_column(0, records.schema.field(0), column), "jets")


class _Manifest:
    kind = "jets"
    provides = ("constituents.pt", "constituents.deta", "constituents.dphi", "constituents.energy", "pt", "eta", "mass")


@dataclasses.dataclass
class _Corpus:
    path: str = "corpus"
    manifest: type = _Manifest


def test_a_corpus_that_lacks_quantities_is_refused_and_a_set_that_it_has_is_named() -> None:
    corpus: Corpus = _Corpus()  # type: ignore[assignment]
    FEATURE_SETS["kin"].check(corpus)
    with pytest.raises(HepfmError, match=r"constituents.charge.*features part_charge.*--features kin"):
        FULL.check(corpus)
