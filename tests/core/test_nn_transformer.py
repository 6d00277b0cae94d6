"""The transformer: ragged input, published variants, and the KV cache that changes nothing but the time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from hepfm.core.nn.ragged import Layout
from hepfm.core.nn.transformer import Transformer, TransformerConfig

SMALL = TransformerConfig(width=32, blocks=2, heads=4)
VARIANTS = {
    "modern": SMALL,
    "post-norm": dataclasses.replace(
        SMALL, mlp="relu", mlp_ratio=4.0, norm="layernorm", norm_position="post", final_norm=False, positions="none"
    ),
    "biased": dataclasses.replace(SMALL, mlp="gelu", norm="layernorm", qkv_bias=True, bias=True),
    "silu": dataclasses.replace(SMALL, mlp="silu", mlp_ratio=1.0),
}


def network(name: str, **changes: object) -> Transformer:
    torch.manual_seed(3)
    return Transformer(dataclasses.replace(VARIANTS[name], **changes)).double()


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("causal", [True, False])
def test_a_sequence_does_not_see_its_batch(name: str, causal: bool) -> None:
    net = network(name, causal=causal)
    lengths = np.array([7, 0, 1, 12, 3])
    x = torch.randn(lengths.sum(), 32, dtype=torch.float64)
    together = net(x, Layout.of(lengths))
    alone = [net(part, Layout.of(np.array([len(part)]))) for part in x.split(lengths.tolist())]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("name", VARIANTS)
def test_causal_output_ignores_what_follows(name: str) -> None:
    net = network(name)
    x = torch.randn(9, 32, dtype=torch.float64)
    torch.testing.assert_close(
        net(x, Layout.of(np.array([9])))[:5], net(x[:5], Layout.of(np.array([5]))), msg="the future leaks"
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_cached_steps_equal_full_recompute(name: str) -> None:
    """Rows start at different times and one is replaced halfway: each step equals the last token of a full pass."""
    net = network(name)
    rows, steps = 4, 12
    cache = net.new_cache(rows, steps)
    history: list[list[torch.Tensor]] = [[] for _ in range(rows)]
    for step in range(steps):
        if step == 3:
            cache.restart(torch.tensor([True, False, False, True]))
            history[0], history[3] = [], []
        if step == 7:
            cache.restart(torch.tensor([2]))
            history[2] = []
        if step == 9:
            cache.keep(torch.tensor([3, 2]))
            history = [history[3], history[2]]
        new = torch.randn(len(history), 32, dtype=torch.float64)
        given = net.step(new, cache)
        for row, sequence in enumerate(history):
            sequence.append(new[row])
            full = net(torch.stack(sequence), Layout.of(np.array([len(sequence)])))
            torch.testing.assert_close(given[row], full[-1])


def test_a_full_cache_is_refused() -> None:
    net = network("modern")
    cache = net.new_cache(1, 2)
    for _ in range(2):
        net.step(torch.zeros(1, 32, dtype=torch.float64), cache)
    with pytest.raises(ValueError, match="full"):
        net.step(torch.zeros(1, 32, dtype=torch.float64), cache)


def test_a_bidirectional_network_has_no_steps() -> None:
    net = network("modern", causal=False)
    with pytest.raises(ValueError, match="causal"):
        net.step(torch.zeros(1, 32, dtype=torch.float64), net.new_cache(1, 2))


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of heads"):
        TransformerConfig(width=30, heads=4)


def test_no_tokens_at_all() -> None:
    net = network("modern")
    given = net(torch.zeros(0, 32, dtype=torch.float64), Layout.of(np.array([0, 0])))
    assert given.shape == (0, 32)
    given.sum().backward()


def test_bf16_autocast_is_close_to_single_precision() -> None:
    net = network("modern").float()
    lengths = np.array([7, 30, 1, 12])
    x, layout = torch.randn(lengths.sum(), 32), Layout.of(lengths)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(x, layout)
    torch.testing.assert_close(half.float(), net(x, layout), atol=0.1, rtol=0.1)


@pytest.mark.parametrize("name", ["modern", "post-norm"])
def test_activations_computed_again_give_the_same_gradients_from_less_memory(name: str) -> None:
    net = network(name, dropout=0.1)
    layout = Layout.of(np.array([7, 1, 12]))
    x = torch.randn(20, 32, dtype=torch.float64)
    found = []
    for net.recompute in (False, True):
        kept: list[int] = []
        torch.manual_seed(5)
        net.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.nbytes) or t, lambda t: t):
            loss = net(x, layout).square().sum()
        loss.backward()
        found.append((sum(kept), loss, [weight.grad for weight in net.parameters()]))
    (plain, loss, gradients), (less, again, same) = found
    assert torch.equal(loss, again)
    assert all(map(torch.equal, gradients, same))
    assert less < plain / 2
