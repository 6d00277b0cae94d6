"""The energies of layers: their density, draws from it, and what training sees of them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from physics_tokens import shower_corpus, tokens_of
from scipy.stats import ks_2samp

from hepfm.pretrain.backbone import BackboneConfig
from hepfm.pretrain.conditions import Condition
from hepfm.pretrain.data import TokenCorpora
from hepfm.pretrain.energy_profile import EMPTY, REST, SOME, ProfileHead, kinds_of, logarithms, still_open
from hepfm.pretrain.energy_profile_counts import profiled
from hepfm.pretrain.stream_batches import counted
from hepfm.pretrain.streams import Profile, StreamBatch

WIDTH, LEAST = 8, 1e-3
SMALL = Profile(3, "", 1.0, 1.0, 1, (0.0, 0.5, -0.5, 0.0), (1.0, 0.8, 1.2, 1.0), (-6.0,) * 4, (6.0,) * 4)


def head_of(profile: Profile = SMALL, spread: float = 1.0) -> ProfileHead:
    torch.manual_seed(4)
    head = ProfileHead(WIDTH, profile, LEAST).double()
    with torch.no_grad():
        head.out.normal_(std=spread)
    return head


def with_hits(energies: torch.Tensor) -> torch.Tensor:
    """Profiles (n, 2, L) of energies (n, L): one hit in each layer that has some."""
    return torch.stack([energies, (energies > 0).to(energies)], 1)


def drawn(head: ProfileHead, n: int, seed: int = 0, temperature: float = 1.0) -> torch.Tensor:
    uniform = torch.from_numpy(np.random.default_rng(seed).uniform(size=(n, head.profile.parts + 1, 4)))
    told = torch.ones(n, WIDTH, dtype=torch.float64)
    made = head.draw(told, torch.full((n,), 2.0, dtype=torch.float64), uniform, temperature)
    torch.testing.assert_close(made, with_hits(made[:, 0]))
    return made[:, 0]


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
    profile = Profile(2, "", 1.0, 1.0, 1, (0.0,) * 3, (1.0,) * 3, (-3.0,) * 3, (3.0,) * 3)
    head, grid = head_of(profile, 0.3), torch.linspace(-3, 3, 301, dtype=torch.float64)
    totals, ratios = torch.meshgrid(grid, grid, indexing="ij")
    share = ratios.sigmoid()
    some = torch.stack([totals.exp() * share, totals.exp() * (1 - share)], -1).flatten(0, 1)
    nothing = torch.zeros_like(grid)

    def density(energies: torch.Tensor) -> torch.Tensor:
        told, scale = torch.ones(1, WIDTH, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        return torch.stack([-head(told, row[None], scale)[0] for row in with_hits(energies)]).exp()

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
    head = ProfileHead(WIDTH, Profile(3, "incident_energy", 3.0, 0.6, 1, *known), LEAST)
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    for step in range(150):
        own = slice(step * 200 % 4000, step * 200 % 4000 + 200)
        loss, count = head(torch.zeros(200, WIDTH), with_hits(energies[own]), torch.from_numpy(scale)[own])
        (loss / count).backward()
        optimizer.step()
        optimizer.zero_grad()
    uniform = torch.from_numpy(draws.uniform(size=(4000, 4, 4)))
    made = head.draw(torch.zeros(4000, WIDTH), torch.from_numpy(scale), uniform)[:, 0].numpy()
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
        told, scale = torch.ones(6000, WIDTH, dtype=torch.float64), torch.full((6000,), 2.0)
        surprise, count = head(told, with_hits(made), scale)
        others = head(told, with_hits(made.roll(1, 1)), scale)[0]
    assert int(count) == 6000
    assert float(surprise) < float(others)  # its own draws surprise it less than their mirror
    coldest = drawn(head, 50, temperature=0.0)
    torch.testing.assert_close(coldest, coldest[:1].expand(50, -1))


def test_records_without_energy_or_scale_do_not_count() -> None:
    head = head_of()
    energies = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    told = torch.ones(3, WIDTH, dtype=torch.float64)
    some, count = head(told, with_hits(energies), torch.tensor([1.0, 1.0, math.nan], dtype=torch.float64))
    alone, _ = head(told[:1], with_hits(energies[:1]), torch.ones(1, dtype=torch.float64))
    assert int(count) == 1
    assert some.item() == pytest.approx(alone.item())
    some.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in head.parameters())


def test_no_record_with_energy_is_no_loss() -> None:
    told = torch.ones(2, WIDTH, dtype=torch.float64)
    total, count = head_of()(told, torch.zeros(2, 2, 3, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    assert (total.item(), int(count)) == (0.0, 0)


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
    energies, energy, most = [], [], 0
    for batch in data.corpora[0].split("train"):
        layer, number = batch.column("tokens_layer"), batch.column("continuous")
        energy.append(batch.column("incident_energy").to_numpy(zero_copy_only=False))
        for row in range(len(batch)):
            at, value = np.array(layer[row].as_py(), int), np.exp(np.array(number[row].as_py()))
            energies.append([value[at == part].sum() for part in range(4)])
            most = max(most, int(np.bincount(at, minlength=1).max()))
    assert profile.most_hits == most
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
    assert batch.profile.shape == (20, 2, 4)
    assert len(batch.budget) == batch.layout.tokens
    other = dataclasses.replace(
        profile, means=(1.0,) * 5, stds=(2.0,) * 5, lows=(-99.0,) * 5, highs=(-98.0,) * 5, most_hits=999
    )
    grown = profiled(data, streams, (incident,), other)
    assert grown.profile is not None
    assert (grown.profile.means, grown.profile.stds, grown.profile.most_hits) == (profile.means, profile.stds, 999)
    assert grown.profile.lows == pytest.approx(
        [mean - 50 * std for mean, std in zip(profile.means, profile.stds, strict=True)]
    )
    assert grown.profile.highs == pytest.approx(profile.highs)
    assert grown.profile.total_mean == profile.total_mean
    assert BackboneConfig(6, streams=grown).streams == grown
