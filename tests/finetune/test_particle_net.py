"""ParticleNet on packed jets is the published network on padded ones, and its weights are imported."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from labelled_jets import labelled_corpus
from weaver_jets import padded, random_inputs, saved

from hepfm import models
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.errors import HepfmError
from hepfm.core.nn.ragged import Layout
from hepfm.core.torch_files import read_checkpoint
from hepfm.finetune.inputs import JetInputs
from hepfm.finetune.particle_net import ParticleNet, ParticleNetConfig, nearest
from hepfm.finetune.particle_net_weights import read_network
from hepfm.finetune.tag import TagConfig, main
from hepfm.ingest.corpus import Corpus

LENGTHS = [1, 2, 16, 17, 40, 80, 3, 128, 18]
PUBLISHED = {
    "conv_params": [(16, (64,) * 3), (16, (128,) * 3), (16, (256,) * 3)],
    "fc_params": [(256, 0.1)],
    "use_fusion": False,
}
LIGHT = {"conv_params": [(7, (32,) * 3), (7, (64,) * 3)], "fc_params": [(128, 0.1)], "use_fusion": False}


def weaver_network(**settings: Any) -> torch.nn.Module:
    from weaver.nn.model.ParticleNet import ParticleNet as Published

    logging.getLogger("weaver").setLevel(logging.ERROR)
    torch.manual_seed(0)
    network = Published(17, 10, **settings)
    for parameter in network.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.3)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return network.eval()


def test_its_size_is_the_published_one() -> None:
    assert sum(parameter.numel() for parameter in ParticleNet(ParticleNetConfig()).parameters()) == 370_156


@pytest.mark.parametrize("settings", [PUBLISHED, LIGHT], ids=["JetClass", "light"])
def test_outputs_are_weavers(settings: dict[str, Any], tmp_path: Path) -> None:
    theirs = weaver_network(**settings)
    found = read_network(read_checkpoint(saved(theirs, tmp_path / "weights.pt")))
    inputs = random_inputs(LENGTHS)
    features, _, mask = padded(inputs, 128)
    with torch.no_grad():
        expected = theirs(features[:, -2:].contiguous(), features, mask.bool())
        ours = found.network(inputs)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_neighbours_are_the_nearest_others_of_the_jet() -> None:
    inputs = random_inputs([1, 3, 30, 5])
    places = inputs.features[:, -2:]
    found = nearest(places, inputs.layout, 6)
    for first, last in itertools.pairwise(inputs.layout.offsets.tolist()):
        distance = torch.cdist(places[first:last].double(), places[first:last].double())
        order = distance.argsort(1)[:, 1:7] + first
        own = found[first:last]
        assert torch.equal(own[:, : order.shape[1]], order)
        assert (own[:, order.shape[1] :] == len(places)).all()


@torch.no_grad()
def test_a_jets_outputs_do_not_depend_on_its_neighbours_or_their_order() -> None:
    torch.manual_seed(0)
    network = ParticleNet(ParticleNetConfig(convolutions=((8, 8), (16, 16)), neighbours=4, head=8)).eval()
    together = random_inputs(LENGTHS)
    found = network(together)
    for jet, (first, last) in enumerate(itertools.pairwise(together.layout.offsets.tolist())):
        turned = torch.randperm(last - first) + first
        alone = JetInputs(together.features[turned], together.vectors[turned], Layout.of([last - first]))
        torch.testing.assert_close(network(alone)[0], found[jet], rtol=0, atol=1e-5)


def test_gradients_reach_every_weight() -> None:
    torch.manual_seed(0)
    network = ParticleNet(ParticleNetConfig(convolutions=((8, 8), (16, 16)), neighbours=4, head=8)).train()
    network(random_inputs([5, 9, 1])).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


def test_the_command_trains_it_and_its_artifact_loads(tmp_path: Path) -> None:
    corpus = labelled_corpus(tmp_path / "corpus", jets=60)
    training = TrainingConfig(steps=2, batch_records=16, warmup_steps=1, validation_records=16)
    main(TagConfig((corpus,), tmp_path / "run", model="particle-net", labels=("QCD", "Hbb"), training=training))
    tagger, artifact = models.load(tmp_path / "run")
    assert artifact.metrics()["parameters"] == 370_156 - 8 * 257  # two classes in place of ten
    records = Corpus.open(corpus).split("test").read(0)
    assert tagger.embedding(records).shape == (len(records), 256)


def test_weights_are_imported_by_the_command(tmp_path: Path) -> None:
    weights = saved(weaver_network(**LIGHT), tmp_path / "weights.pt")
    models.import_model(models.ImportConfig(weights, tmp_path / "tagger"))
    tagger, artifact = models.load(tmp_path / "tagger")
    assert (tagger.architecture, tagger.classes[1]) == ("particle-net", "Hbb")
    assert "GELU" not in (artifact.path / "README.md").read_text()


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    for settings, message in (
        ({**LIGHT, "use_fusion": True}, "unexpected key: 'mod.fusion_block.0.weight'"),
        ({**LIGHT, "conv_params": [(7, (32, 32)), (7, (64,) * 3)]}, "widths"),
    ):
        path = saved(weaver_network(**settings), tmp_path / "weights.pt")
        with pytest.raises(HepfmError, match=message):
            read_network(read_checkpoint(path))
