"""Heads on pretrained backbones: what they read, which protocols change what, that they learn, and what is refused."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from backbones import backbone_artifact
from kills import assert_same_run, finish, kill
from physics_tokens import jet_corpus, shower_corpus, tokens_of

from hepfm import cli, models
from hepfm.core.artifacts import read_artifact
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.errors import HepfmError
from hepfm.finetune.backbone_inputs import BackboneReader, Unread
from hepfm.finetune.backbone_tagger import BackboneTagger, BackboneTaggerConfig, on_backbone, reading_of
from hepfm.finetune.protocols import ProtocolConfig
from hepfm.finetune.tag import TagConfig, main
from hepfm.finetune.tagger import load_tagger
from hepfm.finetune.tagging_metrics import measure
from hepfm.ingest.corpus import Corpus
from hepfm.pretrain.backbone import load_backbone
from hepfm.pretrain.continuous import Continuous
from hepfm.pretrain.data import TokenCorpora
from hepfm.pretrain.objectives import ObjectiveConfig, Setting, objective_class

QUICK = TrainingConfig(steps=40, batch_records=64, learning_rate=1e-2, warmup_steps=5, validation_records=50)
SHORT = dataclasses.replace(QUICK, steps=4, validate_every=0)
MATRICES = ("qkv.weight", "out.weight", "up.weight", "down.weight")
Made = dict[str, Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Jets of two classes told apart by their multiplicity, their tokens, and a backbone of each kind."""
    folder = tmp_path_factory.mktemp("heads")
    jets = jet_corpus(folder / "jets")
    paths = {"jets": jets.path, "tokens": tokens_of(jets, folder), "tokenizer": folder / "tokenizer" / "artifact"}
    for objective, features in (("next-token", False), ("masked", True), ("joint", False), ("joint", True)):
        name = f"{objective}{'-features' if features else ''}"
        paths[name] = backbone_artifact(folder / name, paths["tokenizer"], objective, features)
    return paths


def network_on(made: Made, backbone: str, asked: Any = "default", head: Any = "pool") -> tuple[BackboneTagger, Any]:
    pretrained, artifact = load_backbone(made[backbone])
    sizes = BackboneTaggerConfig(pretrained.config, 2, head, reading_of(pretrained.config, asked))
    reader = BackboneReader.for_corpora(artifact, pretrained.config, sizes.before, [Corpus.open(made["tokens"])])
    return on_backbone(artifact, pretrained, sizes, 0, False).eval(), reader


@pytest.mark.parametrize("name", ["next-token", "joint", "joint-features", "masked"])
def test_a_backbone_reads_jets_as_its_objective_does(name: str, made: Made) -> None:
    made = {**made, "masked": made["masked-features"]}
    network, reader = network_on(made, name)
    longest = 8 if name == "next-token" else 6  # of a jet that is cut, its objective does not read the last
    reader = dataclasses.replace(reader, max_length=longest)
    backbone, _ = load_backbone(made[name])
    task = ObjectiveConfig(backbone.config.objective, input="features" if backbone.config.features else "tokens")  # type: ignore[arg-type]
    tokens = TokenCorpora.open([made["tokens"]])
    continuous = Continuous.of(tokens, [], longest)
    setting = Setting(task.resolved(), longest, statistics=continuous.statistics)
    objective = objective_class(task.objective)(backbone, setting).eval()
    batches = tokens.batches("val", longest, 0, features=continuous.of_splits)
    taken = batches.reader.take(0, 30).batch
    with torch.no_grad():
        expected, layout = objective.represent(objective.whole(batches.batch(0, 30)))
        inputs = reader.inputs(taken, "records")
        found = network.represent(inputs)
    assert torch.equal(inputs.layout.offsets, layout.offsets)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_causal_backbone_reads_bidirectionally_when_asked(made: Made) -> None:
    records = Corpus.open(made["tokens"]).split("val").read(0).slice(0, 1)
    ways = {}
    for asked in ("causal", "bidirectional"):
        network, reader = network_on(made, "next-token", asked)
        inputs = reader.inputs(records, "records")
        changed = dataclasses.replace(inputs, codes=inputs.codes.clone())
        changed.codes[-1] = (changed.codes[-1] + 1) % 32
        with torch.no_grad():
            before, after = network.represent(inputs), network.represent(changed)
        ways[asked] = torch.equal(before[0], after[0])
    assert ways == {"causal": True, "bidirectional": False}
    with pytest.raises(HepfmError, match="sees all constituents at once"):
        network_on(made, "masked-features", "causal")
    streams: Any = "several"
    config = dataclasses.replace(load_backbone(made["next-token"])[0].config, streams=streams)
    with pytest.raises(HepfmError, match="several tokens a point"):
        reading_of(config, "default")


