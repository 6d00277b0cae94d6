"""Probes: they learn what the features say, whatever way a batch is shared out, and touch nothing else."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hepfm.core.nn.ragged import Layout
from hepfm.pretrain.probe import KINDS, Probe, ProbeName

NAMES: tuple[ProbeName, ...] = ("linear", "class-attention")
WIDTH = 16


def jets(count: int, seed: int) -> tuple[torch.Tensor, Layout, torch.Tensor]:
    """Features of jets of three classes: one token of a jet, anywhere in it, tells its class."""
    draws = np.random.default_rng(seed)
    lengths, labels = draws.integers(1, 9, count), draws.integers(0, 3, count)
    layout = Layout.of(lengths)
    features = 0.3 * draws.normal(size=(layout.tokens, WIDTH))
    telling = np.cumsum(lengths) - lengths + (draws.random(count) * lengths).astype(int)
    features[telling, labels] += 3
    return torch.from_numpy(features).float(), layout, torch.from_numpy(labels)


@pytest.mark.parametrize("name", NAMES)
def test_learns_from_labelled_jets(name: ProbeName) -> None:
    probe = Probe(name, WIDTH, 3, 1e-2)
    features, layout, labels = jets(400, 0)
    first = probe(features, layout, labels, 0)
    for update in range(1, 120):
        probe(features, layout, labels, update)
    other = jets(400, 1)
    correct, loss = probe.eval()(*other)
    assert first[1][0] / first[1][1] == pytest.approx(np.log(3), rel=1e-3)  # begins without an opinion
    assert loss[0] / loss[1] < 0.6
    assert correct[0] / correct[1] > 0.8
    assert correct[1] == 400


@pytest.mark.parametrize("name", NAMES)
def test_judges_each_jet_by_itself(name: ProbeName) -> None:
    """Parity with a plain computation, jet by jet."""
    torch.manual_seed(0)
    shapes, logits = KINDS[name](WIDTH, 3)
    weights = {part: torch.randn(shape) for part, shape in shapes.items()}
    features, layout, _ = jets(20, 2)
    together = logits(weights, features, layout)
    for jet, (first, last) in enumerate(pairwise(layout.offsets.tolist())):
        own = features[first:last]
        if name == "linear":
            pooled = own.mean(0)
        else:
            key, value = own @ weights["key"].T, own @ weights["value"].T
            heads, inner = weights["query"].shape
            shares = (key.view(-1, heads, inner) * weights["query"]).sum(-1).softmax(0)
            pooled = (shares[..., None] * value.view(-1, heads, inner)).sum(0).flatten()
            pooled = F.layer_norm(pooled, pooled.shape)
        torch.testing.assert_close(together[jet], weights["out"] @ pooled + weights["bias"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_micro_batches_of_an_update_are_as_the_whole(name: ProbeName) -> None:
    features, layout, labels = jets(60, 3)
    cut = 25
    middle = int(layout.offsets[cut])
    lengths = np.diff(layout.offsets.numpy())
    whole, shared = Probe(name, WIDTH, 3, 1e-2), Probe(name, WIDTH, 3, 1e-2)
    for update in range(4):
        whole(features, layout, labels, update)
        shared(features[:middle], Layout.of(lengths[:cut]), labels[:cut], update)
        shared(features[middle:], Layout.of(lengths[cut:]), labels[cut:], update)
    assert whole.updates == shared.updates == 3  # the last is applied when another begins
    torch.testing.assert_close(whole.weights, shared.weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_its_adam_is_torchs(name: ProbeName) -> None:
    features, layout, labels = jets(61, 4)  # classes that are not balanced: no gradient is rounding alone
    probe = Probe(name, WIDTH, 3, 1e-2)
    reference = torch.nn.Parameter(probe.weights.clone())
    optimiser = torch.optim.Adam([reference], 1e-2)
    normed = F.layer_norm(features, (WIDTH,))
    for update in range(5):
        probe(features, layout, labels, update)
        if update < 4:  # the last is applied when another begins
            optimiser.zero_grad()
            F.cross_entropy(probe.logits(probe._parts(reference), normed, layout), labels).backward()
            optimiser.step()
    torch.testing.assert_close(probe.weights, reference.detach(), rtol=1e-4, atol=1e-5)


def test_unknown_labels_count_nowhere() -> None:
    features, layout, labels = jets(50, 5)
    probe, other = Probe("linear", WIDTH, 3, 1e-2), Probe("linear", WIDTH, 3, 1e-2)
    some = torch.where(torch.arange(50) < 30, labels, -1)
    kept = int(layout.offsets[30])
    for update in range(3):
        found = probe(features, layout, some, update)
        expected = other(features[:kept], Layout.of(np.diff(layout.offsets.numpy())[:30]), labels[:30], update)
        torch.testing.assert_close(found, expected)
    nothing = probe(features, layout, torch.full((50,), -1), 3)
    assert nothing[0].tolist() == [0, 0]
    assert torch.isfinite(probe.weights).all()


def test_features_get_no_gradient_and_nothing_is_a_parameter() -> None:
    features, layout, labels = jets(20, 6)
    features.requires_grad_()
    probe = Probe("class-attention", WIDTH, 3, 1e-2)
    state = torch.get_rng_state()
    probe(features, layout, labels, 0)
    assert features.grad is None
    assert not list(probe.parameters())
    assert torch.equal(torch.get_rng_state(), state)
