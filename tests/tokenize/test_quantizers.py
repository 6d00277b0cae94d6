"""Every quantiser gives ids that stand for its codes, learns from real points only, and comes back as it was."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_jets import batch_of, jets
from vector_quantize_pytorch import VectorQuantize

from hepfm.core.errors import HepfmError
from hepfm.core.nn.ragged import Layout
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.verify import verify
from hepfm.tokenize.apply import apply
from hepfm.tokenize.codebook import CountedCodebook
from hepfm.tokenize.contract import FeatureContract
from hepfm.tokenize.fit import main
from hepfm.tokenize.network import VQVAE
from hepfm.tokenize.quality import perplexity
from hepfm.tokenize.quantizers import make_quantizer
from hepfm.tokenize.registry import load_tokenizer
from hepfm.tokenize.settings import VQVAEConfig

SMALL = {"width": 16, "blocks": 1, "heads": 2}
KINDS = {
    "vq": VQVAEConfig(codes=64, **SMALL),
    "straight": VQVAEConfig(codes=64, rotation_trick=False, **SMALL),
    "residual": VQVAEConfig(codes=32, quantizer="residual", quantizers=3, **SMALL),
    "fsq": VQVAEConfig(quantizer="fsq", levels=(5, 4, 3, 3), **SMALL),
    "lfq": VQVAEConfig(codes=64, quantizer="lfq", **SMALL),
}
every_kind = pytest.mark.parametrize("config", KINDS.values(), ids=KINDS.keys())


def trained(config: VQVAEConfig, points: int = 500) -> Any:
    """A quantiser that has seen some points."""
    torch.manual_seed(1)
    quantizer = make_quantizer(config, config.latent_for(3), synchronised=False)
    quantizer.train()
    for _ in range(3):
        quantizer.learn(torch.randn(points, config.latent_for(3)))
    return quantizer.eval()


@every_kind
def test_ids_and_codes_belong_together(config: VQVAEConfig) -> None:
    quantizer = trained(config)
    assert quantizer.streams == config.streams
    latent = torch.randn(200, config.latent_for(3))
    ids = quantizer.ids_of(latent)
    assert ids.shape == (200, len(config.streams))
    assert ids.dtype == torch.int64
    for codes, column in zip(config.streams, ids.unbind(1), strict=True):
        assert 0 <= int(column.min()) <= int(column.max()) < codes
    codes_of = quantizer.codes_of(ids)
    torch.testing.assert_close(quantizer.learn(latent).codes, codes_of)
    assert torch.equal(quantizer.learn(latent).ids, ids)
    assert bool(quantizer.near(latent, ids, 0.0).all())


@pytest.mark.parametrize("name", ["vq", "lfq"])
def test_a_code_is_its_own_nearest(name: str) -> None:
    quantizer = trained(KINDS[name])
    ids = torch.arange(64)[:, None]
    assert torch.equal(quantizer.ids_of(quantizer.codes_of(ids)), ids)


def test_each_id_of_fsq_is_another_point_of_its_grid() -> None:
    quantizer = trained(KINDS["fsq"])
    ids = torch.arange(5 * 4 * 3 * 3)[:, None]
    codes = quantizer.codes_of(ids)
    assert len(codes.unique(dim=0)) == len(ids)
    assert [len(column.unique()) for column in codes.T] == [5, 4, 3, 3]
    wide = torch.randn(20_000, 4, generator=torch.Generator().manual_seed(3)) * 2
    assert len(quantizer.ids_of(wide).unique()) == len(ids)


@every_kind
def test_far_ids_do_not_pass_as_ties(config: VQVAEConfig) -> None:
    quantizer = trained(config)
    latent = torch.randn(100, config.latent_for(3))
    ids = quantizer.ids_of(latent)
    other = torch.stack([(column + 1) % codes for codes, column in zip(config.streams, ids.T, strict=True)], dim=1)
    assert float(quantizer.near(latent, other, 1e-4).float().mean()) < 0.05


@every_kind
def test_how_points_are_grouped_does_not_matter(config: VQVAEConfig) -> None:
    """Nothing but points enters a statistic: what a padded batch would add is not there."""
    features = torch.from_numpy(FeatureContract().encode(batch_of(jets(60))))
    states = []
    for lengths in (np.diff(jets(60)["offsets"]), np.array([len(features)])):
        torch.manual_seed(0)
        network = VQVAE(replace(config, network="mlp"), 3).train()
        network(features, Layout.of(lengths))
        states.append(network.quantizer.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name])


def test_counts_and_sums_learn_what_one_hot_tables_learn() -> None:
    """Our codebook against the library's own, from the same draws."""
    options: dict[str, Any] = {"decay": 0.9, "kmeans_init": True, "threshold_ema_dead_code": 1.0, "kmeans_iters": 15}
    library = VectorQuantize(4, 64, rotation_trick=True, **options)._codebook.train()
    ours = CountedCodebook(4, 64, ema_update=True, **options).train()
    for step in range(4):
        batch = torch.randn(1, 300, 4, generator=torch.Generator().manual_seed(step))
        results = []
        for codebook in (library, ours):
            torch.manual_seed(step)
            results.append(codebook(batch))
        assert torch.equal(results[0][1], results[1][1])
        torch.testing.assert_close(results[0][0], results[1][0])
        for name in ("embed", "cluster_size", "embed_avg"):
            torch.testing.assert_close(getattr(library, name), getattr(ours, name), rtol=1e-4, atol=1e-5)


