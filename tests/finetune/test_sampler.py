"""The sampler gives what full recomputation gives, and a seed the same samples however they are made."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from hepfm.core.draws import hashed_uniform, key_of
from hepfm.core.errors import HepfmError
from hepfm.core.nn.ragged import Layout
from hepfm.core.nn.transformer import TransformerConfig
from hepfm.finetune.sampler import Drawing, Sampled, generate, passed
from hepfm.pretrain.backbone import Backbone, BackboneConfig
from hepfm.pretrain.presets import PRESETS

CODES, MAX_LENGTH = 30, 20
KINDS = {
    "modern": TransformerConfig(width=32, blocks=2, heads=4),
    "omnijet-alpha": TransformerConfig(**{**vars(PRESETS["omnijet-alpha"].transformer), "width": 32, "heads": 4}),
}


def network(kind: str = "modern") -> Backbone:
    """Random weights, with a stop that comes now and then."""
    torch.manual_seed(5)
    backbone = Backbone(BackboneConfig(codes=CODES, transformer=KINDS[kind], head_bias=True)).eval()
    with torch.no_grad():
        backbone.embedding.weight.mul_(5)
        backbone.head.weight.mul_(3)
        assert backbone.head.bias is not None
        backbone.head.bias[backbone.stop] = 2.0
    return backbone


@torch.no_grad()
def recompute(backbone: Backbone, n: int, seed: int, drawing: Drawing, min_length: int = 1) -> list[list[int]]:
    """One sample after another, one full pass for each token, no cache."""
    key, samples = key_of("generate", seed), []
    for number in range(n):
        sample: list[int] = []
        while len(sample) < MAX_LENGTH:
            inputs = torch.tensor([backbone.start, *sample])
            logits = backbone(inputs, Layout.of(np.array([len(inputs)])))[-1:]
            logits[:, backbone.start] = -torch.inf
            if len(sample) < min_length:
                logits[:, backbone.stop] = -torch.inf
            uniform = torch.from_numpy(hashed_uniform(key, np.array([number]), np.array([len(sample)])))
            token = int(drawing.draw(logits, uniform))
            if token == backbone.stop:
                break
            sample.append(token)
        samples.append(sample)
    return samples


def lists(sampled: Sampled) -> list[list[int]]:
    return [sampled.tokens[first:last].tolist() for first, last in itertools.pairwise(sampled.offsets)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("drawing", [Drawing(0.0), Drawing(), Drawing(0.7, top_k=9), Drawing(1.3, top_p=0.8)], ids=str)
def test_equals_full_recompute(kind: str, drawing: Drawing) -> None:
    backbone = network(kind).double()
    sampled = generate(backbone, 40, seed=3, max_length=MAX_LENGTH, batch=16, drawing=drawing)
    expected = recompute(backbone, 40, 3, drawing)
    assert lists(sampled) == expected
    assert sampled.hit_maximum == sum(len(sample) == MAX_LENGTH for sample in expected)


def test_minimum_and_maximum_length_are_kept() -> None:
    backbone = network().double()
    sampled = generate(backbone, 60, seed=1, max_length=MAX_LENGTH, min_length=4)
    assert lists(sampled) == recompute(backbone, 60, 1, Drawing(), min_length=4)
    lengths = np.diff(sampled.offsets)
    assert lengths.min() == 4
    assert lengths.max() == MAX_LENGTH


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_the_same_samples_whatever_the_batch_size(kind: str) -> None:
    backbone = network(kind)
    reference = lists(generate(backbone, 400, seed=2, max_length=MAX_LENGTH, batch=256))
    for batch, n in ((1, 40), (7, 40), (64, 400), (400, 400)):
        assert lists(generate(backbone, n, seed=2, max_length=MAX_LENGTH, batch=batch)) == reference[:n]


def test_parts_are_the_same_samples_as_the_whole() -> None:
    backbone = network()
    whole = lists(generate(backbone, 90, seed=2, max_length=MAX_LENGTH))
    parts = [generate(backbone, 30, seed=2, max_length=MAX_LENGTH, first=first) for first in (0, 30, 60)]
    assert [sample for part in parts for sample in lists(part)] == whole


def test_seeds_differ_and_samples_too() -> None:
    backbone = network()
    one, other = (lists(generate(backbone, 50, seed=seed, max_length=MAX_LENGTH)) for seed in (1, 2))
    assert one != other
    assert len({tuple(sample) for sample in one}) > 25


def test_only_codes_come_out() -> None:
    sampled = generate(network(), 300, seed=0, max_length=MAX_LENGTH)
    assert sampled.tokens.max() < CODES
    assert np.diff(sampled.offsets).min() >= 1


def test_only_the_ids_of_one_tokenizer_come_where_several_share_a_vocabulary() -> None:
    backbone = network().double()
    sampled = generate(backbone, 60, seed=1, max_length=MAX_LENGTH, ids=(10, 12))
    assert sampled.tokens.max() < 12
    assert len(np.unique(sampled.tokens)) > 6
    masked = network().double()
    with torch.no_grad():
        assert masked.head.bias is not None
        masked.head.bias[:10] = masked.head.bias[22:CODES] = -torch.inf
    assert [[token + 10 for token in sample] for sample in lists(sampled)] == recompute(masked, 60, 1, Drawing())


@torch.no_grad()
def test_what_samples_are_told_goes_with_them_through_the_batch() -> None:
    """Each sample is as if it were alone with what it is told."""
    backbone = network().double()
    begin = torch.randn(70, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = lists(generate(backbone, 70, seed=4, max_length=MAX_LENGTH, batch=16, begin=begin))
    alone = [generate(backbone, 1, 4, max_length=MAX_LENGTH, first=n, begin=begin[n : n + 1]) for n in range(70)]
    assert together == [sample for one in alone for sample in lists(one)]
    assert together != lists(generate(backbone, 70, seed=4, max_length=MAX_LENGTH, batch=16))


def test_nothing_wanted_is_nothing() -> None:
    sampled = generate(network(), 0, seed=0, max_length=MAX_LENGTH)
    assert len(sampled.tokens) == sampled.hit_maximum == 0
    assert sampled.offsets.tolist() == [0]


def test_frequencies_follow_the_probabilities() -> None:
    logits = torch.tensor([[0.0, 1.0, -torch.inf, 2.0]]).expand(40_000, 4)
    uniform = torch.from_numpy(hashed_uniform(1, np.arange(40_000)))
    counts = np.bincount(Drawing().draw(logits, uniform).numpy(), minlength=4)
    assert counts[2] == 0
    expected = np.exp([0.0, 1.0, 2.0])
    assert chisquare(counts[[0, 1, 3]], 40_000 * expected / expected.sum()).pvalue > 1e-4


@pytest.mark.parametrize("uniform", [0.0, np.nextafter(1, 0)])
def test_an_impossible_token_is_never_drawn(uniform: float) -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]])
    assert int(Drawing().draw(logits, torch.tensor([uniform], dtype=torch.float64))) == (1 if uniform == 0 else 2)


@pytest.mark.parametrize("n", [1025, 1280, 8194])
def test_of_many_the_one_at_which_the_cumulative_weight_passes_is_found(n: int) -> None:
    """By blocks as by one sum over all, with blocks and ends of no weight at all; a row is what it is alone."""
    draws = np.random.default_rng(n)
    weights = draws.gamma(0.3, size=(400, n)).astype(np.float32)
    weights[draws.uniform(size=weights.shape) < 0.5] = 0
    weights[:, 100:450] = weights[:, -300:] = 0
    uniform = np.concatenate([[0, np.nextafter(1, 0)], draws.uniform(size=398)])
    found = passed(torch.from_numpy(weights), torch.from_numpy(uniform)).numpy()
    shares = weights.astype(np.float64).cumsum(1)
    shares /= shares[:, -1:]
    rows = np.arange(400)
    assert (weights[rows, found] > 0).all()
    assert (shares[rows, found] > uniform - 1e-6).all()
    assert (shares[rows, found] - weights[rows, found] / weights.sum(1) < uniform + 1e-6).all()
    for rows in (1, 16, 240):
        again = passed(torch.from_numpy(weights[:rows].copy()), torch.from_numpy(uniform[:rows]))
        assert again.tolist() == found[:rows].tolist()


def test_top_k_and_top_p_keep_the_most_probable() -> None:
    logits = torch.log(torch.tensor([[0.1, 0.4, 0.2, 0.3]])).expand(2000, 4)
    uniform = torch.from_numpy(hashed_uniform(1, np.arange(2000)))
    assert set(Drawing(top_k=2).draw(logits, uniform).tolist()) == {1, 3}
    assert set(Drawing(top_p=0.65).draw(logits, uniform).tolist()) == {1, 3}
    assert set(Drawing(top_p=0.75).draw(logits, uniform).tolist()) == {1, 2, 3}
    assert set(Drawing(top_p=1e-6).draw(logits, uniform).tolist()) == {1}


@pytest.mark.parametrize(("option", "value"), [("temperature", -1.0), ("top_k", 0), ("top_p", 0.0), ("top_p", 1.5)])
def test_impossible_settings_are_named(option: str, value: float) -> None:
    with pytest.raises(HepfmError, match=option.replace("_", "-")):
        Drawing(**{option: value})  # type: ignore[arg-type]
