"""Showers as tokens: split streams give the same cells back, and a VQ-VAE takes showers too."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_showers import CELLS, LAYERS, geometry, shower_batch

from hepfm.core.config import parse
from hepfm.core.errors import HepfmError
from hepfm.core.records import offsets_of, points_of
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.geometry import Bins
from hepfm.ingest.verify import verify
from hepfm.tokenize.apply import apply
from hepfm.tokenize.contract import FeatureContract
from hepfm.tokenize.delays import delay, delays_of, undelay
from hepfm.tokenize.feature_sets import contract_for
from hepfm.tokenize.fit import fit_config, main
from hepfm.tokenize.registry import load_tokenizer

NETWORK = ["--codes=64", "--width=16", "--blocks=1", "--heads=2", "--steps=30", "--batch-records=8"]
KINDS = {
    "cells": ["--tokenizer=cells"],
    "vq": NETWORK,
    "residual": ["--quantizer=residual", "--network=mlp", "--conditions", "incident_energy", *NETWORK],
    "kmeans": ["--tokenizer=kmeans", "--codes=64"],
    "binning": ["--tokenizer=binning", "--bins", "6", "8", "8", "10", "--edges=uniform"],
}


def fit(arguments: Sequence[str]) -> None:
    main(parse(fit_config(arguments), arguments, "hepfm tokenizer fit"))


@pytest.fixture(scope="module")
def runs(showers: Corpus, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for name, arguments in KINDS.items():
        fit([str(showers.path), "--out", str(folder / name), *arguments])
    return {name: folder / name for name in KINDS}


def hits(batch: pa.RecordBatch) -> list[list[tuple[int, ...]]]:
    """Cells of each shower, as a sorted list."""
    return [
        sorted((hit["layer"], hit["cell_a"], hit["cell_b"]) for hit in hits) for hits in batch["points"].to_pylist()
    ]


@given(st.integers(0, 1000), st.integers(1, 6))
def test_the_same_cells_and_energies_come_back(runs: dict[str, Path], seed: int, count: int) -> None:
    tokenizer, batch = load_tokenizer(runs["cells"]), shower_batch(count, seed)
    tokens = tokenizer.encode(batch)
    decoded = tokenizer.decode(tokens.ids, tokens.offsets, tokens.continuous)
    assert {name: values.dtype for name, values in decoded.items()} == {
        "layer": np.int16,
        "cell_a": np.int16,
        "cell_b": np.int16,
        "energy": np.float32,
    }
    np.testing.assert_array_equal(tokens.offsets, offsets_of(batch.column("points")))
    rows = np.stack([decoded[name] for name in ("layer", "cell_a", "cell_b")], axis=1)
    found = [sorted(map(tuple, part.tolist())) for part in np.split(rows, tokens.offsets[1:-1])]
    assert found == hits(batch)
    energies = dict(zip(_keys(decoded, tokens.offsets), decoded["energy"], strict=True))
    stored = {name: points_of(batch, name) for name in decoded}
    for key, energy in zip(_keys(stored, tokens.offsets), stored["energy"], strict=True):
        assert energies[key] == pytest.approx(energy, rel=2e-6)


def _keys(values: dict[str, np.ndarray], offsets: np.ndarray) -> list[tuple[int, ...]]:
    record = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return list(
        zip(*(part.tolist() for part in (record, values["layer"], values["cell_a"], values["cell_b"])), strict=True)
    )


def test_hits_are_in_order_of_layers_then_of_falling_energy(runs: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(runs["cells"])
    assert tokenizer.contract.order == "layer ascending, energy descending"
    tokens = tokenizer.encode(shower_batch(20))
    assert tokens.continuous is not None
    for begin, end in itertools.pairwise(tokens.offsets):
        pairs = list(zip(tokens.ids[begin:end, 0], -tokens.continuous[begin:end], strict=True))
        assert pairs == sorted(pairs)


def test_the_order_of_a_record_does_not_matter(runs: dict[str, Path]) -> None:
    """Also where energies are equal."""
    tokenizer, batch = load_tokenizer(runs["cells"]), shower_batch(1, seed=3)
    column = batch.column("points")
    points = column.flatten()
    equal = pa.array(np.ones(len(points), np.float32))
    names = [field.name for field in points.type]
    flat = [equal if name == "energy" else points.field(name) for name in names]
    made = []
    for order in (np.arange(len(points)), np.random.default_rng(0).permutation(len(points))):
        inner = pa.StructArray.from_arrays([part.take(pa.array(order)) for part in flat], fields=list(points.type))
        turned = pa.ListArray.from_arrays(pa.array([0, len(points)], pa.int32()), inner, type=column.type)
        made.append(tokenizer.encode(batch.set_column(0, batch.schema.field(0), turned)))
    np.testing.assert_array_equal(made[0].ids, made[1].ids)


def test_split_streams_on_disk(runs: dict[str, Path], showers: Corpus, tmp_path: Path) -> None:
    tokens = apply(runs["cells"], showers.path, tmp_path / "tokens")
    assert verify(tokens.path) == []
    made = tokens.manifest.tokens
    assert made is not None
    assert made["streams"] == {"tokens_layer": LAYERS, "tokens_cell_a": CELLS, "tokens_cell_b": CELLS}
    assert made["delays"] == {"tokens_layer": 0, "tokens_cell_a": 2, "tokens_cell_b": 3, "continuous": 1}
    assert tokens.manifest.geometry == showers.manifest.geometry
    for name in made["streams"]:
        assert tokens.manifest.schema.field(name).type.value_type == pa.uint8()
    assert tokens.manifest.schema.field("continuous").type.value_type == pa.float32()
    blocks = pa.Table.from_batches(list(tokens.split("train"))).combine_chunks()
    sources = pa.Table.from_batches(list(showers.split("train"))).combine_chunks()
    assert blocks.column("incident_energy").equals(sources.column("incident_energy"))
    energies = [sum(np.exp(shower)) for shower in blocks.column("continuous").to_pylist()]
    expected = [sum(hit["energy"] for hit in shower) for shower in sources.column("points").to_pylist()]
    np.testing.assert_allclose(energies, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_takes_showers(runs: dict[str, Path], showers: Corpus, tmp_path: Path, kind: str) -> None:
    tokens = apply(runs[kind], showers.path, tmp_path / "tokens")
    assert verify(tokens.path) == []
    tokenizer = load_tokenizer(runs[kind])
    batch = showers.split("val").read(0)
    made = tokenizer.encode(batch)
    told = tokenizer.contract.conditions_of(batch)
    decoded = tokenizer.decode(made.ids, made.offsets, made.continuous, told)
    original = tokenizer.contract.values_of(batch)
    for name, count in (("layer", LAYERS), ("cell_a", CELLS), ("cell_b", CELLS)):
        assert np.issubdtype(decoded[name].dtype, np.integer)
        assert 0 <= decoded[name].min() <= decoded[name].max() < count
        spread = np.abs(original[name] - original[name].mean()).mean()
        assert np.abs(decoded[name] - original[name]).mean() < 0.8 * spread
    assert decoded["energy"].min() > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_processes_do_not_change_a_byte(runs: dict[str, Path], showers: Corpus, tmp_path: Path, kind: str) -> None:
    alone = apply(runs[kind], showers.path, tmp_path / "alone")
    assert apply(runs[kind], showers.path, tmp_path / "together", processes=2).digest == alone.digest


def test_another_detector_is_refused(runs: dict[str, Path], showers: Corpus) -> None:
    known = dict(showers.manifest.geometry or {})
    layers = known["layers"]
    contract = load_tokenizer(runs["cells"]).contract
    contract.check(showers.manifest)
    known["layers"] = layers + layers
    with pytest.raises(HepfmError, match=r"detector of 12 layers of 8 x 8 cells, the tokenizer was fitted on 6 layers"):
        contract.check(replace(showers.manifest, geometry=known))
    with pytest.raises(HepfmError, match="detector of no cells"):
        contract.check(replace(showers.manifest, geometry=None))


def test_decoded_cells_are_ones_that_their_layer_has(showers: Corpus) -> None:
    """Layers of a detector can have different cells: the first of CaloChallenge's data set 1 have one sector only."""
    first, *others = geometry().layers
    other = replace(geometry(), layers=(replace(first, cell_a=Bins(1, -40.0, 80.0)), *others))
    manifest = replace(showers.manifest, geometry=other.to_data())
    contract = contract_for("kinematics", manifest)
    assert contract.grid == (LAYERS, CELLS, CELLS)
    assert contract.cells == ((1, CELLS), *[(CELLS, CELLS)] * (LAYERS - 1))
    assert FeatureContract.from_dict(json.loads(json.dumps(contract.to_dict()))) == contract
    corner = {"layer": [0, 1, LAYERS - 1], "cell_a": [CELLS - 1] * 3, "cell_b": [CELLS - 1] * 3, "energy": [1.0] * 3}
    decoded = contract.decode(contract.encode_values({name: np.array(known) for name, known in corner.items()}))
    assert decoded["cell_a"].tolist() == [0, CELLS - 1, CELLS - 1]
    assert decoded["cell_b"].tolist() == [CELLS - 1] * 3
    with pytest.raises(HepfmError, match="fitted on 6 layers of 8 x 8 cells, with other cells in some of them"):
        contract.check(showers.manifest)