@given(st.integers(2, 300), st.floats(10, 5000))
def test_a_code_with_an_equal_share_is_never_dead(codes: int, points: float) -> None:
    config = VQVAEConfig(codes=codes).resolved(3, points)
    assert config.dead_below is not None
    assert config.dead_below <= points / codes / 9.99
    assert config.latent == 4
    assert VQVAEConfig(codes=codes, dead_below=3.0).resolved(3, points).dead_below == 3.0


def test_all_codes_find_points_even_if_a_batch_has_fewer() -> None:
    """1,024 codes, 100 points a step: each code is used once every ten steps if all are used equally."""
    config = VQVAEConfig(codes=1024).resolved(2, 100)
    torch.manual_seed(0)
    quantizer = make_quantizer(config, 2, synchronised=False)
    for _ in range(300):
        quantizer.learn(torch.randn(100, 2))
    quantizer.eval()
    points = torch.randn(50_000, 2)
    ids = quantizer.ids_of(points)[:, 0]
    assert len(ids.unique()) > 0.9 * 1024
    # As many random points for codes would be off by about 1 / (2 pi density codes): three times the optimum in two
    # dimensions; a codebook that is replaced all the time is no better.
    error = (points - quantizer.codes_of(ids[:, None])).square().sum(1).mean()
    at_random = torch.cdist(points[:5000], torch.randn(1024, 2)).amin(1).square().mean()
    assert float(error) < float(at_random)


