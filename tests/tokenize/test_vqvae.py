"""The VQ-VAE sees real points only, gives the same ids everywhere, and comes back whole from its artifact."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from toy_jets import batch_of, jets

from hepfm.core.artifacts import read_artifact, write_artifact
from hepfm.core.errors import HepfmError
from hepfm.core.nn.ragged import Layout
from hepfm.ingest.corpus import Corpus
from hepfm.tokenize.codebook import nearest
from hepfm.tokenize.contract import FeatureContract
from hepfm.tokenize.network import VQVAE
from hepfm.tokenize.registry import load_tokenizer
from hepfm.tokenize.settings import VQVAEConfig
from hepfm.tokenize.tokens import token_type
from hepfm.tokenize.vqvae import VQVAETokenizer, reproducibly


@pytest.fixture(scope="module")
def tokenizer(run: Path) -> VQVAETokenizer:
    loaded = load_tokenizer(run)
    assert isinstance(loaded, VQVAETokenizer)
    return loaded


def features_of(count: int, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    data = jets(count, seed)
    return torch.from_numpy(FeatureContract().encode(batch_of(data))), np.diff(data["offsets"])


def test_codebook_statistics_count_real_points_only(small: VQVAEConfig) -> None:
    features, lengths = features_of(60)
    assert lengths.max() > 3 * lengths.min()
    network = VQVAE(replace(small, dead_below=0.0), 3).train()
    for _ in range(3):
        network(features, Layout.of(lengths))
    assert float(network.quantizer._codebook.cluster_size.sum()) == pytest.approx(len(features))


def test_codebook_does_not_depend_on_how_points_are_grouped(small: VQVAEConfig) -> None:
    features, lengths = features_of(60)
    codebooks = []
    for grouping in (lengths, np.ones(len(features), dtype=int), np.array([len(features)])):
        torch.manual_seed(0)
        network = VQVAE(replace(small, network="mlp"), 3).train()
        network(features, Layout.of(grouping))
        codebooks.append(network.quantizer.codebook)
    for codebook in codebooks[1:]:
        torch.testing.assert_close(codebook, codebooks[0])


def test_it_starts_as_k_means(small: VQVAEConfig) -> None:
    features, lengths = features_of(200)
    network = VQVAE(small, 3).train()
    with torch.no_grad():
        output = network(features, Layout.of(lengths))
    assert len(output.learned.ids.unique()) == small.codes
    assert float((output.features - features).square().sum(1).mean()) < 0.1 * float(features.var(0).sum())


def test_evaluation_leaves_the_codebook_alone(small: VQVAEConfig) -> None:
    features, lengths = features_of(60)
    network = VQVAE(small, 3).train()
    network(features, Layout.of(lengths))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.eval()(features * 2, Layout.of(lengths))
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_nearest_is_nearest_whatever_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    latent, codebook = torch.randn(500, 4), torch.randn(37, 4)
    expected = torch.cdist(latent, codebook).argmin(1)
    assert torch.equal(nearest(latent, codebook), expected)
    for elements in ("DISTANCE_ELEMENTS", "CACHED_ELEMENTS"):
        monkeypatch.setattr(f"hepfm.tokenize.codebook.{elements}", 100)
    assert torch.equal(nearest(latent, codebook), expected)


@pytest.mark.parametrize("codes", [1, 63, 64, 65, 200])
def test_nearest_of_any_number_of_codes(codes: int) -> None:
    latent, codebook = torch.randn(300, 3, dtype=torch.float64), torch.randn(codes, 3, dtype=torch.float64)
    assert torch.equal(nearest(latent, codebook), torch.cdist(latent, codebook).argmin(1))
    assert nearest(latent[:0], codebook).shape == (0,)
    assert nearest(torch.zeros_like(latent), torch.ones_like(codebook)).max() == 0  # the first of equals
    for broken in (torch.nan, torch.inf):
        assert nearest(torch.full_like(latent, broken), codebook).max() < codes


def test_every_point_gets_a_token_of_the_smallest_type(tokenizer: VQVAETokenizer) -> None:
    data = jets(50, seed=5)
    tokens = tokenizer.encode(batch_of(data))
    column = tokens.columns(tokenizer.streams)["tokens"]
    assert column.type == pa.list_(pa.uint8())
    np.testing.assert_array_equal(column.value_lengths().to_numpy(), np.diff(data["offsets"]))
    decoded = tokenizer.decode(tokens.ids, data["offsets"])
    assert list(decoded) == ["pt", "deta", "dphi"]
    for values in decoded.values():
        assert values.shape == data["pt"].shape
        assert values.dtype == np.float32
    assert np.abs(np.log(decoded["pt"] / data["pt"])).mean() < 0.5
    assert np.abs(decoded["deta"] - data["deta"]).mean() < 0.1


def test_types() -> None:
    assert [token_type(codes) for codes in (2, 256, 257, 65536, 65537)] == [
        pa.uint8(),
        pa.uint8(),
        pa.uint16(),
        pa.uint16(),
        pa.uint32(),
    ]


def test_ids_do_not_depend_on_threads(tokenizer: VQVAETokenizer) -> None:
    batch, before = batch_of(jets(400, seed=6)), torch.get_num_threads()
    try:
        ids = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            ids.append(tokenizer.encode(batch).ids)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(ids[0], ids[1])
    np.testing.assert_array_equal(ids[0], ids[2])


def test_reading_ahead_leaves_the_training_thread_as_it_is() -> None:
    before = torch.backends.mkldnn.enabled, torch.get_num_threads()
    inside, seen = threading.Barrier(2), []

    def read() -> None:
        with reproducibly():
            inside.wait()
            seen.append(torch.get_num_threads())
            inside.wait()

    reader = threading.Thread(target=read)
    reader.start()
    inside.wait()
    during = torch.backends.mkldnn.enabled, torch.get_num_threads()
    inside.wait()
    reader.join()
    assert (during, seen) == (before, [1])
    with reproducibly():
        assert not torch.backends.mkldnn.enabled
    assert torch.backends.mkldnn.enabled == before[0]


def test_a_slice_gets_the_ids_of_its_records(tokenizer: VQVAETokenizer) -> None:
    batch = batch_of(jets(40, seed=6))
    alone = np.concatenate([tokenizer.encode(batch.slice(i, 1)).ids for i in range(40)])
    together = tokenizer.encode(batch).ids
    assert (alone == together).mean() > 0.999


def test_jets_without_constituents_are_fine(tokenizer: VQVAETokenizer) -> None:
    data = jets(3)
    data["offsets"] = np.array([0, 0, len(data["pt"]), len(data["pt"])])
    tokens = tokenizer.encode(batch_of(data))
    assert np.diff(tokens.offsets).tolist() == [0, len(data["pt"]), 0]
    assert len(tokenizer.decode(tokens.ids, data["offsets"])["pt"]) == len(data["pt"])
    assert len(tokenizer.encode(batch_of(data).slice(0, 0)).ids) == 0
    assert len(tokenizer.decode(np.zeros(0, np.uint8), np.zeros(1, np.int64))["pt"]) == 0


@pytest.mark.parametrize("bad", [64, -1, 1000])
def test_an_id_outside_the_vocabulary_is_named(tokenizer: VQVAETokenizer, bad: int) -> None:
    with pytest.raises(HepfmError, match=rf"token id {bad} in record 1 is none of the tokenizer's \(0 to 63\)"):
        tokenizer.decode(np.array([1, 2, bad, 3]), np.array([0, 2, 4]))


def test_offsets_that_do_not_fit_are_refused(tokenizer: VQVAETokenizer) -> None:
    for offsets in ([0, 3], [1, 4], [0, 5], [0, 3, 2, 4]):
        with pytest.raises(HepfmError, match="do not divide 4 tokens"):
            tokenizer.decode(np.zeros(4, np.uint8), np.array(offsets))
    with pytest.raises(HepfmError, match="float64, not integers"):
        tokenizer.decode(np.zeros(4), np.array([0, 4]))


def test_the_artifact_brings_the_tokenizer_back(tokenizer: VQVAETokenizer, corpus: Corpus, tmp_path: Path) -> None:
    batch = corpus.split("train").read(0)
    artifact = tokenizer.save(tmp_path / "copy", examples=batch.slice(0, 4), provenance={}, metrics={}, card="")
    again = load_tokenizer(tmp_path / "copy")
    assert again.hash == artifact.hash
    assert again.contract == tokenizer.contract
    np.testing.assert_array_equal(again.encode(batch).ids, tokenizer.encode(batch).ids)


def test_a_tokenizer_that_does_not_reproduce_its_reference_is_refused(run: Path, tmp_path: Path) -> None:
    artifact = read_artifact(run / "artifact")
    weights = artifact.weights()
    for name, message in (("encoder.skip.weight", "get another token"), ("decoder.skip.weight", "decodes to other")):
        changed = {**weights, name: weights[name] * 1.5}
        write_artifact(
            tmp_path / name,
            kind="tokenizer",
            architecture=artifact.architecture,
            contract=artifact.contract,
            provenance={},
            weights=changed,
            metrics={},
            reference=artifact.reference(),
            card="",
        )
        with pytest.raises(HepfmError, match=message):
            load_tokenizer(tmp_path / name)


@pytest.mark.parametrize("size", [{"width": 1 << 28}, {"blocks": 1 << 28}, {"codes": 1 << 23}])
def test_an_artifact_that_claims_a_huge_network_takes_no_memory(
    run: Path, tmp_path: Path, size: dict[str, int]
) -> None:
    artifact = read_artifact(run / "artifact")
    write_artifact(
        tmp_path / "huge",
        kind="tokenizer",
        architecture={**artifact.architecture, **size},
        contract=artifact.contract,
        provenance={},
        weights=artifact.weights(),
        metrics={},
        reference=artifact.reference(),
        card="",
    )
    with pytest.raises(HepfmError, match="weights are not those of its architecture: they are too few"):
        load_tokenizer(tmp_path / "huge")


def test_what_is_no_known_tokenizer_is_refused(run: Path, tmp_path: Path) -> None:
    artifact = read_artifact(run / "artifact")

    def write(kind: str, **architecture: object) -> Path:
        write_artifact(
            tmp_path / "other",
            kind=kind,
            architecture={**artifact.architecture, **architecture},
            contract=artifact.contract,
            provenance={},
            weights=artifact.weights(),
            metrics={},
            reference=artifact.reference(),
            card="",
        )
        return tmp_path / "other"

    with pytest.raises(HepfmError, match="is a backbone, not a tokenizer"):
        load_tokenizer(write("backbone"))
    with pytest.raises(HepfmError, match=r"unknown tokenizer 'runes'.*known: vqvae"):
        load_tokenizer(write("tokenizer", tokenizer="runes"))
    with pytest.raises(HepfmError, match="unknown setting 'wings'"):
        load_tokenizer(write("tokenizer", wings=2))
    with pytest.raises(HepfmError, match="weights are not those of its architecture"):
        load_tokenizer(write("tokenizer", width=32))
    with pytest.raises(HepfmError, match="no such run or artifact"):
        load_tokenizer(tmp_path / "nothing")