def test_a_cell_outside_the_detector_is_refused(runs: dict[str, Path], showers: Corpus) -> None:
    tokenizer, batch = load_tokenizer(runs["cells"]), shower_batch(3)
    values = {name: points_of(batch, name).copy() for name in tokenizer.contract.names}
    values["cell_b"][5] = CELLS
    with pytest.raises(HepfmError, match=r"cell_b is 8 in 1 points \(first: 5\) .*from 0 to 7"):
        tokenizer.contract.encode_each(values)
    name = "points.layer"
    statistics = {**showers.manifest.statistics, name: {**showers.manifest.statistics[name], "max": LAYERS}}
    with pytest.raises(HepfmError, match=f"'{name}' goes up to {LAYERS}"):
        tokenizer.contract.check(showers.manifest, statistics)


def test_what_decoding_needs_is_checked(runs: dict[str, Path]) -> None:
    tokenizer, offsets = load_tokenizer(runs["cells"]), np.array([0, 2])
    ids = np.array([[0, 0, 0], [1, 2, 3]])
    for continuous, message in (
        (None, "there is no number of each point"),
        (np.zeros(3), "there is no number of each point"),
        (np.array([0.0, np.inf]), "is not finite"),
    ):
        with pytest.raises(HepfmError, match=message):
            tokenizer.decode(ids, offsets, continuous)
    with pytest.raises(HepfmError, match=r"layer token id 6 in record 0 is none of the tokenizer's \(0 to 5\)"):
        tokenizer.decode(np.array([[6, 0, 0], [1, 2, 3]]), offsets, np.zeros(2))


