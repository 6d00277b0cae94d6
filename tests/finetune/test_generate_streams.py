"""``hepfm generate`` from backbones of several streams: showers and jets, from training to files that others read."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from physics_tokens import CELLS, LAYERS, jet_corpus, shower_corpus, tokens_of

from hepfm.core.engine.config import TrainingConfig
from hepfm.core.errors import HepfmError
from hepfm.core.records import lengths_of, offsets_of, points_of, values_of
from hepfm.finetune.decoded import ShowerRecords
from hepfm.finetune.generate import GenerateConfig, main
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.geometry import Bins, Geometry, Layer
from hepfm.ingest.verify import verify
from hepfm.pretrain.run import PretrainConfig
from hepfm.pretrain.run import main as pretrain

TRAINING = TrainingConfig(steps=60, batch_records=32, warmup_steps=5, learning_rate=3e-3, validate_every=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("streams")


@pytest.fixture(scope="module")
def showers(folder: Path) -> Path:
    tokens = tokens_of(shower_corpus(folder / "calo"), folder, "--tokenizer=cells")
    pretrain(PretrainConfig((tokens,), folder / "run", training=TRAINING))
    return folder / "run"


def record_of(batch: pa.RecordBatch) -> list[np.ndarray]:
    """Layer, cell_a, cell_b, energy of the hits of each shower."""
    columns = [points_of(batch, name) for name in ("layer", "cell_a", "cell_b", "energy")]
    return np.split(np.stack(columns, axis=1), offsets_of(batch.column("points"))[1:-1])


def test_showers_of_an_energy_in_showerdata_and_as_a_corpus(
    showers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = GenerateConfig(str(showers), tmp_path / "showers.h5", n=300, incident_energy=(20.0, 80.0))
    asked = dataclasses.replace(asked, direction=(0.0, 0.0, 1.0), particle=("22",))
    main(asked)
    told = capsys.readouterr().err
    assert "asked for: particle 22, incident_energy 20 to 80" in told
    assert "\n0 hits were merged into another of their cell" in told
    main(dataclasses.replace(asked, out=tmp_path / "corpus", format="corpus", batch=7))
    corpus = Corpus.open(tmp_path / "corpus")
    assert verify(corpus.path) == []
    batch = corpus.split("train").read(0)
    with h5py.File(tmp_path / "showers.h5") as file:
        energies, hits = file["energies"][:, 0], file["num_points"][:]
    np.testing.assert_allclose(values_of(batch.column("incident_energy")), energies, rtol=1e-6)
    np.testing.assert_array_equal(lengths_of(batch.column("points")), hits)
    assert 20 <= energies.min() < energies.max() <= 80
    for shower in record_of(batch):
        cells = shower[:, :3]
        assert len(np.unique(cells, axis=0)) == len(cells) > 0
        assert (cells >= 0).all()
        assert (cells.max(axis=0) < [LAYERS, CELLS, CELLS]).all()
        assert shower[:, 3].min() >= 0.01
    # The training's showers have a hit more for each 8 GeV.
    assert hits[energies > 60].mean() > 1.5 * hits[energies < 40].mean()


def test_rings_and_sectors_in_calochallenge_files(tmp_path: Path) -> None:
    tokens = tokens_of(shower_corpus(tmp_path / "calo", cylinder=True), tmp_path, "--tokenizer=cells")
    pretrain(PretrainConfig((tokens,), tmp_path / "run", training=dataclasses.replace(TRAINING, steps=4)))
    main(GenerateConfig(str(tmp_path / "run"), tmp_path / "voxels.hdf5", n=20, format="calochallenge", seed=3))
    main(GenerateConfig(str(tmp_path / "run"), tmp_path / "corpus", n=20, format="corpus", seed=3))
    batch = Corpus.open(tmp_path / "corpus").split("train").read(0)
    voxels = np.zeros((20, LAYERS, CELLS, CELLS))
    for shower, hits in zip(voxels, record_of(batch), strict=True):
        shower[tuple(hits[:, :3].astype(int).T)] = hits[:, 3]
    with h5py.File(tmp_path / "voxels.hdf5") as file:
        written = file["showers"][:].reshape(20, LAYERS, -1)
        np.testing.assert_allclose(file["incident_energies"][:, 0], 1000 * values_of(batch.column("incident_energy")))
    np.testing.assert_allclose(np.sort(written, axis=2), np.sort(voxels.reshape(20, LAYERS, -1), axis=2), rtol=1e-5)


def test_cubes_in_ild_grids(showers: Path, tmp_path: Path) -> None:
    main(GenerateConfig(str(showers), tmp_path / "grid.h5", n=20, format="ildgrid"))
    main(GenerateConfig(str(showers), tmp_path / "showers.parquet", n=20, format="parquet"))
    batch = pq.read_table(tmp_path / "showers.parquet").combine_chunks().to_batches()[0]
    with h5py.File(tmp_path / "grid.h5") as file:
        layers = next(iter(file.values()))["layers"][:]
    sums = [hits[:, 3].sum() for hits in record_of(batch)]
    np.testing.assert_allclose(layers.reshape(20, -1).sum(axis=1), sums, rtol=1e-5)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"incident_energy": (5.0,)}, "--incident-energy: 5 lies outside training .it had 10.* to 99.* GeV"),
        ({"incident_energy": (50.0, 200.0)}, "--incident-energy: 50 to 200 lies outside training"),
        ({"direction": (1.0, 0.0, 0.0)}, "--direction: [01] lies outside training"),
        ({"direction": (1.0, 1.0, 0.0)}, "--direction: has length 1.41"),
        ({"particle": ("11",)}, "--particle: training had no particle '11' .it had 22"),
        ({"max_length": 14}, "--max-length: must lie between 1 and 13"),
        ({"jet_pt": (500.0,)}, "not told jet_pt .it is told incident_energy, direction_x"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_training_did_not_have_is_refused(showers: Path, tmp_path: Path, asked: dict[str, Any], told: str) -> None:
    with pytest.raises(HepfmError, match=told):
        main(dataclasses.replace(GenerateConfig(str(showers), tmp_path / "out"), **asked))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_jets_of_two_ids_a_constituent(tmp_path: Path) -> None:
    network = ("--quantizer=residual", "--quantizers=2", "--codes=16", "--network=mlp", "--width=16", "--blocks=1")
    tokens = tokens_of(jet_corpus(tmp_path / "jets"), tmp_path, *network, "--steps=4", "--batch-records=8")
    training = dataclasses.replace(TRAINING, steps=120)
    pretrain(PretrainConfig((tokens,), tmp_path / "run", condition=("label",), training=training))
    longest = {}
    for label in ("QCD", "Tbqq"):
        out = tmp_path / f"{label}.parquet"
        main(GenerateConfig(str(tmp_path / "run"), out, n=100, format="parquet", label=(label,)))
        batch = pq.read_table(out).combine_chunks().to_batches()[0]
        assert set(batch.column("label").to_pylist()) == {label}
        longest[label] = lengths_of(batch.column("constituents")).mean()
    assert longest["Tbqq"] > 1.5 * longest["QCD"]  # 5 to 8, 1 to 3


hits = st.tuples(
    st.integers(0, 3), st.integers(0, LAYERS - 1), st.integers(0, CELLS - 1), st.integers(0, CELLS - 1), st.floats(0, 9)
)


@given(st.lists(hits, max_size=40), st.sampled_from([0.0, 1.0]))
def test_hits_of_a_cell_become_one_of_the_energy_of_all(found: list[tuple[float, ...]], threshold: float) -> None:
    """The rule, hit by hit: energies of a cell are added, then cells below the threshold are left out."""
    bins, smaller = Bins(CELLS, -30.0, 10.0), Bins(1, -30.0, 60.0)
    layers = tuple(Layer(n, smaller if n == 1 else bins, bins, position=5.0 * n, thickness=5.0) for n in range(LAYERS))
    records = ShowerRecords(Geometry("toy", "grid", layers, threshold=threshold), (), ("layer", "cell_a", "cell_b"))
    found = sorted(found, key=lambda hit: hit[0])
    columns = np.array(found).reshape(-1, 5).T
    offsets = np.searchsorted(columns[0], np.arange(5))
    decoded = dict(zip(("layer", "cell_a", "cell_b", "energy"), columns[1:], strict=True))
    batch = records.of(decoded, offsets, None, 0)
    expected: dict[tuple[int, ...], float] = {}
    for shower, layer, cell_a, cell_b, energy in found:
        key = (int(shower), int(layer), 0 if layer == 1 else int(cell_a), int(cell_b))  # the one cell that it has
        expected[key] = expected.get(key, 0.0) + energy
    assert records.merged == len(found) - len(expected)
    kept = {key: energy for key, energy in expected.items() if energy >= threshold}
    assert records.below == len(expected) - len(kept)
    made = {(number, *map(int, hit[:3])): hit[3] for number, shower in enumerate(record_of(batch)) for hit in shower}
    assert list(made) == sorted(kept)
    assert list(made.values()) == pytest.approx([kept[key] for key in made], rel=1e-6)
    assert list(itertools.accumulate(lengths_of(batch.column("points"))))[-1] == len(kept)
