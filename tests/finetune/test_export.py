"""An exported graph gives the tagger's scores and embedding; what cannot be exported is one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hepfm import cli
from hepfm.core.errors import HepfmError
from hepfm.finetune import export
from hepfm.finetune.boosted_tagger import TreesTagger, save_trees
from hepfm.finetune.boosted_trees import FEATURES, BoostedTreesConfig, Trees
from hepfm.finetune.deep_sets import DeepSets, DeepSetsConfig
from hepfm.finetune.export import (
    DESCRIPTION,
    GRAPH,
    INPUTS,
    README,
    REFERENCE,
    padded_inputs,
    reference_jets,
    run_graph,
)
from hepfm.finetune.inputs import FEATURE_SETS
from hepfm.finetune.particle_net import ParticleNet, ParticleNetConfig
from hepfm.finetune.particle_transformer import ParticleTransformer, ParticleTransformerConfig
from hepfm.finetune.sophon import LABELS
from hepfm.finetune.tagger import Tagger, save_tagger


def tagger(architecture: str, features: str) -> Tagger:
    torch.manual_seed(0)
    if architecture == "deep-sets":
        network: torch.nn.Module = DeepSets(DeepSetsConfig(classes=188))
    elif architecture == "particle-net":
        network = ParticleNet(ParticleNetConfig(classes=188, convolutions=((16, 16), (32, 32)), neighbours=5, head=128))
    else:
        sizes = ParticleTransformerConfig(
            classes=188, embed=(32, 128), pair_embed=(8,), blocks=1, class_blocks=1, head=(64,)
        )
        network = ParticleTransformer(sizes)
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return Tagger(network.eval(), architecture, LABELS, {label: label for label in LABELS}, FEATURE_SETS[features])


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "features"), [("particle-transformer", "sophon"), ("particle-net", "full")])
def test_the_graph_gives_scores_and_embedding_of_any_jets(
    architecture: str,
    features: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    ours = tagger(architecture, features)
    save_tagger(tmp_path / "tagger", ours, provenance={}, metrics={}, card="")
    out = tmp_path / "graph"
    words = ["hepfm", "models", "export", str(tmp_path / "tagger"), "--onnx", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    cli.main()
    assert capsys.readouterr().out == f"{out}\n"
    assert sorted(path.name for path in out.iterdir()) == sorted([README, GRAPH, DESCRIPTION, REFERENCE])
    description = json.loads((out / DESCRIPTION).read_text())
    outputs = description["output"]["columns"]
    assert tuple(outputs[:188]) == LABELS
    assert len(outputs) == 188 + ours.network.embedding_width

    # Batches of another size and padding than the graph was made with, and single jets.
    jets, _ = reference_jets(ours.features)
    for some in (jets.slice(20, 31), jets.slice(0, 1), jets.slice(127, 1)):
        expected = np.concatenate([ours.scores(some), ours.embedding(some)], 1)
        found = run_graph(out / GRAPH, padded_inputs(some, ours.features))
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)
    with np.load(out / REFERENCE) as reference:
        inputs = {name: reference[name] for name in INPUTS}
        assert inputs["mask"].sum(1).tolist() == list(range(1, 129))
        np.testing.assert_allclose(run_graph(out / GRAPH, inputs), reference["output"], rtol=1e-6, atol=1e-5)

    before = (out / GRAPH).read_bytes()
    with pytest.raises(SystemExit):
        cli.main()
    assert "exists already" in capsys.readouterr().err
    assert (out / GRAPH).read_bytes() == before


def test_trees_are_no_graph(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    inputs, targets = draws.normal(size=(200, len(FEATURES))), draws.integers(0, 2, 200)
    trees = Trees.fit(BoostedTreesConfig(classes=2, rounds=2), inputs, targets, 0)
    made = TreesTagger(trees, ("a", "b"), {"a": "a", "b": "b"})
    save_trees(tmp_path / "trees", made, provenance={}, metrics={}, card="")
    with pytest.raises(HepfmError, match="no graph can be made of 'boosted-trees'"):
        export.main(export.ExportConfig(str(tmp_path / "trees"), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_graph_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    ours = tagger("deep-sets", "full")
    save_tagger(tmp_path / "tagger", ours, provenance={}, metrics={}, card="")
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: None)
    monkeypatch.setattr(export, "run_graph", lambda _, inputs: np.full((128, 188 + 128), 0.5, dtype=np.float32))
    with pytest.raises(HepfmError, match="scores differ by"):
        export.main(export.ExportConfig(str(tmp_path / "tagger"), tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["tagger"]
