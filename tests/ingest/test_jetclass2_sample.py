"""The 100 published JetClass-II jets: what the reader takes for granted about the files is true of them."""

from __future__ import annotations

from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import vector

from hepfm.core import records
from hepfm.core.records import points_of as point
from hepfm.ingest.formats.jetclass2 import COLUMNS, FILE_SCHEMA, LABELS
from hepfm.ingest.sources.jetclass2 import JetClass2Source

SAMPLE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "jetclass2" / "JetClassII_example.parquet"


@pytest.fixture
def sample() -> ak.Array:
    if not SAMPLE.exists():
        pytest.skip(f"{SAMPLE} is not there")
    table = pq.read_table(SAMPLE).replace_schema_metadata(None)
    return ak.Array({name: ak.from_arrow(table[name]) for name in table.column_names})


def read_all(generator: bool = False) -> pa.RecordBatch:
    source = JetClass2Source(generator)
    return source.read(SAMPLE, 0, source.entries(SAMPLE))


def test_the_columns_are_those_of_the_published_example(sample: ak.Array) -> None:
    assert pq.read_schema(SAMPLE).remove_metadata().equals(FILE_SCHEMA)
    assert len(COLUMNS) == len(sample.fields) == 54


def test_the_flip_of_deta_is_there_and_is_undone(sample: ak.Array) -> None:
    particles = vector.zip({name: sample[f"part_{name}"] for name in ("px", "py", "pz", "energy")})
    batch = read_all()
    deta = ak.to_numpy(ak.flatten(particles.eta - sample.jet_eta))
    assert np.abs(deta - point(batch, "deta")).max() < 2e-6
    backward = ak.to_numpy(ak.flatten(ak.broadcast_arrays(sample.jet_eta, sample.part_px)[0])) < 0
    stored = ak.to_numpy(ak.flatten(sample.part_deta))
    assert backward.sum() > 1_000
    assert np.abs(deta[backward] + stored[backward]).max() < 2e-6
    assert np.abs(deta[~backward] - stored[~backward]).max() < 2e-6
    jets = vector.zip({"pt": sample.jet_pt, "eta": sample.jet_eta, "phi": sample.jet_phi, "energy": sample.jet_energy})
    dphi = ak.to_numpy(ak.flatten(particles.deltaphi(ak.broadcast_arrays(jets, sample.part_px)[0])))
    assert np.abs(dphi - point(batch, "dphi")).max() < 2e-6


def test_impact_parameters_are_null_for_the_neutrals_that_have_zeros(sample: ak.Array) -> None:
    batch = read_all()
    neutral = ak.to_numpy(ak.flatten(sample.part_charge)) == 0
    for ours, theirs in (("d0", "d0val"), ("d0err", "d0err"), ("dz", "dzval"), ("dzerr", "dzerr")):
        stored = ak.to_numpy(ak.flatten(sample[f"part_{theirs}"]))
        assert (stored[neutral] == 0).all()
        assert np.array_equal(np.isnan(point(batch, ours)), neutral)
        assert np.array_equal(point(batch, ours)[~neutral], stored[~neutral])


def test_d0_is_that_of_the_generated_vertex_and_not_its_opposite(sample: ak.Array) -> None:
    """(x py - y px)/pt of the generated particle a track belongs to, where its vertex is clearly displaced."""
    generated = vector.zip({name: sample[f"genpart_{name}"] for name in ("px", "py", "pz", "energy")})
    tracks = vector.zip({name: sample[f"part_{name}"] for name in ("px", "py", "pz", "energy")})
    expected = (sample.genpart_x * generated.py - sample.genpart_y * generated.px) / generated.pt
    pair, other = ak.unzip(ak.cartesian([tracks, generated], nested=True))
    away = pair.deltaR(other) + abs(other.pt / pair.pt - 1)
    nearest = ak.argmin(away, axis=2)
    matched = (ak.min(away, axis=2) < 0.01) & (sample.part_charge != 0)
    truth = expected[nearest]
    displaced = matched & (abs(truth) > 5 * sample.part_d0err) & (abs(truth) < 5)
    truth, measured = (ak.to_numpy(ak.flatten(array[displaced])) for array in (truth, sample.part_d0val))
    assert len(truth) >= 10
    assert (np.sign(truth) == np.sign(measured)).all()
    assert np.corrcoef(truth, measured)[0, 1] > 0.99


def test_quantities_of_the_jets_are_the_stored_ones(sample: ak.Array) -> None:
    batch = read_all()
    jets = vector.zip({"pt": sample.jet_pt, "eta": sample.jet_eta, "phi": sample.jet_phi, "energy": sample.jet_energy})
    for ours in ("pt", "eta", "phi", "tau1", "tau2", "tau3", "tau4"):
        assert np.array_equal(batch[ours], sample[f"jet_{ours}"])
    assert np.array_equal(batch["softdrop_mass"], sample.jet_sdmass)
    assert np.allclose(batch["mass"].to_numpy(), ak.values_astype(jets, np.float64).mass, atol=0.02)
    assert np.allclose(batch["pt_constituents"].to_numpy(), sample.jet_pt, rtol=1e-5)
    assert batch["label"].to_pylist() == [LABELS[index] for index in sample.jet_label]
    assert records.lengths_of(batch["constituents"]).tolist() == sample.jet_nparticles.to_list()
    assert point(batch, "charge").tolist() == ak.flatten(sample.part_charge).to_list()
    species = batch["constituents"].flatten().field("species").to_pylist()
    named = {"photon": "Photon", "charged_hadron": "ChargedHadron", "neutral_hadron": "NeutralHadron"}
    for ours, theirs in {**named, "electron": "Electron", "muon": "Muon"}.items():
        assert [name == ours for name in species] == ak.flatten(sample[f"part_is{theirs}"]).to_list()


def test_the_generated_jets_lie_at_the_jets_and_resonances_follow_the_labels(sample: ak.Array) -> None:
    batch = read_all(generator=True)
    jets = vector.arr({"pt": sample.jet_pt, "eta": sample.jet_eta, "phi": sample.jet_phi})
    names = ("pt", "eta", "phi")
    generated = vector.arr({name: batch[f"generator_jet_{name}"].to_numpy() for name in names})
    assert jets.deltaR(generated).max() < 0.8
    labels = batch["label"].to_pylist()
    assert batch["resonance_x_mass"].is_valid().to_pylist() == [label.startswith("X_") for label in labels]
    for daughter in ("y1", "y2"):
        known = batch[f"resonance_{daughter}_mass"].is_valid().to_pylist()
        assert known == [label.startswith("X_YY_") for label in labels]
    masses = (batch[f"resonance_{name}_mass"].drop_null().to_numpy() for name in ("x", "y1", "y2"))
    assert all((mass > 0).all() for mass in masses)
