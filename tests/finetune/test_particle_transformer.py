"""The network on packed jets is the published one on padded jets."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from weaver_jets import SMALL, padded, random_inputs, saved, weaver_network

from hepfm.core.errors import HepfmError
from hepfm.core.nn.ragged import Layout
from hepfm.core.torch_files import read_checkpoint
from hepfm.finetune.inputs import JetInputs
from hepfm.finetune.pair_bias import Pairs, pair_features
from hepfm.finetune.particle_transformer import ParticleTransformer, ParticleTransformerConfig
from hepfm.finetune.weaver_weights import read_network

LENGTHS = [1, 3, 40, 17, 80, 2, 128, 41, 39, 1]


def test_sizes_are_the_published_ones() -> None:
    def count(config: ParticleTransformerConfig) -> int:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in ParticleTransformer(config).parameters())

    assert count(ParticleTransformerConfig()) == 2_143_486
    assert count(ParticleTransformerConfig(classes=188, head=(512,))) == 2_304_688


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_classes": 188, "fc_params": [(512, 0.1)]},
        SMALL,
        {**SMALL, "use_pre_activation_pair": True},
        {**SMALL, "pair_embed_dims": None},
    ],
    ids=["JetClass", "Sophon", "small", "no activation of pairs", "plain"],
)
def test_outputs_are_weavers(settings: dict, tmp_path: Path) -> None:
    theirs = weaver_network(**settings)
    found = read_network(
        read_checkpoint(saved(theirs, tmp_path / "weights.pt")),
        pair_activation=not settings.get("use_pre_activation_pair", False),
    )
    inputs = random_inputs(LENGTHS)
    features, vectors, mask = padded(inputs, 128)
    with torch.no_grad():
        expected = theirs(features, v=vectors, mask=mask)
        ours = found.network(inputs)
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(ours.softmax(1), expected.softmax(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(ours, expected, rtol=0, atol=3e-5)


def test_a_training_step_is_weavers_without_dropout(tmp_path: Path) -> None:
    free = {"dropout": 0, "attn_dropout": 0, "activation_dropout": 0}
    theirs = weaver_network(**SMALL, block_params=free, trim=False).train()
    start = read_network(read_checkpoint(saved(theirs, tmp_path / "weights.pt"))).network
    ours = ParticleTransformer(dataclasses.replace(start.config, dropout=0.0)).train()
    ours.load_state_dict(start.state_dict())
    inputs = random_inputs([20] * 6)  # of one length: with padding, theirs has it in its statistics
    targets = torch.arange(6)
    features, vectors, mask = padded(inputs, 20)
    losses = [
        F.cross_entropy(theirs(features, v=vectors, mask=mask), targets),
        F.cross_entropy(ours(inputs), targets),
    ]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-5)
    for loss in losses:
        loss.backward()
    # Gradients under their names here: another file, another import.
    for parameter in theirs.parameters():
        parameter.data.copy_(parameter.grad)
    gradients = dict(read_network(read_checkpoint(saved(theirs, tmp_path / "gradients.pt"))).network.named_parameters())
    for name, parameter in ours.named_parameters():
        scale = float(gradients[name].detach().norm()) + 1e-3
        assert float((parameter.grad - gradients[name].detach()).norm()) < 1e-3 * scale, name
    after = read_network(read_checkpoint(saved(theirs, tmp_path / "after.pt"))).network
    for name, buffer in after.named_buffers():
        torch.testing.assert_close(dict(ours.named_buffers())[name], buffer, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_jets_outputs_do_not_depend_on_its_neighbours_or_their_order() -> None:
    torch.manual_seed(0)
    network = ParticleTransformer(ParticleTransformerConfig(embed=(16, 16), pair_embed=(8,), heads=2, blocks=2)).eval()
    together = random_inputs(LENGTHS)
    found = network(together)
    offsets = together.layout.offsets.tolist()
    for jet, (first, last) in enumerate(itertools.pairwise(offsets)):
        alone = JetInputs(together.features[first:last], together.vectors[first:last], Layout.of([last - first]))
        torch.testing.assert_close(network(alone)[0], found[jet], rtol=0, atol=1e-5)
        turned = torch.randperm(last - first) + first
        shuffled = JetInputs(together.features[turned], together.vectors[turned], Layout.of([last - first]))
        torch.testing.assert_close(network(shuffled)[0], found[jet], rtol=0, atol=1e-4)


def test_pairs_are_all_of_a_jet_each_once_and_their_features_the_papers() -> None:
    inputs = random_inputs([4, 1, 7, 4])
    pairs = Pairs.of(inputs.layout)
    jet = np.repeat(np.arange(4), [4, 1, 7, 4])
    wanted = {(i, j) for i in range(16) for j in range(i + 1) if jet[i] == jet[j]}
    found = list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert set(found) == wanted
    assert len(found) == len(wanted)
    features = pair_features(inputs.vectors, pairs).numpy()
    px, py, pz, energy = inputs.vectors.double().numpy().T
    for (i, j), got in zip(found, features, strict=True):
        if i == j:
            continue
        rapidity = np.arctanh(pz / energy)
        dphi = np.angle(np.exp(1j * (np.arctan2(py[i], px[i]) - np.arctan2(py[j], px[j]))))
        distance = np.hypot(rapidity[i] - rapidity[j], dphi)
        pt = np.hypot(px, py)
        assert got[:3] == pytest.approx(
            [
                np.log(min(pt[i], pt[j]) * distance),
                np.log(min(pt[i], pt[j]) / (pt[i] + pt[j])),
                np.log(distance),
            ],
            abs=2e-3,
        )
        total = [part[i] + part[j] for part in (px, py, pz, energy)]
        mass_squared = total[3] ** 2 - total[0] ** 2 - total[1] ** 2 - total[2] ** 2
        # In single precision a difference of squares is known to about 1e-6 of them.
        assert np.exp(got[3]) == pytest.approx(mass_squared, abs=2e-6 * total[3] ** 2)


def test_gradients_reach_every_weight_and_dropout_changes_nothing_in_eval() -> None:
    torch.manual_seed(0)
    network = ParticleTransformer(
        ParticleTransformerConfig(embed=(16, 16), pair_embed=(8,), heads=2, blocks=1, head=(8,))
    )
    inputs = random_inputs([5, 9, 1])
    network.train()(inputs).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())
    before = network.eval()(inputs)
    assert torch.equal(before, network(inputs))


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_bfloat16_autocast_is_close_and_trains(dropout: float) -> None:
    torch.manual_seed(0)
    sizes = ParticleTransformerConfig(embed=(16, 16), pair_embed=(8,), heads=2, blocks=1, dropout=dropout)
    network = ParticleTransformer(sizes).eval()
    inputs = random_inputs([5, 9, 1])
    with torch.no_grad():
        exact = network(inputs)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(network(inputs).float(), exact, rtol=0.1, atol=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        network.train()(inputs).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state | {"mod.blocks.0.gate": torch.zeros(3)}, "unexpected keys: 'mod.blocks.0.gate'"),
        (lambda state: {k: v for k, v in state.items() if "blocks.1.fc2.bias" not in k}, "lacks the weight"),
        (lambda state: state | {"mod.blocks.0.fc1.bias": torch.zeros(3)}, r"'blocks.0.up.bias' here has shape \(3,\)"),
        (lambda state: state | {"mod.norm.bias": torch.full((16,), torch.nan)}, "'mod.norm.bias' has values"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(change: object, message: str, tmp_path: Path) -> None:
    state = {f"mod.{name}": value for name, value in weaver_network(**SMALL).state_dict().items()}
    torch.save(change(state), tmp_path / "weights.pt")  # type: ignore[operator]
    with pytest.raises(HepfmError, match=message):
        read_network(read_checkpoint(tmp_path / "weights.pt"))


def test_the_newer_versions_of_the_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match="version 1"):
        read_network(read_checkpoint(saved(weaver_network(**SMALL, version=2), tmp_path / "weights.pt")))
