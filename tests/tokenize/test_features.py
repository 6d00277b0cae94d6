"""The full set of features: every transform has an exact inverse, nulls and categories come back as they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from toy_jets import FULL as NAMES
from toy_jets import full_batch, full_jets

from hepfm.core.errors import HepfmError
from hepfm.core.records import SPECIES
from hepfm.ingest.corpus import Corpus
from hepfm.tokenize.contract import FeatureContract
from hepfm.tokenize.feature_sets import contract_for
from hepfm.tokenize.features import FULL, TRANSFORMS, FeatureSpec

# Of any size that a quantity in mm, GeV or MeV can have.
numbers = arrays(np.float32, 20, elements=st.floats(-(2.0**20), 2.0**20, width=32))
positive = arrays(np.float32, 20, elements=st.floats(2.0**-20, 2.0**20, width=32))


@given(numbers=numbers, positive=positive, shift=st.floats(-3, 3), scale=st.floats(0.1, 5), inner=st.floats(0.01, 100))
def test_every_transform_has_an_exact_inverse(
    numbers: np.ndarray, positive: np.ndarray, shift: float, scale: float, inner: float
) -> None:
    """In single precision, which features are kept in, up to rounding; and differentiably the same."""
    for name, transform in TRANSFORMS.items():
        feature = FeatureSpec("x", "", name, shift, scale, inner)
        values = positive if transform.lowest == 0 else numbers
        encoded = feature.encode(values).astype(np.float32)
        # Rounding of the encoded number moves the value by about the slope of the inverse there, and by the shift.
        slope = np.abs(values) + (inner * (1 + abs(shift)) if name != "log" else 0)
        np.testing.assert_array_less(np.abs(feature.decode(encoded) - values), 1e-5 * slope + 1e-30)
        exact = feature.decode(feature.encode(values))
        np.testing.assert_allclose(exact, values, rtol=1e-11, atol=1e-12 * inner * (1 + abs(shift)))
        tensor = feature.decode_tensor(torch.from_numpy(feature.encode(values)))
        np.testing.assert_allclose(tensor.numpy(), exact, rtol=1e-12, atol=1e-12 * inner)


@given(numbers)
def test_signed_log_keeps_order_and_sign(values: np.ndarray) -> None:
    forward = TRANSFORMS["signed_log"].forward
    encoded = forward(values.astype(np.float64))
    np.testing.assert_array_equal(np.sign(encoded), np.sign(values))
    assert (np.diff(encoded[np.argsort(values)]) >= 0).all()
    small = np.array([1e-4, -1e-4])
    np.testing.assert_allclose(forward(small), small, rtol=1e-3)


@given(st.integers(0, 1000), st.integers(1, 40))
def test_records_come_back(seed: int, count: int) -> None:
    """Null in, null out; charge and species exactly; numbers to rounding."""
    data = full_jets(count, seed)
    contract = FeatureContract(FULL)
    columns = contract.encode(full_batch(data))
    assert columns.shape == (len(data["pt"]), contract.width)
    assert np.isfinite(columns).all()
    decoded = contract.decode(columns)
    assert list(decoded) == list(NAMES)
    for name in NAMES:
        assert decoded[name].dtype == data[name].dtype, name
        np.testing.assert_allclose(decoded[name], data[name], rtol=2e-6, atol=1e-7)
    for name in ("charge", "species"):
        np.testing.assert_array_equal(decoded[name], data[name])
    np.testing.assert_array_equal(np.isnan(decoded["d0"]), data["charge"] == 0)


def test_columns_are_laid_out_as_stated() -> None:
    contract = FeatureContract(FULL)
    data = full_jets(50)
    columns = contract.encode(full_batch(data))
    assert contract.width == 3 + 4 + 3 + len(SPECIES) + 1
    assert contract.place("d0") == slice(3, 4)
    assert contract.place("charge") == slice(7, 10)
    np.testing.assert_array_equal(columns[:, 7:10].argmax(1) - 1, data["charge"])
    np.testing.assert_array_equal(columns[:, contract.place("species")].argmax(1), data["species"])
    np.testing.assert_array_equal(columns[:, -1], data["charge"] != 0)
    neutral = data["charge"] == 0
    assert not columns[neutral, 3:7].any()


@given(noise=st.floats(0, 0.45))
def test_decoding_takes_what_stands_out(noise: float) -> None:
    """A network's output is not exact: flags and categories are what they are nearest to."""
    contract, data = FeatureContract(FULL), full_jets(20)
    columns = contract.encode(full_batch(data))
    moved = columns + np.random.default_rng(0).uniform(-noise, noise, columns.shape)
    decoded = contract.decode(moved)
    for name in ("charge", "species"):
        np.testing.assert_array_equal(decoded[name], data[name])
    np.testing.assert_array_equal(np.isnan(decoded["dzerr"]), data["charge"] == 0)


