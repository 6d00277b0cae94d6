"""Networks and features on padded rectangles are those on packed jets, whatever the padding holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hepfm.finetune.deep_sets import DeepSets, DeepSetsConfig
from hepfm.finetune.export import INPUTS, reference_jets
from hepfm.finetune.inputs import FEATURE_SETS
from hepfm.finetune.padded import PADDED
from hepfm.finetune.padded_inputs import Preparation
from hepfm.finetune.particle_net import ParticleNet, ParticleNetConfig
from hepfm.finetune.particle_transformer import ParticleTransformer, ParticleTransformerConfig

SMALL = {"embed": (16, 16), "pair_embed": (8,), "heads": 2, "blocks": 2}


def networks() -> dict[str, tuple[str, nn.Module]]:
    return {
        "pair bias": ("particle-transformer", ParticleTransformer(ParticleTransformerConfig(**SMALL))),  # type: ignore[arg-type]
        "plain": (
            "particle-transformer",
            ParticleTransformer(ParticleTransformerConfig(**{**SMALL, "pair_embed": ()})),  # type: ignore[arg-type]
        ),
        "ParticleNet": (
            "particle-net",
            ParticleNet(ParticleNetConfig(convolutions=((8, 8), (16, 16)), neighbours=6, head=16)),
        ),
        "deep sets": ("deep-sets", DeepSets(DeepSetsConfig())),
    }


@pytest.mark.parametrize("name", networks())
@torch.no_grad()
def test_embeddings_are_those_of_packed_jets(name: str) -> None:
    torch.manual_seed(0)
    architecture, network = networks()[name]
    for parameter in network.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    features = FEATURE_SETS["full"]
    records, raw = reference_jets(features)
    prepared = Preparation(features)(*(torch.from_numpy(raw[name]) for name in INPUTS))
    expected = network.eval().embedding(features.read(records, "jets"))  # type: ignore[operator]
    found = PADDED[architecture](network)(*prepared)
    assert expected.abs().max() > 0.25
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FEATURE_SETS)
def test_features_and_vectors_are_those_of_records(name: str) -> None:
    features = FEATURE_SETS[name]
    records, raw = reference_jets(features)
    found, vectors, real = Preparation(features)(*(torch.from_numpy(raw[name]) for name in INPUTS))
    expected = features.read(records, "jets")
    torch.testing.assert_close(found[real], expected.features, rtol=0, atol=1e-6)
    assert torch.equal(vectors[real], expected.vectors)  # to the bit: masses of pairs are small differences of them


def test_padding_and_missing_tracks_may_hold_anything() -> None:
    features = FEATURE_SETS["sophon"]
    _, raw = reference_jets(features)
    preparation = Preparation(features)
    network = ParticleTransformer(ParticleTransformerConfig(**SMALL)).eval()  # type: ignore[arg-type]

    @torch.no_grad()
    def embedding(inputs: dict[str, np.ndarray]) -> torch.Tensor:
        return PADDED["particle-transformer"](network)(*preparation(*(torch.from_numpy(inputs[n]) for n in INPUTS)))

    other = {key: value.copy() for key, value in raw.items()}
    other["particles"][raw["mask"] == 0] = -7.0
    displacement = [preparation.columns.index(column) for column in ("d0", "d0err", "dz", "dzerr")]
    neutral = raw["particles"][:, :, preparation.columns.index("charge")] == 0
    for column in displacement:
        other["particles"][neutral & (raw["mask"] == 1), column] = np.nan
    assert torch.equal(embedding(other), embedding(raw))
