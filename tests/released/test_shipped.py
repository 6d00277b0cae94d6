"""The models that ship: whole, small, made by a recipe that is here, and usable without network or cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import awkward as ak
import numpy as np
import pytest

from hepfm import load
from hepfm.core.artifacts import read_artifact
from hepfm.core.resolve import shipped
from hepfm.ingest.simulate.ten_classes import LABELS
from hepfm.released.recipe import recipes
from hepfm.released.summary import citation_of, data_of, figures_of, licence_of, size_of

MOST_BYTES = 15_000_000
NAMES = sorted(shipped())


def test_generators_and_a_tagger_ship() -> None:
    assert {"jets-tiny", "tagger-tiny", "showers-cube"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_model_is_whole_replays_and_says_how_it_was_made(name: str) -> None:
    artifact = read_artifact(shipped()[name])
    listed = {str(file.relative_to(artifact.path)) for file in artifact.path.rglob("*") if file.is_file()}
    model = load(name)  # replays
    recipe = recipes()[name]
    made = model.provenance["recipe"]
    assert made["command"] == f"hepfm models retrain {name} --out FOLDER"
    assert [step["command"].split()[1:] for step in made["steps"]] == [step.split() for step in recipe.steps]
    assert all(step["seconds"] > 0 and step["machine"] for step in made["steps"])
    for told in (made["command"], recipe.licence, *(f"hepfm {' '.join(step.split())}" for step in recipe.steps)):
        assert told in model.card
    assert len(listed) < 20
    assert licence_of(artifact) == recipe.licence
    assert data_of(artifact) == recipe.data
    assert citation_of(artifact) == recipe.citation
    assert "+-" in figures_of(artifact)
    assert not {"gradient_norm", "learning_rate", "loss"} & model.metrics.keys()


def test_together_they_are_small() -> None:
    assert sum(size_of(path) for path in shipped().values()) <= MOST_BYTES


def test_all_classes_can_be_asked_for_and_differ_as_they_should() -> None:
    model = load("jets-tiny", check=False)
    assert set(model.labels) == set(LABELS)
    masses = {}
    for label in model.labels:
        jets = model.generate(24, label=label, jet_pt=(600, 800), seed=1)
        assert set(ak.to_list(jets.label)) == {label}
        assert ak.all(ak.num(jets.constituents) > 0)
        masses[label] = float(np.median(jets.mass))
    assert masses["Tbqq"] > masses["Wqq"] > masses["QCD"] > 0


def test_generated_jets_are_encoded_and_embedded() -> None:
    model = load("jets-tiny", check=False)
    jets = model.generate(20, label="Tbqq", seed=2)
    energy = jets.constituents.pt * np.cosh(jets.eta + jets.constituents.deta)
    jets["constituents"] = ak.with_field(jets.constituents, energy, "energy")
    assert model.embed(jets).shape == (20, 128)
    assert ak.all(ak.num(model.encode(jets).tokens) == ak.num(jets.constituents))


def test_showers_have_the_response_of_the_simulation() -> None:
    """Of 40 to 60 GeV 0.723% are visible, with a width of 3.3%; each cell comes once, at or above the threshold."""
    showers = load("showers-cube", check=False).generate(60, incident_energy=(40.0, 60.0), seed=1)
    visible = ak.to_numpy(ak.sum(showers.points.energy, axis=1)) / ak.to_numpy(showers.incident_energy) / 1000
    assert visible.mean() == pytest.approx(0.00723, rel=0.02)
    assert visible.std() / visible.mean() < 0.06
    assert ak.min(showers.points.energy) >= 0.3
    cells = 100 * showers.points.layer + 10 * showers.points.cell_a + showers.points.cell_b
    assert all(len(set(shower)) == len(shower) for shower in ak.to_list(cells))


def test_the_tagger_knows_simulated_jets() -> None:
    """Jets of a seed that it has not seen; one in ten would be right by chance."""
    pytest.importorskip("pythia8mc")
    from hepfm.ingest.simulate.ten_classes import JetClassJets

    model = load("tagger-tiny", check=False)
    assert set(model.labels) == set(LABELS)
    right = []
    for label in ("QCD", "Tbl", "Tbqq", "Hbb"):
        (batch,) = JetClassJets(seed=7).batches(label, 0, 20)
        scores = np.stack([ak.to_numpy(column) for column in ak.unzip(model.tag(batch))], axis=1)
        np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
        assert model.embed(batch).shape[0] == len(batch)
        right.extend(scores.argmax(axis=1) == model.labels.index(label))
    assert np.mean(right) > 0.35


@pytest.mark.slow
def test_it_works_offline_in_a_fresh_process(tmp_path: Path) -> None:
    """No network (sockets refuse), no cache folder, another working folder."""
    program = (
        "import socket\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = socket.create_connection = refuse\n"
        "from hepfm import load\n"
        "print(len(load('jets-tiny').generate(5, label='Tbqq')), load('tagger-tiny').does)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "HEPFM_CACHE": str(tmp_path / "cache")},
    )
    assert done.stdout.split(maxsplit=1) == ["5", "('tag', 'embed')\n"], done.stderr
    assert not (tmp_path / "cache").exists()
