"""Numbers of hits of layers: their probabilities and draws from them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from hepfm.pretrain.hit_counts import CountHead
from hepfm.pretrain.streams import Profile

WIDTH, LEAST, MOST = 4, 0.5, 3
PROFILE = Profile(3, "", 1.0, 1.0, MOST, (0.0,) * 4, (1.0,) * 4, (-6.0,) * 4, (6.0,) * 4)
ENERGIES = torch.tensor([[2.0, 0.0, 1.1]], dtype=torch.float64)  # pays for 3, 0 and 2 hits


def head_of() -> CountHead:
    torch.manual_seed(3)
    head = CountHead(WIDTH, PROFILE, LEAST).double()
    with torch.no_grad():
        head.out.normal_()
    return head


def probability(head: CountHead, hits: tuple[int, ...], energies: torch.Tensor = ENERGIES) -> float:
    told = torch.ones(1, WIDTH, dtype=torch.float64)
    return math.exp(-head(told, energies, torch.tensor([hits], dtype=torch.float64)).item())


def test_probabilities_of_all_that_the_energies_pay_for_sum_to_one() -> None:
    head = head_of()
    every = {hits: probability(head, hits) for hits in itertools.product((1, 2, 3), (0,), (1, 2))}
    assert sum(every.values()) == pytest.approx(1)
    assert min(every.values()) > 0
    assert probability(head, (7, 0, 2)) == every[3, 0, 2]  # more than training had are the most
    assert probability(head, (3, 0, 3)) == every[3, 0, 2]  # and more than the energy pays for


def test_draws_come_as_often_as_they_are_probable() -> None:
    head, n = head_of(), 20000
    uniform = torch.from_numpy(np.random.default_rng(0).uniform(size=(n, 3)))
    made = head.draw(torch.ones(n, WIDTH, dtype=torch.float64), ENERGIES.expand(n, 3), uniform)
    for first, last in itertools.product((1, 2, 3), (1, 2)):
        share = ((made[:, 0] == first) & (made[:, 2] == last)).double().mean().item()
        assert share == pytest.approx(probability(head, (first, 0, last)), abs=0.015)
    assert not made[:, 1].any()
    coldest = head.draw(torch.ones(5, WIDTH, dtype=torch.float64), ENERGIES.expand(5, 3), uniform[:5], temperature=0.0)
    torch.testing.assert_close(coldest, coldest[:1].expand(5, 3))


def test_a_layer_knows_the_hits_of_those_before_it_only() -> None:
    head, told = head_of(), torch.randn(1, WIDTH, dtype=torch.float64)
    energies = torch.full((1, 3), 9.0, dtype=torch.float64)
    hits = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    logits = head._logits(told, energies, hits)
    for changed in range(3):
        other = hits.clone()
        other[:, changed] += 1
        differs = (head._logits(told, energies, other) - logits).abs().amax(-1)[0] > 1e-9
        assert differs.tolist() == [layer > changed for layer in range(3)]


def test_a_head_learns_how_hits_follow_energies() -> None:
    draws = np.random.default_rng(1)
    energies = torch.from_numpy(draws.uniform(2, 20, (4000, 3)))
    hits = torch.from_numpy(1.0 + draws.binomial(2, np.clip(energies.numpy() / 25, 0, 1)))
    torch.manual_seed(0)
    head = CountHead(WIDTH, PROFILE, LEAST)
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    for step in range(300):
        own = slice(step * 200 % 4000, step * 200 % 4000 + 200)
        loss = head(torch.zeros(200, WIDTH), energies[own], hits[own]) / 200
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    made = head.draw(torch.zeros(4000, WIDTH), energies, torch.from_numpy(draws.uniform(size=(4000, 3))))
    for low, high in ((2, 8), (8, 14), (14, 20)):
        own = (energies > low) & (energies < high)
        assert made[own].mean().item() == pytest.approx(hits[own].mean().item(), abs=0.1)
        assert made[own].std().item() == pytest.approx(hits[own].std().item(), rel=0.15)
