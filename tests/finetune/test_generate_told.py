"""Generation is conditional on what the backbone is told: jets and showers, from training to files."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
from physics_tokens import jet_corpus, shower_corpus, tokens_of

from hepfm.core.engine.config import TrainingConfig
from hepfm.core.errors import HepfmError
from hepfm.core.progress import Task
from hepfm.core.records import lengths_of, offsets_of, points_of, values_of
from hepfm.finetune import writers
from hepfm.finetune.adapt import AdaptConfig
from hepfm.finetune.adapt import main as adapt
from hepfm.finetune.generate import GenerateConfig, main
from hepfm.finetune.generator import Generator
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.verify import verify
from hepfm.pretrain.backbone import load_backbone
from hepfm.pretrain.run import PretrainConfig
from hepfm.pretrain.run import main as pretrain
from hepfm.tokenize.apply import apply

TRAINING = TrainingConfig(steps=120, batch_records=64, warmup_steps=10, learning_rate=3e-3, validate_every=0)
NETWORK = ("--codes=32", "--width=16", "--blocks=1", "--heads=2", "--steps=4", "--batch-records=8")


@pytest.fixture(scope="module")
def jets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone that is told label, pt and eta of jets."""
    folder = tmp_path_factory.mktemp("told")
    tokens = tokens_of(jet_corpus(folder / "sim"), folder)
    pretrain(PretrainConfig((tokens,), folder / "run", condition=("label", "jet_pt", "jet_eta"), training=TRAINING))
    return folder / "run"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone of jets and showers, the latter by a tokenizer that decodes with the incident energy."""
    folder = tmp_path_factory.mktemp("both")
    first = tokens_of(jet_corpus(folder / "sim"), folder)
    calo = shower_corpus(folder / "calo")
    second = tokens_of(calo, folder / "showers", *NETWORK, "--conditions", "incident_energy")
    training = dataclasses.replace(TRAINING, steps=30)
    told = ("direction", "particle")
    pretrain(PretrainConfig((first, second), folder / "run", condition=told, vocabulary="joined", training=training))
    return folder / "run"


def table(path: Path) -> pa.RecordBatch:
    return pq.read_table(path).combine_chunks().to_batches()[0]


def test_the_class_that_is_asked_for_comes(jets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """QCD has 1 to 3 constituents, Tbqq 5 to 8."""
    for label, low, high in (("QCD", 0, 4), ("Tbqq", 4, 9)):
        out = tmp_path / f"{label}.parquet"
        main(GenerateConfig(str(jets), out, n=200, format="parquet", label=(label,), number=("jet_eta=1:1.5",)))
        batch = table(out)
        assert set(batch.column("label").to_pylist()) == {label}
        eta = values_of(batch.column("eta"))
        assert 1.0 <= eta.min() < eta.max() <= 1.5
        lengths = lengths_of(batch.column("constituents"))
        assert ((lengths > low) & (lengths < high)).mean() > 0.65  # without being told: 0.5
    assert "asked for: label Tbqq, jet_eta 1 to 1.5; drawn as in training: jet_pt" in capsys.readouterr().err


def test_what_is_not_asked_for_comes_as_in_training(jets: Path, tmp_path: Path) -> None:
    main(GenerateConfig(str(jets), tmp_path / "jets.root", n=300))
    with uproot.open({tmp_path / "jets.root": "tree"}) as tree:
        qcd, top = (tree[f"label_{name}"].array().to_numpy() for name in ("QCD", "Tbqq"))
        assert (qcd.astype(int) + top.astype(int) == 1).all()
        assert 0.35 < qcd.mean() < 0.65
        assert np.abs(tree["jet_eta"].array().to_numpy()).max() <= 2


def test_records_depend_on_seed_and_number_only(jets: Path, tmp_path: Path) -> None:
    for name, n, batch in (("a", 60, 256), ("b", 25, 7)):
        main(GenerateConfig(str(jets), tmp_path / f"{name}.parquet", n=n, batch=batch, format="parquet"))
    assert table(tmp_path / "a.parquet").slice(0, 25).equals(table(tmp_path / "b.parquet"))


def test_a_corpus_is_continued(
    jets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(writers, "SHARD_RECORDS", 10)
    whole, cut = (GenerateConfig(str(jets), tmp_path / name, n=30, format="corpus") for name in ("whole", "cut"))
    main(whole)
    with monkeypatch.context() as patch:
        made = Generator.batches

        def broken(self: Generator, first: int, stop: int, task: Task) -> Iterator[pa.RecordBatch]:
            if first == 20:
                raise KeyboardInterrupt
            return made(self, first, stop, task)

        patch.setattr(Generator, "batches", broken)
        with pytest.raises(KeyboardInterrupt):
            main(cut)
    with pytest.raises(HepfmError, match="another plan"):
        main(dataclasses.replace(cut, seed=1))
    capsys.readouterr()
    main(cut)
    assert "20 jets were there from before" in capsys.readouterr().err
    assert Corpus.open(cut.out).digest == Corpus.open(whole.out).digest
    with pytest.raises(HepfmError, match="exists already"):
        main(cut)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"label": ("Hbb",)}, "--label: training had no label 'Hbb' .it had QCD, Tbqq"),
        ({"jet_pt": (600.0, 2000.0)}, "--jet-pt: 600 to 2000 lies outside training .it had 50"),
        ({"jet_pt": (900.0, 600.0)}, "is no range"),
        ({"jet_pt": (float("nan"),)}, "--jet-pt: takes one number"),
        ({"number": ("eta=3",)}, "--jet-eta: 3 lies outside training"),
        ({"number": ("tau1=0.2",)}, "--number tau1: the backbone is not told tau1"),
        ({"number": ("label=0",)}, "--number: label is a name, not a number .take --label"),
        ({"max_length": 0}, "--max-length: must lie between 1 and 128, is 0"),
        ({"number": ("tau1",)}, "--number: cannot read 'tau1' .give NAME=NUMBER"),
        ({"number": ("jet_pt=1",), "jet_pt": (600.0,)}, "--number: asks for jet_pt twice .leave it out, or --jet-pt"),
        ({"jet_mass": (80.0,)}, "not told jet_mass .it is told label, jet_pt, jet_eta"),
        ({"format": "showerdata"}, "showerdata files hold no jets"),
        ({"max_length": 1000}, "--max-length: must lie between 1 and 128"),
        (
            {"format": "aspenopenjets", "out": Path("jets.parquet")},
            "jets.parquet: is named as Parquet, aspenopenjets is",
        ),
        ({"format": "corpus", "out": Path("jets.root")}, "is named as ROOT, corpus is a corpus, which is a folder"),
        (
            {"out": Path("jets.h5")},
            "jets.h5: is named as HDF5, jetclass is ROOT .take another --format, or end it in .root",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_training_did_not_have_is_refused(jets: Path, tmp_path: Path, asked: dict[str, Any], told: str) -> None:
    with pytest.raises(HepfmError, match=told):
        main(dataclasses.replace(GenerateConfig(str(jets), tmp_path / "out"), **asked))
    assert list(tmp_path.iterdir()) == []
    assert not Path("jets.root").exists()


def test_showers_decode_with_the_energy_they_are_asked_for(both: Path, tmp_path: Path) -> None:
    conditions = load_backbone(both)[0].config.conditions
    assert [known.name for known in conditions][-2:] == ["data_set", "incident_energy"]
    asked = GenerateConfig(str(both), tmp_path / "showers.h5", n=50, data_set=("calo-tokens",))
    asked = dataclasses.replace(asked, incident_energy=(40.0, 60.0), direction=(0.0, 0.0, 1.0), particle=("22",))
    main(asked)
    with h5py.File(tmp_path / "showers.h5") as file:
        energies = file["energies"][:, 0]
        assert 40 <= energies.min() < energies.max() <= 60
        assert set(file["pdg"][:].tolist()) == {22}
        np.testing.assert_allclose(file["directions"][:], np.tile([0.0, 0.0, 1.0], (50, 1)))
        assert (file["num_points"][:] > 0).all()
    main(dataclasses.replace(asked, out=tmp_path / "corpus", format="corpus"))
    corpus = Corpus.open(tmp_path / "corpus")
    assert verify(corpus.path) == []
    batch = corpus.split("train").read(0)
    offsets = offsets_of(batch.column("points"))
    cells = np.stack([points_of(batch, name) for name in ("layer", "cell_a", "cell_b")], axis=1)
    assert (cells >= 0).all()
    assert (cells.max(axis=0) < [4, 6, 6]).all()
    for first, last in itertools.pairwise(offsets):
        assert len(np.unique(cells[first:last], axis=0)) == last - first
    np.testing.assert_allclose(values_of(batch.column("incident_energy")), energies, rtol=1e-6)


def test_several_tokenizers_need_a_data_set(both: Path, tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match="--data-set sim-tokens, calo-tokens"):
        main(GenerateConfig(str(both), tmp_path / "out"))
    main(GenerateConfig(str(both), tmp_path / "jets.parquet", n=20, data_set=("sim-tokens",), format="parquet"))
    assert len(table(tmp_path / "jets.parquet")) == 20
    with pytest.raises(HepfmError, match=r"--direction: 1 lies outside training|--direction: 0 lies outside training"):
        main(GenerateConfig(str(both), tmp_path / "out", data_set=("calo-tokens",), direction=(1.0, 0.0, 0.0)))
    for data_set, format, told in (("sim", "showerdata", "hold no jets"), ("calo", "jetclass", "hold no showers")):
        with pytest.raises(HepfmError, match=told):
            main(GenerateConfig(str(both), tmp_path / "out", format=format, data_set=(f"{data_set}-tokens",)))
    with pytest.raises(HepfmError, match=r"--particle: no record of sim-tokens has particle .leave it out"):
        main(GenerateConfig(str(both), tmp_path / "out", data_set=("sim-tokens",), particle=("22",)))
    with pytest.raises(
        HepfmError, match=r"--data-set: training had no data_set 'calo' .it had sim-tokens, calo-tokens"
    ):
        main(GenerateConfig(str(both), tmp_path / "out", data_set=("calo",)))


def test_adapting_to_one_data_set_forgets_no_other(both: Path, tmp_path: Path) -> None:
    """Tokenizers keep their ids, however often a backbone of several goes on with the tokens of one."""
    showers, jets = both.parent / "showers/calo-tokens", both.parent / "sim-tokens"
    training = TrainingConfig(steps=1, batch_records=16, warmup_steps=0, validate_every=0)
    before = str(both)
    for tokens, name in ((showers, "first"), (jets, "second"), (showers, "third")):
        adapt(AdaptConfig((tokens,), before, tmp_path / name, training=training))
        before = str(tmp_path / name)
        entries = load_backbone(before)[1].contract["data_sets"]
        ids = {entry["name"]: (entry["tokenizer"], entry["first"], entry["codes"]) for entry in entries}
        assert ids == {"sim-tokens": ("tokenizer", 0, 32), "calo-tokens": ("tokenizer_2", 32, 32)}
        assert entries[0]["name"] == tokens.name
    for name, kind in (("sim-tokens", "jets"), ("calo-tokens", "showers")):
        main(GenerateConfig(before, tmp_path / kind, n=30, data_set=(name,), format="corpus", temperature=50.0))
        assert Corpus.open(tmp_path / kind).manifest.kind == kind
    with pytest.raises(HepfmError, match="--incident-energy: none of the records"):  # of the jets it saw last
        main(GenerateConfig(str(tmp_path / "second"), tmp_path / "out", data_set=("calo-tokens",), format="corpus"))
    asked = GenerateConfig(str(tmp_path / "second"), tmp_path / "out", n=3, data_set=("calo-tokens",), format="corpus")
    main(dataclasses.replace(asked, incident_energy=(50.0,)))
    made = Corpus.open(tmp_path / "out").split("train").read(0)
    assert [made.column(name).null_count for name in ("incident_energy", "direction_x", "particle")] == [0, 3, 3]


def test_a_backbone_is_told_more_when_it_is_adapted(jets: Path, tmp_path: Path) -> None:
    tokenizer = load_backbone(jets)[1].inner("tokenizer")
    other = jet_corpus(tmp_path / "other", 200, seed=30, labels=())
    tokens = apply(tokenizer, other.path, tmp_path / "other-tokens").path
    training = TrainingConfig(steps=2, batch_records=16, warmup_steps=0, validate_every=0)
    adapt(AdaptConfig((tokens,), str(jets), tmp_path / "run", condition=("jet_mass",), training=training))
    backbone, artifact = load_backbone(tmp_path / "run")
    assert {known.name for known in backbone.config.conditions} == {"label", "jet_pt", "jet_eta", "jet_mass"}
    assert next(known.names for known in backbone.config.conditions if known.name == "label") == ("QCD", "Tbqq")
    assert artifact.provenance["parent"] == load_backbone(jets)[1].hash
    main(GenerateConfig(str(tmp_path / "run"), tmp_path / "out.parquet", n=5, format="parquet", jet_mass=(50.0,)))
