"""Bins and centroids against written-out definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_jets import batch_of, full_batch, full_jets, jets

from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.ingest.corpus import Corpus
from hepfm.tokenize.binning import BinningTokenizer, _edges, _means
from hepfm.tokenize.clustering import kmeans
from hepfm.tokenize.contract import FeatureContract
from hepfm.tokenize.feature_sets import contract_for
from hepfm.tokenize.features import FULL
from hepfm.tokenize.kmeans import KMeansTokenizer
from hepfm.tokenize.sample import sample_points

EDGES = [np.array([0.0, 1.0, 2.0]), np.array([-0.5, 0.5]), np.array([0.0])]
CENTRES = [np.array([-1.0, 0.4, 1.5, 3.0]), np.array([-1.0, 0.0, 1.0]), np.array([-0.2, 0.2])]


def test_one_id_is_the_bins_in_mixed_radix() -> None:
    tokenizer = BinningTokenizer(FeatureContract(), EDGES, CENTRES, together=True)
    assert tokenizer.codes == 4 * 3 * 2
    features = FeatureContract().encode(batch_of(jets(30)))
    expected = [np.digitize(features[:, index].astype(float), edges) for index, edges in enumerate(EDGES)]
    ids = tokenizer.encode(batch_of(jets(30))).ids
    np.testing.assert_array_equal(ids, np.ravel_multi_index(expected, (4, 3, 2)))
    decoded = tokenizer.decode(np.arange(24), np.array([0, 24]))
    bins = np.unravel_index(np.arange(24), (4, 3, 2))
    np.testing.assert_allclose(decoded["pt"], np.exp(CENTRES[0][bins[0]] + 1.8), rtol=1e-6)
    np.testing.assert_allclose(decoded["dphi"], CENTRES[2][bins[2]] / 3, rtol=1e-6)


def test_decoding_and_encoding_again_changes_no_id() -> None:
    tokenizer = BinningTokenizer(FeatureContract(), EDGES, CENTRES, together=False)
    assert [stream.name for stream in tokenizer.streams] == ["pt", "deta", "dphi"]
    ids = np.stack(np.unravel_index(np.arange(24), (4, 3, 2)), axis=1)
    decoded = tokenizer.decode(ids, np.array([0, 24]))
    features = FeatureContract().encode_each(decoded)
    np.testing.assert_array_equal(tokenizer.encode_features(features, np.array([0, 24])), ids)


def test_a_null_is_a_bin_of_its_own() -> None:
    contract = FeatureContract(FULL)
    edges = [np.zeros(0) if feature.categories else np.array([0.0]) for feature in FULL]
    centres = [np.arange(feature.width) if feature.categories else np.array([-1.0, 1.0]) for feature in FULL]
    tokenizer = BinningTokenizer(contract, edges, [centre.astype(float) for centre in centres], together=False)
    assert [stream.codes for stream in tokenizer.streams] == [2, 2, 2, 3, 3, 3, 3, 3, 7]
    data = full_jets(20)
    ids = tokenizer.encode(full_batch(data)).ids
    np.testing.assert_array_equal(ids[:, 3] == 2, data["charge"] == 0)
    np.testing.assert_array_equal(ids[:, 7], data["charge"] + 1)


@given(st.integers(1, 30), st.integers(0, 100))
def test_quantile_bins_hold_equally_many(bins: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=3000)
    edges = _edges(values, bins, "quantile", values.min(), values.max())
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=bins)
    assert len(counts) == bins
    assert counts.max() - counts.min() <= 2
    means = _means(values, edges, values.min(), values.max())
    assert (np.diff(means) > 0).all()
    np.testing.assert_allclose((means * counts).sum(), values.sum(), atol=1e-6)


def test_a_value_that_many_share_is_one_edge() -> None:
    values = np.concatenate([np.zeros(900), np.linspace(1, 2, 100)])
    edges = _edges(values, 10, "quantile", 0.0, 2.0)
    assert (np.diff(edges) > 0).all()
    assert len(edges) < 9


def test_empty_bins_decode_to_their_centre() -> None:
    means = _means(np.array([0.1, 0.3, 3.9]), np.array([1.0, 2.0, 3.0]), 0.0, 4.0)
    np.testing.assert_allclose(means, [0.2, 1.5, 2.5, 3.9])


def centroids(points: torch.Tensor, count: int, seed: int = 0, steps: int = 100) -> torch.Tensor:
    return kmeans(points, count, generator("test", seed), steps, "points")[0]


def test_separate_clusters_are_found() -> None:
    """k-means++ misses one of 20 far clusters with small probability only; Lloyd's steps then give their means."""
    centres = torch.randn(20, 3, generator=torch.Generator().manual_seed(1)) * 100
    points = (centres[:, None] + torch.randn(20, 50, 3, generator=torch.Generator().manual_seed(2))).flatten(0, 1)
    found = centroids(points, 20)
    order = torch.cdist(centres, found).argmin(1)
    assert len(order.unique()) == 20
    torch.testing.assert_close(found[order], points.view(20, 50, 3).mean(1), rtol=1e-4, atol=1e-4)


def test_it_ends_where_lloyds_steps_change_nothing() -> None:
    points = torch.randn(2000, 3, generator=torch.Generator().manual_seed(3))
    found = centroids(points, 40)
    ids = torch.cdist(points, found).argmin(1)
    means = torch.stack([points[ids == number].mean(0) for number in range(40)])
    torch.testing.assert_close(found, means, rtol=1e-4, atol=1e-4)
    error = torch.cdist(points, found).amin(1).square().mean()
    at_random = torch.cdist(points, points[:40]).amin(1).square().mean()
    assert float(error) < 0.7 * float(at_random)


def test_as_many_centroids_as_different_points_is_the_limit() -> None:
    points = torch.arange(12.0)[:, None].repeat(3, 1)
    assert sorted(centroids(points, 12).flatten().tolist()) == list(range(12))
    with pytest.raises(HepfmError, match="points: 13 codes are more than the 12 different points in it"):
        centroids(points, 13)


def test_the_same_seed_gives_the_same_centroids() -> None:
    points = torch.randn(1000, 2, generator=torch.Generator().manual_seed(4))
    assert torch.equal(centroids(points, 30), centroids(points, 30))
    assert not torch.equal(centroids(points, 30), centroids(points, 30, seed=1))


def test_a_point_becomes_its_nearest_centroid(corpus: Corpus) -> None:
    contract = contract_for("kinematics", corpus.manifest)
    means = torch.randn(50, 3, generator=torch.Generator().manual_seed(5))
    tokenizer = KMeansTokenizer(contract, means)
    batch = corpus.split("val").read(0)
    features = torch.from_numpy(contract.encode(batch))
    ids = tokenizer.encode(batch).ids
    np.testing.assert_array_equal(ids, torch.cdist(features, means).argmin(1))
    decoded = tokenizer.decode(np.arange(50), np.array([0, 50]))
    np.testing.assert_allclose(decoded["deta"], means[:, 1] / 3, rtol=1e-6)


def test_a_sample_is_of_whole_records_in_random_order(corpus: Corpus) -> None:
    contract = contract_for("kinematics", corpus.manifest)
    everything = sample_points(corpus, contract, 10**9, 0, contract.encode)
    assert len(everything) == corpus.split("train").points
    part = sample_points(corpus, contract, 1000, 0, contract.encode)
    assert 1000 <= len(part) < len(everything)
    np.testing.assert_array_equal(part, everything[: len(part)])
    assert not np.array_equal(part, sample_points(corpus, contract, 1000, 1, contract.encode)[: len(part)])