CASES = [
    ("next-token", "tokens", "class-attention", "default"),
    ("masked-features", "jets", "pool", "default"),
    ("joint", "jets", "linear", "bidirectional"),
    ("joint-features", "tokens", "class-attention", "causal"),
]


@pytest.mark.parametrize(("backbone", "corpus", "head", "reading"), CASES)
def test_a_head_learns_and_judges_tokens_and_jets_alike(
    backbone: str, corpus: str, head: Any, reading: Any, made: Made, tmp_path: Path
) -> None:
    main(
        TagConfig(
            (made[corpus],),
            tmp_path / "run",
            backbone=str(made[backbone]),
            head=head,
            reading=reading,
            training=QUICK,
        )
    )
    tagger, artifact = load_tagger(tmp_path / "run")
    found = measure(tagger.judge(Corpus.open(made[corpus]).split("val")), replicas=2)
    assert found.accuracy.value > 0.9
    assert artifact.provenance["parent"] == read_artifact(made[backbone]).hash
    assert models.load(tmp_path / "run")[0].classes == ("QCD", "Tbqq")
    assert not any("parametrizations" in name for name in artifact.weights())
    tokens, jets = (Corpus.open(made[name]).split("val").read(0).slice(0, 60) for name in ("tokens", "jets"))
    if not backbone.endswith("features"):  # what tokens decode to is not what they were made of
        np.testing.assert_allclose(tagger.scores(tokens), tagger.scores(jets), atol=1e-6)
    for jet in (0, 5):
        np.testing.assert_allclose(tagger.scores(tokens.slice(jet, 1))[0], tagger.scores(tokens)[jet], atol=1e-6)
    assert tagger.embedding(jets).shape == (len(jets), tagger.network.embedding_width)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["frozen", "last-blocks", "low-rank", "unfreeze", "scratch", "full"])