def test_plain_data_brings_the_full_contract_back(full_corpus: Corpus) -> None:
    contract = contract_for("full", full_corpus.manifest)
    assert FeatureContract.from_dict(json.loads(json.dumps(contract.to_dict()))) == contract
    assert contract.features[3].seen["max"] > contract.features[3].seen["min"]


def test_whole_numbers_are_rounded_and_stay_in_the_detector() -> None:
    layer = FeatureSpec("layer", "", shift=15.0, scale=0.2, integer=True, allowed=(0.0, 29.0))
    values = np.arange(30)
    np.testing.assert_array_equal(layer.decode(layer.encode(values) + 0.09), values)
    np.testing.assert_array_equal(layer.decode(np.array([-40.0, 40.0])), [0, 29])


def with_null(data: dict[str, np.ndarray], name: str, point: int) -> pa.RecordBatch:
    """The jets as records, one value null."""
    batch = full_batch(data)
    column = batch.column("constituents")
    points = column.flatten()
    index = points.type.get_field_index(name)
    valid = np.arange(len(points)) != point
    arrays = [points.field(i) for i in range(points.type.num_fields)]
    arrays[index] = pa.compute.if_else(pa.array(valid), arrays[index], None)
    inner = pa.StructArray.from_arrays(arrays, fields=list(column.type.value_type))
    made = pa.ListArray.from_arrays(column.offsets, inner, type=column.type)
    return batch.set_column(0, batch.schema.field(0), made)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("charge", r"charge is null in 1 points \(first: 3\) \(the tokenizer knows -1, 0, 1\)"),
        ("species", r"species is null in 1 points \(first: 3\)"),
        ("deta", r"deta is nan 1 in 1 points \(first: 3\)"),
        ("d0err", r"d0, d0err, dz, dzerr are not null together in 1 points \(first: 3\)"),
    ],
)
def test_a_null_that_no_rule_covers_is_refused(name: str, message: str) -> None:
    """Also of whole numbers, where a null would else pass as -1, which is a charge."""
    data = full_jets(5)
    data["charge"][3], data["d0"][3], data["d0err"][3], data["dz"][3], data["dzerr"][3] = 1, 0.1, 0.1, 0.1, 0.1
    with pytest.raises(HepfmError, match=message):
        FeatureContract(FULL).encode(with_null(data, name, 3))


def test_an_unknown_charge_is_refused() -> None:
    data = full_jets(5)
    data["charge"][2] = 2
    with pytest.raises(HepfmError, match=r"charge is 2 in 1 points \(first: 2\) \(the tokenizer knows -1, 0, 1\)"):
        FeatureContract(FULL).encode(full_batch(data))


@pytest.mark.parametrize(
    ("column", "changes", "message"),
    [
        ("charge", {"max": 2}, "'constituents.charge' is also 2"),
        ("species", {"values": {"photon": 3, "tau": 2}}, "'constituents.species' is also tau"),
        ("species", {"nulls": 7}, "'constituents.species' is null in 7"),
        ("pt", {"mean": 90000.0}, "'constituents.pt' has values of about"),
        ("pt", {"nulls": 2}, "'constituents.pt' is null in 2"),
    ],
)
def test_a_corpus_that_means_something_else_is_refused(
    full_corpus: Corpus, column: str, changes: dict[str, Any], message: str
) -> None:
    contract = contract_for("full", full_corpus.manifest)
    name = f"constituents.{column}"
    statistics = dict(full_corpus.manifest.statistics)
    statistics[name] = statistics[name] | changes
    contract.check(full_corpus.manifest)
    with pytest.raises(HepfmError, match=message):
        contract.check(full_corpus.manifest, statistics)


@pytest.mark.parametrize(
    ("column", "known", "message"),
    [
        ("d0", {"count": 0, "nulls": 50}, "'constituents.d0' has no value in the train split"),
        ("species", {"count": 9, "nulls": 0, "values": {"photon": 9, "muon": 0}}, "species' is photon everywhere"),
        ("charge", {"count": 9, "nulls": 0, "min": 1, "max": 1, "mean": 1, "std": 0}, "charge' is 1 e everywhere"),
    ],
)
def test_a_constant_or_empty_feature_cannot_be_fitted(
    full_corpus: Corpus, column: str, known: dict[str, Any], message: str
) -> None:
    statistics = {**full_corpus.manifest.statistics, f"constituents.{column}": known}
    with pytest.raises(HepfmError, match=message):
        contract_for("full", replace(full_corpus.manifest, statistics=statistics))


def test_a_corpus_without_tracks_cannot_give_the_full_set(corpus: Corpus) -> None:
    with pytest.raises(HepfmError, match=r"has no 'constituents.d0' \[mm\], which the tokenizer takes"):
        contract_for("full", corpus.manifest, corpus.path)


def test_showers_have_one_set(showers: Corpus, make_corpus: Callable[..., Corpus]) -> None:
    contract = contract_for("kinematics", showers.manifest)
    assert contract.names == ("layer", "cell_a", "cell_b", "energy")
    with pytest.raises(HepfmError, match="showers have one set of features"):
        contract_for("full", showers.manifest)
