"""A contract goes exactly there and back, and refuses a corpus that means something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from toy_jets import batch_of, jets

from hepfm.core.errors import HepfmError
from hepfm.ingest.corpus import Corpus
from hepfm.tokenize.contract import KINEMATIC, FeatureContract, FeatureSpec

pts = arrays(np.float32, 20, elements=st.floats(2.0**-10, 2.0**13, width=32))
angles = arrays(np.float32, 20, elements=st.floats(-3.125, 3.125, width=32))


@settings(deadline=None)
@given(pt=pts, deta=angles, dphi=angles)
def test_decoding_undoes_encoding(pt: np.ndarray, deta: np.ndarray, dphi: np.ndarray) -> None:
    contract = FeatureContract()
    values = {"pt": pt, "deta": deta, "dphi": dphi}
    decoded = contract.decode(contract.encode_values(values))
    np.testing.assert_allclose(decoded["pt"], pt, rtol=1e-6)
    for name in ("deta", "dphi"):
        np.testing.assert_allclose(decoded[name], values[name], rtol=1e-6)


def test_features_are_those_of_omnijet_alpha() -> None:
    encoded = FeatureContract().encode_values(
        {"pt": np.array([1.0, 100.0]), "deta": np.array([0.1, -0.2]), "dphi": np.array([0.0, 0.5])}
    )
    np.testing.assert_allclose(encoded[:, 0], np.log([1, 100]) - 1.8, rtol=1e-6)
    np.testing.assert_allclose(encoded[:, 1], [0.3, -0.6], rtol=1e-6)
    np.testing.assert_allclose(encoded[:, 2], [0.0, 1.5], rtol=1e-6)


def test_plain_data_brings_the_contract_back(contract: FeatureContract) -> None:
    text = json.dumps(contract.to_dict())
    assert FeatureContract.from_dict(json.loads(text)) == contract


def test_an_unknown_transform_is_named_and_not_evaluated() -> None:
    data = FeatureContract().to_dict()
    data["features"][0]["transform"] = "__import__('os').abort()"
    with pytest.raises(HepfmError, match=r"unknown transform '__import__.*known: identity, log"):
        FeatureContract.from_dict(data)


@pytest.mark.parametrize("data", [{}, {"features": 3}, {"features": [{"nmae": "pt"}]}, {"features": [], "colour": 1}])
def test_broken_contracts_are_refused(data: dict[str, Any]) -> None:
    with pytest.raises(HepfmError, match="is no feature contract"):
        FeatureContract.from_dict(data)


def test_its_own_corpus_passes(corpus: Corpus, contract: FeatureContract) -> None:
    contract.check(corpus.manifest)
    assert contract.axis == "stored"
    assert contract.features[0].seen["mean"] == pytest.approx(corpus.manifest.statistics["constituents.pt"]["mean"])


@pytest.mark.parametrize(("scale", "what"), [(1 / 700, "pt relative to the jet"), (1000, "pt in MeV")])
def test_numbers_of_another_size_are_refused(
    make_corpus: Callable[..., Corpus], contract: FeatureContract, scale: float, what: str
) -> None:
    other = make_corpus(200, pt_scale=scale)
    with pytest.raises(HepfmError, match=r"other: 'constituents.pt' has values of about .* fitted on about .* GeV"):
        contract.check(other.manifest, where="other")


def test_softer_jets_of_the_same_meaning_pass(make_corpus: Callable[..., Corpus], contract: FeatureContract) -> None:
    contract.check(make_corpus(200, pt_scale=0.2).manifest)


def test_another_unit_is_refused_by_manifest_and_by_batch(corpus: Corpus, contract: FeatureContract) -> None:
    in_mev = replace(contract, features=(replace(contract.features[0], unit="MeV"), *contract.features[1:]))
    with pytest.raises(HepfmError, match=r"'constituents.pt' is in \[GeV\], the tokenizer takes it in \[MeV\]"):
        in_mev.check(corpus.manifest)
    with pytest.raises(HepfmError, match=r"takes it in \[MeV\]"):
        in_mev.encode(corpus.split("train").read(0))


def test_another_axis_is_refused(make_corpus: Callable[..., Corpus], contract: FeatureContract) -> None:
    other = make_corpus(200, axis="constituent_sum")
    with pytest.raises(HepfmError, match=r"axis 'constituent_sum', the tokenizer was fitted on 'stored'"):
        contract.check(other.manifest)


def test_a_missing_quantity_is_named_with_those_present(
    make_corpus: Callable[..., Corpus], contract: FeatureContract
) -> None:
    other = make_corpus(200, points=("pt", "deta"))
    with pytest.raises(HepfmError, match=r"has no 'constituents.dphi' \[rad\].*constituents.pt, constituents.deta"):
        contract.check(other.manifest)


def test_another_kind_of_corpus_is_refused(corpus: Corpus, contract: FeatureContract) -> None:
    with pytest.raises(HepfmError, match="holds tokens, the tokenizer takes jets"):
        contract.check(replace(corpus.manifest, kind="tokens"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nulls": 3}, "is null in 3 of"),
        ({"min": 0.0}, "goes down to 0.*above 0 GeV"),
    ],
)
def test_statistics_that_leave_points_without_features_are_refused(
    corpus: Corpus, contract: FeatureContract, changes: dict[str, float], message: str
) -> None:
    statistics = dict(corpus.manifest.statistics)
    statistics["constituents.pt"] = statistics["constituents.pt"] | changes
    with pytest.raises(HepfmError, match=message):
        contract.check(corpus.manifest, statistics)


def test_a_constant_or_empty_feature_cannot_be_fitted(corpus: Corpus) -> None:
    known = corpus.manifest.statistics["constituents.deta"]
    for change, message in (({"min": 0.1, "max": 0.1}, "is 0.1 1 everywhere"), ({"count": 0}, "has no value")):
        statistics = corpus.manifest.statistics | {"constituents.deta": known | change}
        with pytest.raises(HepfmError, match=f"'constituents.deta' {message}"):
            FeatureContract().fitted(replace(corpus.manifest, statistics=statistics))


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_a_value_without_a_feature_is_refused(value: float) -> None:
    data = jets(5)
    data["pt"][7] = value
    with pytest.raises(HepfmError, match=r"pt is .* GeV in 1 points \(first: 7\)"):
        FeatureContract().encode(batch_of(data))


def test_a_null_is_refused() -> None:
    batch = batch_of(jets(5), ("pt", "deta", "dphi"))
    item = batch.schema.field("constituents").type
    flat = batch.column("constituents").flatten()
    columns = [pa.array([None, *flat.field(0).to_pylist()[1:]], pa.float32()), flat.field(1), flat.field(2)]
    points = pa.StructArray.from_arrays(columns, fields=list(item.value_type))
    column = pa.ListArray.from_arrays(batch.column("constituents").offsets, points, type=item)
    with pytest.raises(HepfmError, match="pt is nan GeV in 1 points"):
        FeatureContract().encode(batch.set_column(0, batch.schema.field(0), column))


def test_features_follow_the_named_order() -> None:
    turned = FeatureContract(features=(KINEMATIC[1], FeatureSpec("pt", "GeV")))
    data = jets(3)
    encoded = turned.encode(batch_of(data))
    np.testing.assert_allclose(encoded[:, 0], 3 * data["deta"], rtol=1e-6)
    np.testing.assert_allclose(encoded[:, 1], data["pt"], rtol=1e-6)