def test_gradients_turn_with_the_code_or_pass_straight() -> None:
    gradients = {}
    for name in ("vq", "straight"):
        torch.manual_seed(1)
        quantizer = make_quantizer(KINDS[name], 4, synchronised=False)
        quantizer.learn(torch.randn(500, 4))
        latent = torch.randn(50, 4, generator=torch.Generator().manual_seed(2)).requires_grad_()
        (quantizer.learn(latent).codes * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
        gradients[name] = latent.grad
    straight = torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(50, 4)
    torch.testing.assert_close(gradients["straight"], straight)
    assert gradients["vq"] is not None
    assert not torch.allclose(gradients["vq"], straight, atol=0.1)


def test_every_further_codebook_takes_error_away() -> None:
    points = torch.randn(2000, 4, generator=torch.Generator().manual_seed(5))
    quantizer = trained(replace(KINDS["residual"], quantizers=4), points=2000)
    ids = quantizer.ids_of(points)
    parts = [codebook[column] for codebook, column in zip(quantizer.codebooks, ids.T, strict=True)]
    errors = [float((points - torch.stack(parts[:n]).sum(0)).square().mean()) for n in range(1, 5)]
    assert all(later < 0.7 * earlier for earlier, later in itertools.pairwise(errors))


def test_entropy_rewards_sure_and_equal_bits() -> None:
    quantizer = make_quantizer(KINDS["lfq"], 6, synchronised=False)
    signs = torch.tensor(np.indices((2,) * 6).reshape(6, -1).T * 2.0 - 1)

    def entropy(latent: torch.Tensor) -> float:
        return float(quantizer.learn(latent.float()).entropy.mean())

    assert entropy(signs * 5) == pytest.approx(-6 * np.log(2), abs=1e-3)
    assert entropy(signs * 5) < entropy(signs * 0.1) - 1
    assert entropy(signs * 5) < entropy(signs.abs() * 5) - 1
    copies = signs[:, :1].expand(-1, 6)  # each bit is 0 and 1 equally often, but two codes are used of 64
    assert entropy(copies * 5) == pytest.approx(-np.log(2), abs=1e-3)


@pytest.mark.parametrize("name", ["fsq", "lfq"])
def test_fixed_levels_and_signs_start_in_use_wherever_the_numbers_lie(name: str) -> None:
    """Features far from 0, as ln(energy) + 1 of large deposits, and more latent dimensions than features."""
    torch.manual_seed(0)
    points = torch.randn(4000, 3) * torch.tensor([1.0, 0.5, 3.0]) + torch.tensor([8.0, -5.0, 0.0])
    layout = Layout.of(np.full(40, 100))
    network = VQVAE(replace(KINDS[name], network="mlp"), 3).eval()
    network.start(points)
    ids, latent = network.encode(points, layout)
    (codes,) = network.quantizer.streams
    assert len(ids.unique()) > 0.4 * codes
    assert perplexity(torch.bincount(ids[:, 0], minlength=codes).numpy()) > 0.2 * codes
    if name == "fsq":  # all that the levels leave out is known to the decoder
        torch.testing.assert_close(network.decoder(latent, layout), points, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantizer": "lfq", "codes": 100}, "--codes: must be a power of two for lfq, is 100"),
        ({"quantizer": "fsq", "levels": (8, 2)}, "--levels: must be at least 3 each, are 8 2"),
        ({"quantizer": "fsq", "levels": ()}, "--levels"),
        ({"quantizer": "residual", "quantizers": 0}, "--quantizers: must be at least 1"),
        ({"quantizer": "residual", "latent": 2}, "--latent: must be at least 3"),
    ],
)
def test_settings_that_cannot_work_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(HepfmError, match=message):
        replace(VQVAEConfig(), **changes).check(3)


@pytest.mark.parametrize("name", ["residual", "fsq", "lfq"])
def test_it_is_fitted_saved_and_applied(
    corpus: Corpus, fit_config: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    # The bits of lfq start as random planes, which take longer to become useful than a start by k-means.
    config = fit_config(corpus, tmp_path / "run", steps=150 if name == "lfq" else 20)
    main(replace(config, network=KINDS[name]))
    tokenizer = load_tokenizer(tmp_path / "run")
    assert [stream.codes for stream in tokenizer.streams] == list(KINDS[name].streams)
    tokens = apply(tmp_path / "run", corpus.path, tmp_path / "tokens")
    assert verify(tokens.path) == []
    source = next(iter(corpus.split("val")))
    block = next(iter(tokens.split("val"))).slice(0, len(source))
    made = tokenizer.encode(source).columns(tokenizer.streams)
    expected = ["tokens_0", "tokens_1", "tokens_2"] if name == "residual" else ["tokens"]
    assert [field for field in block.schema.names if field.startswith("tokens")] == expected == list(made)
    for column in expected:
        assert block.column(column).type.value_type == pa.uint8()
        assert block.column(column).to_pylist() == made[column].to_pylist()
    decoded = tokenizer.decode(tokenizer.encode(source).ids, tokenizer.encode(source).offsets)
    original = np.concatenate([jet["pt"] for jet in _points(source)])
    spread = np.abs(np.log(original) - np.log(original).mean()).mean()
    assert np.abs(np.log(decoded["pt"] / original)).mean() < 0.8 * spread


def _points(batch: pa.RecordBatch) -> list[dict[str, list[float]]]:
    return [{"pt": [point["pt"] for point in jet]} for jet in batch.column("constituents").to_pylist()]


def test_ids_of_several_streams_are_checked_each(
    corpus: Corpus, fit_config: Callable[..., Any], tmp_path: Path
) -> None:
    main(replace(fit_config(corpus, tmp_path / "run", steps=1), network=KINDS["residual"]))
    tokenizer = load_tokenizer(tmp_path / "run")
    offsets = np.array([0, 1, 2])
    with pytest.raises(HepfmError, match=r"1 token id 32 in record 1 is none of the tokenizer's \(0 to 31\)"):
        tokenizer.decode(np.array([[1, 2, 3], [1, 32, 3]]), offsets)
    with pytest.raises(HepfmError, match="2 ids a point, the tokenizer has 3"):
        tokenizer.decode(np.array([[1, 2], [1, 3]]), offsets)