def test_a_protocol_changes_what_it_may(name: Any, made: Made, tmp_path: Path) -> None:
    before = load_backbone(made["next-token"])[0].state_dict()
    config = TagConfig(
        (made["tokens"],),
        tmp_path / "run",
        backbone=str(made["next-token"]),
        head="linear",
        protocol=ProtocolConfig(name, **{"low-rank": {"rank": 2}, "unfreeze": {"unfreeze_step": 2}}.get(name, {})),
        training=SHORT,
    )
    main(config)
    after = read_artifact(tmp_path / "run" / "artifact").weights()
    own = {name.removeprefix("backbone."): value for name, value in after.items() if name.startswith("backbone.")}
    assert own.keys() == before.keys() - {"head.weight"}
    changed = {name for name, value in own.items() if not torch.equal(value, before[name])}
    if name == "frozen":
        assert not changed
    elif name == "last-blocks":
        assert changed == {n for n in own if n.startswith(("transformer.blocks.1", "transformer.final_norm"))}
    elif name == "low-rank":
        assert changed == {
            n for n in own if ".blocks." in n and n.endswith(("qkv.weight", "out.weight", "up.weight", "down.weight"))
        }
    else:
        assert changed == set(own)
    if name == "scratch":
        gap = float((own["embedding.weight"] - before["embedding.weight"]).abs().mean())
        assert gap > 0.01  # far more than four updates change
    main(dataclasses.replace(config, out=tmp_path / "again"))
    again = read_artifact(tmp_path / "again" / "artifact").weights()
    assert all(torch.equal(value, again[name]) for name, value in after.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["{other}", "--backbone", "{next-token}"], "the backbone reads tokenizer"),
        (
            ["{showers}", "--backbone", "{next-token}", "--target", "incident_energy"],
            "holds showers, the tokenizer takes",
        ),
        (["{tokens}", "--backbone", "{next-token}", "--features", "kin"], "--features"),
        (["{tokens}", "--backbone", "{next-token}", "--protocol", "last-blocks", "--last-blocks", "3"], "1 to 2"),
        (["{tokens}", "--backbone", "{next-token}", "--jets", "3000"], "are asked for"),
        (["{tokens}", "--backbone", "{next-token}", "--protocol", "unfreeze", "--zero-stage", "1"], "ZeRO stage 0"),
        (["{tokens}", "--reading", "causal"], "name a --backbone"),
        (["{tokens}"], "holds tokens, particle-transformer reads jets"),
        (["{tokens}", "--backbone", "{tokenizer}"], "is a tokenizer, not a backbone"),
        (["{tokens}", "--backbone", "{next-token}", "--target", "softdrop_mass"], "it has: pt, eta, mass"),
        (["{tokens}", "--backbone", "{next-token}", "--patience", "2", "--validate-every", "0"], "--patience"),
    ],
)
def test_what_cannot_be_trained_is_one_line_and_leaves_nothing(
    options: list[str],
    message: str,
    made: Made,
    others: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = {name: str(path) for name, path in {**made, **others}.items()}
    filled = [option.format(**paths) for option in options]
    monkeypatch.setattr(sys, "argv", ["hepfm", "finetune", "tag", *filled, "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Tokens of another tokenizer, and showers."""
    folder = tmp_path_factory.mktemp("others")
    other = tokens_of(jet_corpus(folder / "jets", 100), folder, "--tokenizer=kmeans", "--codes=16", "--steps=2")
    return {"other": other, "showers": shower_corpus(folder / "calo").path}


def test_a_tokenizer_never_runs_beside_a_training_step(made: Made) -> None:
    """It switches off oneDNN for the whole process: what reads ahead must leave it to the thread that trains."""
    for backbone, corpus in (("next-token", "jets"), ("joint-features", "tokens")):
        reader = dataclasses.replace(network_on(made, backbone)[1], records=corpus)
        batch = Corpus.open(made[corpus]).split("val").read(0).slice(0, 5)
        unread = reader.read(batch, "records")
        assert isinstance(unread, Unread)
        assert torch.equal(unread.to("cpu").layout.offsets, reader.inputs(batch, "records").layout.offsets)


def test_values_that_are_not_finite_are_named_with_their_record(made: Made) -> None:
    reader = network_on(made, "next-token")[1]
    batch = Corpus.open(made["jets"]).split("val").read(0).slice(0, 10)
    column = batch.column("constituents")
    flat = column.flatten()
    values = flat.field(0).to_numpy(zero_copy_only=False).copy()
    values[column.value_lengths().to_numpy()[:4].sum()] = np.nan  # the first constituent of the fifth jet
    points = pa.StructArray.from_arrays([pa.array(values), *(flat.field(n) for n in (1, 2))], fields=list(flat.type))
    offsets = np.concatenate([[0], np.cumsum(column.value_lengths().to_numpy())]).astype(np.int32)
    broken = batch.set_column(
        batch.schema.get_field_index("constituents"),
        batch.schema.field("constituents"),
        pa.ListArray.from_arrays(pa.array(offsets), points, type=column.type),
    )
    with pytest.raises(HepfmError, match="mine: record 104: pt is nan GeV"):
        reader.inputs(broken, "mine", first=100)


@pytest.mark.slow
def test_a_killed_head_on_a_backbone_continues_to_the_same_weights(made: Made, tmp_path: Path) -> None:
    """Before and after its backbone is unfrozen."""
    words = ["finetune", "tag", made["jets"], "--backbone", made["next-token"], "--protocol", "unfreeze"]
    words += ["--unfreeze-step", "20", "--backbone-rate", "0.1", "--steps=40", "--batch-records=16"]
    words += ["--checkpoint-every=4", "--validation-records=8", "--log-every=1"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(words, whole)
    for lines in (9, 25):
        kill(words, killed, lines)
    finish(words, killed)
    assert_same_run(killed, whole)
