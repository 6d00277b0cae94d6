"""The energies of layers: their density, draws from it, and what is left of them while hits are made."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from physics_tokens import shower_corpus, tokens_of
from scipy.stats import ks_2samp

from hepfm.pretrain.backbone import BackboneConfig
from hepfm.pretrain.budget import figures, matched, packed_budget
from hepfm.pretrain.conditions import Condition
from hepfm.pretrain.data import TokenCorpora
from hepfm.pretrain.energy_profile import EMPTY, REST, SOME, ProfileHead, kinds_of, logarithms, still_open
from hepfm.pretrain.energy_profile_counts import profiled
from hepfm.pretrain.stream_batches import counted
from hepfm.pretrain.streams import Profile, StreamBatch

WIDTH = 8
SMALL = Profile(3, "", 1.0, 1.0, (0.0, 0.5, -0.5, 0.0), (1.0, 0.8, 1.2, 1.0), (-6.0,) * 4, (6.0,) * 4)


def head_of(profile: Profile = SMALL, spread: float = 1.0) -> ProfileHead:
    torch.manual_seed(4)
    head = ProfileHead(WIDTH, profile).double()
    with torch.no_grad():
        head.out.normal_(std=spread)
    return head


def drawn(head: ProfileHead, n: int, seed: int = 0, temperature: float = 1.0) -> torch.Tensor:
    uniform = torch.from_numpy(np.random.default_rng(seed).uniform(size=(n, head.profile.parts + 1, 3)))
    told = torch.ones(n, WIDTH, dtype=torch.float64)
    return head.draw(told, torch.full((n,), 2.0, dtype=torch.float64), uniform, temperature)


def test_what_layers_have_is_told_from_what_comes_after() -> None:
    energies = torch.tensor([[1.0, 2.0, 5.0], [0.0, 3.0, 0.0], [4.0, 0.0, 4.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    raw = logarithms(energies, torch.tensor([4.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    expected = [[math.log(2), math.log(1 / 7), math.log(2 / 5)], [math.log(3)], [math.log(8), 0.0], []]
    assert [row[row.isfinite()].tolist() for row in raw] == [pytest.approx(row) for row in expected]
    assert kinds_of(energies).tolist() == [
        [SOME, SOME, REST],
        [EMPTY, REST, EMPTY],
        [SOME, EMPTY, REST],
        [EMPTY, EMPTY, EMPTY],
    ]
    assert still_open(energies).tolist() == [
        [True, True, False],
        [True, True, False],
        [True, True, False],
        [False, False, False],
    ]


def test_a_later_layer_changes_nothing_that_an_earlier_one_is_told() -> None:
    head, told = head_of(), torch.randn(1, WIDTH, dtype=torch.float64)
    seen = torch.randn(1, 4, 3, dtype=torch.float64)
    logits, mixture = head._found(told, seen)
    for changed in range(4):
        other = seen.clone()
        other[:, changed] += 1
        moved, further = head._found(told, other)
        differs = (moved - logits).abs().amax(-1)[0] + (further.centres - mixture.centres).abs().amax(-1)[0] > 1e-9
        assert differs.tolist() == [target > changed for target in range(4)]


def test_the_density_sums_to_one() -> None:
    """Over what the first of two layers has: a share of the total, none, all; and over the total."""
    profile = Profile(2, "", 1.0, 1.0, (0.0,) * 3, (1.0,) * 3, (-3.0,) * 3, (3.0,) * 3)
    head, grid = head_of(profile, 0.3), torch.linspace(-3, 3, 301, dtype=torch.float64)
    totals, ratios = torch.meshgrid(grid, grid, indexing="ij")
    share = ratios.sigmoid()
    some = torch.stack([totals.exp() * share, totals.exp() * (1 - share)], -1).flatten(0, 1)
    nothing = torch.zeros_like(grid)

    def density(energies: torch.Tensor) -> torch.Tensor:
        told, scale = torch.ones(1, WIDTH, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        return torch.stack([-head(told, row[None], scale)[0] for row in energies]).exp()

    with torch.no_grad():
        thinned = some.unflatten(0, (301, 301))[::15, ::15].flatten(0, 1)  # 21 x 21 for a trapezoidal sum
        both = torch.trapezoid(torch.trapezoid(density(thinned).unflatten(0, (21, 21)), dx=0.3), dx=0.3)
        first = torch.trapezoid(density(torch.stack([grid.exp(), nothing], -1)[::15]), dx=0.3)
        second = torch.trapezoid(density(torch.stack([nothing, grid.exp()], -1)[::15]), dx=0.3)
    assert float(both + first + second) == pytest.approx(1, abs=0.02)


def test_a_head_learns_a_response_and_its_width() -> None:
    """Total 0.5 +- 1% of the scale, layers that share it: the sum is held although each layer varies by a third."""
    draws = np.random.default_rng(1)
    total = 0.5 * draws.normal(1, 0.01, 4000) * (scale := draws.uniform(10, 100, 4000))
    shares = draws.dirichlet([6, 10, 4], 4000)
    energies = torch.from_numpy(total[:, None] * shares)
    raw = logarithms(energies, torch.from_numpy(scale)).numpy()[:, :3]
    pad = (0.0,), (1.0,), (-1.0,), (1.0,)
    known = [tuple(part(raw, axis=0).tolist()) + end for part, end in zip((np.mean, np.std, np.min, np.max), pad)]  # noqa: B905
    torch.manual_seed(0)
    head = ProfileHead(WIDTH, Profile(3, "incident_energy", 3.0, 0.6, *known))
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    for step in range(150):
        own = slice(step * 200 % 4000, step * 200 % 4000 + 200)
        loss, count = head(torch.zeros(200, WIDTH), energies[own], torch.from_numpy(scale)[own])
        (loss / count).backward()
        optimizer.step()
        optimizer.zero_grad()
    uniform = torch.from_numpy(draws.uniform(size=(4000, 4, 3)))
    made = head.draw(torch.zeros(4000, WIDTH), torch.from_numpy(scale), uniform).numpy()
    response = made.sum(1) / scale
    assert response.mean() == pytest.approx(0.5, rel=0.002)
    assert response.std() == pytest.approx(0.005, rel=0.25)
    for layer in range(3):
        assert ks_2samp(made[:, layer] / made.sum(1), shares[:, layer]).statistic < 0.06
    assert np.corrcoef(made[:, 0] / made.sum(1), made[:, 1] / made.sum(1))[0, 1] < -0.5


def test_draws_follow_the_density_and_the_temperature() -> None:
    head = head_of()
    made = drawn(head, 6000)
    kinds = kinds_of(made)
    assert (made >= 0).all()
    assert (made.sum(1) > 0).all()
    assert len({tuple(row) for row in kinds.tolist()}) > 3
    raw = logarithms(made, torch.full((6000,), 2.0, dtype=torch.float64))
    assert raw[:, 0].min() >= -6
    assert raw[:, 0].max() <= 6
    with torch.no_grad():
        surprise, count = head(torch.ones(6000, WIDTH, dtype=torch.float64), made, torch.full((6000,), 2.0))
        others = head(torch.ones(6000, WIDTH, dtype=torch.float64), made.roll(1, 1), torch.full((6000,), 2.0))[0]
    assert int(count) == 6000
    assert float(surprise) < float(others)  # its own draws surprise it less than their mirror
    coldest = drawn(head, 50, temperature=0.0)
    torch.testing.assert_close(coldest, coldest[:1].expand(50, -1))


def test_records_without_energy_or_scale_do_not_count() -> None:
    head = head_of()
    energies = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    told = torch.ones(3, WIDTH, dtype=torch.float64)
    some, count = head(told, energies, torch.tensor([1.0, 1.0, math.nan], dtype=torch.float64))
    alone, _ = head(told[:1], energies[:1], torch.ones(1, dtype=torch.float64))
    assert int(count) == 1
    assert some.item() == pytest.approx(alone.item())
    some.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in head.parameters())


@settings(max_examples=40)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 2), st.integers(1, 4), st.integers(0, 99))
def test_what_is_left_is_counted_from_what_has_been_read(
    lengths: list[int], wait: int, further: int, seed: int
) -> None:
    """At each position, from the points whose layer or energy lies at earlier ones; layers in any order."""
    draws, waits, least = np.random.default_rng(seed), (wait, wait + further), 0.3
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    layers, energies = draws.integers(0, 3, offsets[-1]), draws.uniform(0.3, 4, offsets[-1])
    profile = np.stack([np.bincount(layers[a:b], energies[a:b], 3) for a, b in itertools.pairwise(offsets)])
    sizes = [length + max(waits) for length in lengths]
    begins = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    found = packed_budget(layers, energies, offsets, profile, begins, sum(sizes), waits, least)
    expected = np.zeros_like(found)
    for record, length in enumerate(lengths):
        own = slice(offsets[record], offsets[record + 1])
        layer, energy = layers[own], energies[own]
        for position in range(sizes[record]):
            read = energy[: max(position - waits[1], 0)]
            for place, point in ((0, position - waits[1]), (3, position - waits[0] - 1)):
                if 0 <= point < length:
                    whole = profile[record, layer[point]]
                    spent = read[layer[: len(read)] == layer[point]].sum()
                    hits = (layer[:point] == layer[point]).sum() + (place == 3)
                    row = figures(np.array([whole]), np.array([spent]), np.array([hits]), least)
                    expected[begins[record] + position, place : place + 3] = row
    np.testing.assert_allclose(found, expected, atol=1e-5)


@given(st.integers(0, 1000))
def test_matched_energies_sum_to_the_layers_and_keep_the_threshold(seed: int) -> None:
    draws, least = np.random.default_rng(seed), 0.3
    counts = draws.integers(0, 12, 4)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    layers, energies = draws.integers(0, 3, offsets[-1]), least + draws.exponential(1, offsets[-1])
    group = np.repeat(np.arange(4), counts) * 3 + layers
    hits = np.bincount(group, minlength=12)
    profile = (hits * draws.uniform(0.1, 3, 12)).reshape(4, 3)
    made = matched(energies, layers, offsets, profile, least)
    np.testing.assert_allclose(np.bincount(group, made, 12), profile.ravel(), rtol=1e-9)
    pays = profile.ravel() >= hits * least
    assert (made[pays[group]] >= least * (1 - 1e-12)).all()
    for own in range(12):
        assert (
            np.argsort(made[group == own], kind="stable") == np.argsort(energies[group == own], kind="stable")
        ).all()


@pytest.fixture(scope="module")
def showers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("profile")
    return tokens_of(shower_corpus(folder / "calo"), folder, "--tokenizer=cells")


def test_the_corpus_says_what_layers_have(showers: Path) -> None:
    data = TokenCorpora.open([showers])
    assert data.streams is not None
    incident = Condition("incident_energy", "number", "incident_energy", low=1.0, high=100.0)
    streams = profiled(data, counted(data, data.streams), (incident,))
    profile = streams.profile
    assert profile is not None
    assert (profile.parts, profile.scale) == (4, "incident_energy")
    energies, energy = [], []
    for batch in data.corpora[0].split("train"):
        layer, number = batch.column("tokens_layer"), batch.column("continuous")
        energy.append(batch.column("incident_energy").to_numpy(zero_copy_only=False))
        for row in range(len(batch)):
            at, value = np.array(layer[row].as_py(), int), np.exp(np.array(number[row].as_py()))
            energies.append([value[at == part].sum() for part in range(4)])
    table, total = np.array(energies), np.sum(energies, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        response = np.log(total / np.concatenate(energy))
        second = np.log(table[:, 1] / table[:, 2:].sum(1))
    second = second[np.isfinite(second)]
    assert (profile.total_mean, profile.total_std) == pytest.approx(
        (np.log(total).mean(), np.log(total).std()), rel=1e-4
    )
    assert (profile.means[0], profile.stds[0]) == pytest.approx((response.mean(), response.std()), rel=1e-4)
    assert (profile.means[2], profile.stds[2]) == pytest.approx((second.mean(), second.std()), rel=1e-4)
    assert profile.lows[2] == pytest.approx(second.min(), abs=0.01)
    batch = data.batches("train", 100, 0, streams=streams).batch(0, 20)
    assert isinstance(batch, StreamBatch)
    assert batch.profile is not None
    assert batch.budget is not None
    assert batch.profile.shape == (20, 4)
    assert len(batch.budget) == batch.layout.tokens
    grown = profiled(data, streams, (incident,), dataclasses.replace(profile, lows=(-99.0,) * 5, highs=(0.0,) * 5))
    assert grown.profile is not None
    assert grown.profile.lows == (-99.0,) * 5
    assert grown.profile.means == profile.means
    assert BackboneConfig(6, streams=grown).streams == grown