def test_cells_are_of_showers_with_a_geometry(corpus: Corpus, showers: Corpus, tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match="holds jets, cells are of showers"):
        fit([str(corpus.path), "--out", str(tmp_path / "run"), "--tokenizer=cells"])
    settings = fit_config(["--tokenizer=cells"])(corpus=showers.path, out=tmp_path / "run")
    other = Corpus.open(showers.path)
    other.manifest = replace(other.manifest, geometry=None)
    with pytest.raises(HepfmError, match="has no geometry with cells"):
        settings.contract(other)
    with pytest.raises(HepfmError, match="showers have one set of features"):
        fit([str(showers.path), "--out", str(tmp_path / "run"), "--tokenizer=cells", "--features=full"])
    assert not (tmp_path / "run").exists()


lengths = st.lists(st.integers(0, 6), min_size=1, max_size=6)
waits = st.lists(st.integers(0, 5), min_size=1, max_size=4)


@given(lengths, waits)
def test_undelaying_undoes_delaying(lengths: list[int], waits: list[int]) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = np.random.default_rng(0).integers(0, 100, (offsets[-1], len(waits)))
    delayed, steps = delay(values, offsets, waits, fill=-1)
    assert np.diff(steps).tolist() == [length + max(waits) if length else 0 for length in lengths]
    back, again = undelay(delayed, steps, waits)
    np.testing.assert_array_equal(back, values)
    np.testing.assert_array_equal(again, offsets)
    assert (delayed != -1).sum() == values.size


def test_delays_are_as_written_out(runs: dict[str, Path]) -> None:
    """The layer at step i, the energy of the hit before, the first index of the one before that, then the second."""
    tokenizer = load_tokenizer(runs["cells"])
    waits = list(delays_of(tokenizer.streams, tokenizer.continuous).values())
    assert waits == [0, 2, 3, 1]
    values = np.array([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    delayed, _ = delay(values, np.array([0, 2]), waits, fill=np.nan)
    nan = np.nan
    expected = [[1, nan, nan, nan], [5, nan, nan, 4], [nan, 2, nan, 8], [nan, 6, 3, nan], [nan, nan, 7, nan]]
    np.testing.assert_array_equal(delayed, expected)
