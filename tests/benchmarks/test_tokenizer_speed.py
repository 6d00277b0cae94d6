"""The padded reference computes what the tokenizer computes, and the operations counted are those of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hepfm.benchmarks import tokenizer_speed
from hepfm.benchmarks.padded import LONGEST, PaddedObjective, PaddedVQVAE, flop_bound, flops, padded
from hepfm.benchmarks.synthetic import real_multiplicities
from hepfm.benchmarks.tokenizer_speed import Batch, started, write_jets
from hepfm.benchmarks.workload import Way, Workload, measure
from hepfm.core.nn.ragged import Layout
from hepfm.tokenize import vqvae
from hepfm.tokenize.codebook import near_ties
from hepfm.tokenize.contract import FeatureContract
from hepfm.tokenize.network import VQVAE
from hepfm.tokenize.objective import LossConfig, Objective
from hepfm.tokenize.settings import VQVAEConfig
from hepfm.tokenize.vqvae import VQVAETokenizer
from hepfm.tokenize.vqvae_fit import TokenizerFitConfig

MASK = Path(__file__).parents[2] / "../shared/data/jetclass/jetclass_500_pfMask.npy"


@pytest.fixture(scope="module")
def jets(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureContract, Batch]:
    corpus = write_jets(tmp_path_factory.mktemp("jets") / "corpus", 1)
    contract = TokenizerFitConfig(corpus=corpus.path, out=corpus.path).contract(corpus)
    return contract, Batch.of(corpus, contract, 800)


@pytest.fixture(scope="module")
def network(jets: tuple[FeatureContract, Batch]) -> VQVAE:
    """A default network that is no longer at its start, where encoder and decoder do nothing."""
    contract, batch = jets
    network = started(64, contract, batch.split(100)[:2])
    for coder in (network.encoder, network.decoder):
        torch.nn.init.normal_(coder.head.weight, std=0.05)
    return network


def test_multiplicities_are_those_of_the_real_jets() -> None:
    found = real_multiplicities(np.random.default_rng(0), 1_000)
    assert found[:500].sum() == found[500:].sum() == 19_550
    if not MASK.exists():
        pytest.skip(f"{MASK} is not there")
    real = (np.load(MASK)[:, 0] > 0).sum(axis=1)
    np.testing.assert_array_equal(np.sort(found[:500]), np.sort(real))


def test_a_padded_network_gives_real_points_the_same(jets: tuple[FeatureContract, Batch], network: VQVAE) -> None:
    (batch, *_) = jets[1].split(60)
    slots, reference = batch.padded(), PaddedVQVAE.of(network).eval()
    places = slots.layout.places
    with torch.inference_mode():
        ids, latent = network.eval().encode(torch.from_numpy(batch.features), Layout.of(batch.lengths))
        padded_ids, padded_latent = reference.encode(slots.features, slots.layout)
        decoded = network(torch.from_numpy(batch.features), Layout.of(batch.lengths)).features
        padded_decoded = reference(slots.features, slots.layout).features
    torch.testing.assert_close(padded_latent[places], latent, rtol=1e-4, atol=1e-5)
    assert float((padded_ids[places] == ids).float().mean()) > 0.999
    same = (padded_ids[places] == ids).all(dim=1)
    assert not torch.equal(decoded[same], torch.zeros_like(decoded[same]))
    assert float((padded_decoded[places] - decoded).abs().median()) < 1e-5


def test_a_padded_step_has_the_same_loss_gradients_and_codebook(
    jets: tuple[FeatureContract, Batch], network: VQVAE
) -> None:
    contract, batch = jets[0], jets[1].split(60)[0]
    reference = PaddedVQVAE.of(network)
    ours, theirs = Objective(network, contract, LossConfig()), PaddedObjective(reference, contract, LossConfig())
    torch.manual_seed(1)
    total, figures = ours.train()(batch.packed())
    torch.manual_seed(1)
    padded_total, padded_figures = theirs.train()(batch.padded())
    torch.testing.assert_close(padded_total, total, rtol=1e-4, atol=0)
    assert padded_figures.keys() == figures.keys()
    for name, value in figures.items():
        torch.testing.assert_close(padded_figures[name], value, rtol=1e-3, atol=1e-3, check_dtype=False)
    total.backward()
    padded_total.backward()
    ours_gradient, theirs_gradient = (
        torch.cat([weights.grad.flatten() for weights in module.parameters() if weights.grad is not None])
        for module in (network, reference)
    )
    assert float((ours_gradient - theirs_gradient).norm() / ours_gradient.norm()) < 1e-3
    codes, padded_codes = (module.quantizer.codebook for module in (network, reference))  # type: ignore[attr-defined]
    torch.testing.assert_close(padded_codes, codes, rtol=1e-3, atol=1e-3)


def test_slots_hold_points_and_zeros() -> None:
    points = padded(np.arange(1.0, 6.0, dtype=np.float32)[:, None], np.array([2, 3]))
    assert points.features.shape == (2 * LONGEST, 1)
    assert points.features[:3, 0].tolist() == [1, 2, 0]
    assert points.features[LONGEST : LONGEST + 4, 0].tolist() == [3, 4, 5, 0]
    assert points.features.sum() == 15


def test_operations_of_a_network_counted_by_hand() -> None:
    network = VQVAE(VQVAEConfig(codes=8, width=4, blocks=1, heads=1, latent=3), 3)
    # skip 3x3, stem 3x4, queries, keys and values 4x12, out 4x4, up 4x8, down 8x4, head 4x3; the decoder is the same
    coder = 9 + 12 + 48 + 16 + 32 + 32 + 12
    lengths = np.array([1, 2])
    attention = 4 * 4 * (1 + 4)
    assert flops(network, lengths, training=False) == 2 * 3 * (coder + 3 * 8) + attention
    assert flops(network, lengths, training=True) == 2 * 3 * (3 * 2 * coder + 3 * 8) + 3 * 2 * attention
    whole = np.full(5, LONGEST)
    assert flop_bound(network, whole, training=True) == 1
    assert flop_bound(network, whole // 2, training=True) > 2


def test_ids_hardly_depend_on_how_jets_are_grouped(
    jets: tuple[FeatureContract, Batch], network: VQVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract, batch = jets
    tokenizer = VQVAETokenizer(network, contract)
    ids, latents = tokenizer.encode_latents(batch.features, batch.offsets)
    for points in (700, 5_000):
        monkeypatch.setattr(vqvae, "GROUP_POINTS", points)
        other, _ = tokenizer.encode_latents(batch.features, batch.offsets)
        differing = (other != ids).any(axis=1)
        assert differing.mean() <= 0.001
        codebook = network.quantizer.codebook  # type: ignore[attr-defined]
        gaps = near_ties(torch.from_numpy(latents[differing]), codebook, torch.from_numpy(other[differing, 0]))
        assert bool((gaps < 1e-5).all())
        np.testing.assert_array_equal(other, tokenizer.encode_latents(batch.features, batch.offsets)[0])


@pytest.mark.parametrize("what", ["fit", "apply"])
def test_results_have_their_ratios(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FIT_JETS": 128, "APPLY_JETS": 256, "SHARD_JETS": 300, "CODES": (512,)}.items():
        monkeypatch.setattr(tokenizer_speed, name, value)
    monkeypatch.setattr(tokenizer_speed, "CORPUS_SHARDS", (1, 2))
    with getattr(tokenizer_speed, f"tokenizer_{what}")() as workload:
        if what == "apply":
            packed, reference = (workload.ways[name].call() for name in ("packed", "padded"))
            assert (packed == reference).mean() > 0.999
        assert set(workload.figures) >= {"anonymous_memory_mb_300_jets", "anonymous_memory_mb_600_jets"}
        kept = {name: figure for name, figure in workload.figures.items() if "memory" not in name}
        ways: dict[str, Way] = workload.ways
        result = measure(
            what, Workload(workload.unit, ways, "packed", workload.ratios, workload.bounds, kept), repeats=1
        )
    figures, ratios = result["figures"], result["ratios"]
    assert ratios["of_flop_bound"] == pytest.approx(ratios["padded"] / figures["padded_per_real_flops"])
    assert ratios["of_slot_bound"] == pytest.approx(ratios["padded"] / figures["padded_per_real_slots"])
    assert 3 < figures["padded_per_real_slots"] < figures["padded_per_real_flops"] < 5
