"""``hepfm.load``: the numbers of the commands, from arrays of any kind; what a model cannot do is one line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import vector
from physics_tokens import shower_corpus

from hepfm import load, models
from hepfm.core.artifacts import read_artifact, write_artifact
from hepfm.core.errors import HepfmError
from hepfm.core.nn.ragged import Layout
from hepfm.core.records import offsets_of, points_of, values_of
from hepfm.finetune.generate import GenerateConfig
from hepfm.finetune.generate import main as generate
from hepfm.finetune.inputs import FEATURE_SETS
from hepfm.finetune.particle_transformer import ParticleTransformer, ParticleTransformerConfig
from hepfm.finetune.regression import load_regressor
from hepfm.finetune.tagger import Tagger, load_tagger, save_tagger
from hepfm.ingest.corpus import Corpus
from hepfm.tokenize.apply import apply
from hepfm.tokenize.registry import load_tokenizer

CLASSES = ("QCD", "Hbb", "Hcc")


@pytest.fixture(scope="module")
def kinematic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tagger that reads four-vectors alone."""
    torch.manual_seed(0)
    config = ParticleTransformerConfig(features=7, classes=3, embed=(16, 16), pair_embed=(8,), heads=2, blocks=1)
    labels = {name: name for name in CLASSES}
    made = Tagger(ParticleTransformer(config).eval(), "particle-transformer", CLASSES, labels, FEATURE_SETS["kin"])
    path = tmp_path_factory.mktemp("kin") / "tagger"
    save_tagger(path, made, provenance={}, metrics={}, card="# card\n")
    return path


def momenta(batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
    """Four-momenta (N, 4) float64 of the constituents of a batch's jets of 5 GeV or more, and offsets."""
    offsets = offsets_of(batch.column("constituents"))
    eta, phi = (
        np.repeat(values_of(batch.column(name)), np.diff(offsets)).astype(np.float64) for name in ("eta", "phi")
    )
    pt, eta, phi = points_of(batch, "pt"), eta + points_of(batch, "deta"), phi + points_of(batch, "dphi")
    each = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), points_of(batch, "energy")], 1)
    kept = np.hypot(*np.add.reduceat(each[:, :2], offsets[:-1]).T) > 5
    lengths = np.diff(offsets)
    return each[np.repeat(kept, lengths)], np.concatenate([[0], np.cumsum(lengths[kept])])


def as_records(batch: pa.RecordBatch) -> ak.Array:
    """A block as plain awkward records; names are strings."""
    return ak.from_iter(batch.to_pylist())


def test_importing_hepfm_is_cheap() -> None:
    show = "import sys, hepfm; print(sorted({'torch', 'awkward', 'pyarrow', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", ["deep-sets", "boosted-trees"])
def test_scores_of_a_corpus_are_those_that_evaluate_tagging_judges(
    kind: str, runs: dict[str, Path], tagged: Path
) -> None:
    model = load(runs[kind])
    scores = model.tag(tagged)
    split = Corpus.open(tagged).split("test")
    judged = load_tagger(runs[kind])[0].judge(split).scores
    assert tuple(scores.fields) == model.labels == CLASSES
    assert np.array_equal(np.stack([ak.to_numpy(scores[name]) for name in CLASSES], axis=1), judged)
    for same in (str(tagged), Corpus.open(tagged), split, pa.Table.from_batches(list(split))):
        assert ak.array_equal(model.tag(same), scores)
    assert len(model.tag(tagged, split="train")) == 90


def test_awkward_records_give_what_their_corpus_gives(runs: dict[str, Path], tagged: Path) -> None:
    """All seventeen features: species by name, nulls of neutral particles, jets in the corpus's axis."""
    model = load(runs["deep-sets"])
    batch = Corpus.open(tagged).split("test").read(0)
    jets = as_records(batch)
    assert ak.array_equal(model.tag(jets), model.tag(batch))
    assert np.array_equal(model.embed(jets), model.embed(batch))
    shuffled = ak.Array({**{name: jets[name] for name in jets.fields}, "constituents": jets.constituents[:, ::-1]})
    assert ak.almost_equal(model.tag(shuffled), model.tag(batch), rtol=1e-6, atol=1e-7)  # pt order is made here


def arrays(vectors: np.ndarray, offsets: np.ndarray) -> dict[str, Callable[[], ak.Array | np.ndarray]]:
    """The same jets in each of the ways that users have them."""
    lengths = np.diff(offsets)
    columns = {name: ak.unflatten(vectors[:, at], lengths) for at, name in enumerate(("px", "py", "pz", "E"))}
    momentum = vector.zip(columns)
    padded = np.zeros((len(lengths), lengths.max() + 3, 4))
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = vectors
    structured = {name: padded[..., at] for at, name in enumerate(("px", "py", "pz", "E"))}
    return {
        "awkward": lambda: ak.zip(columns),
        "vector": lambda: momentum,
        "vector, other coordinates": lambda: vector.zip(
            {"pt": momentum.pt, "eta": momentum.eta, "phi": momentum.phi, "mass": momentum.mass}
        ),
        "padded": lambda: padded,
        "padded vector": lambda: vector.array(structured),
    }


@pytest.mark.parametrize("form", ["awkward", "vector", "vector, other coordinates", "padded", "padded vector"])
def test_four_vectors_of_any_kind_give_the_same_jets(form: str, kinematic: Path, tagged: Path) -> None:
    model = load(kinematic)
    batch = Corpus.open(tagged).split("test").read(0)
    given = arrays(*momenta(batch))
    scores, embedding = model.tag(given["padded"]()), model.embed(given["padded"]())
    assert embedding.shape == (len(given["awkward"]()), 16)
    assert ak.almost_equal(model.tag(given[form]()), scores, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.embed(given[form]()), embedding, rtol=1e-3, atol=1e-4)


def test_four_vectors_become_the_jets_that_they_sum_to(kinematic: Path, tagged: Path) -> None:
    """Against records made by an independent formula: the axis, mass and pt of the sum."""
    batch = Corpus.open(tagged).split("test").read(0)
    vectors, offsets = momenta(batch)
    lengths = np.diff(offsets)
    jets = vector.zip({name: ak.unflatten(vectors[:, at], lengths) for at, name in enumerate(("px", "py", "pz", "E"))})
    total = ak.sum(jets, axis=1)
    points = {"pt": jets.pt, "deta": jets.eta - total.eta, "dphi": jets.deltaphi(total), "energy": jets.E}
    records = ak.Array({"constituents": ak.zip(points), "pt": total.pt, "eta": total.eta, "mass": total.mass})
    model = load(kinematic)
    assert ak.almost_equal(model.tag(records), model.tag(jets), rtol=1e-4, atol=1e-5)


def test_estimates_are_those_that_are_judged(runs: dict[str, Path], tagged: Path) -> None:
    found, _ = load_regressor(runs["regressor"])[0].judge(Corpus.open(tagged).split("test"))
    assert np.array_equal(load(runs["regressor"]).estimate(tagged), found)


@pytest.mark.parametrize(
    ("jets", "told"),
    [
        (lambda: np.zeros((3, 4)), r"jets: have shape \(3, 4\) .*px, py, pz, energy"),
        (lambda: [1, 2], "jets: are of type list"),
        (lambda: ak.Array([[1.0], [2.0]]), "give lists of four-vectors"),
        (lambda: vector.zip({"pt": [[1.0]], "eta": [[0.0]], "phi": [[0.0]]}), "no four-momenta .*energy or mass"),
        (lambda: np.zeros((2, 5, 4)), "record 0: a jet without constituents"),
        (lambda: np.full((2, 5, 4), [0.02, 0, 0, 0.02]), r"record 0: .*is the unit GeV\?"),
        (lambda: np.full((2, 5, 4), 9.0), "record 0: a constituent's energy is below its momentum"),
        (lambda: vector.zip({"pt": [[-9.0]], "eta": [[0.0]], "phi": [[0.0]], "mass": [[0.0]]}), "have a negative pt"),
        (lambda: ak.Array({"points": [[{"cell_a": 1}]]}), "are showers in memory"),
        (lambda: np.full((2, 5, 4), np.nan), "is not finite"),
        (lambda: ak.Array({"constituents": [[{"pt": 1.0, "deta": 0.0, "dphi": 0.0}]], "pt": [9.0]}), "has no .*energy"),
        (lambda: "nothing/here", "nothing/here: no such corpus"),
    ],
    ids=[
        "shape",
        "list",
        "numbers",
        "three-vectors",
        "empty",
        "TeV",
        "heavy",
        "negative",
        "showers",
        "nan",
        "massless",
        "path",
    ],
)
def test_what_is_no_jets_is_one_line(jets: Callable[[], object], told: str, kinematic: Path) -> None:
    with pytest.raises(HepfmError, match=told) as error:
        load(kinematic).tag(jets())  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [("charge", 0.5, "no whole number"), ("d0", np.inf, "d0 that is infinite"), ("species", 77, "none of 0 to 6")],
)
def test_what_no_particle_has_is_told(name: str, value: float, told: str, runs: dict[str, Path], tagged: Path) -> None:
    jets = as_records(Corpus.open(tagged).split("test").read(0))
    jets["constituents"] = ak.with_field(jets.constituents, value, name)
    with pytest.raises(HepfmError, match=told):
        load(runs["deep-sets"]).tag(jets)


def test_four_vectors_are_tokenized_where_their_sum_is_said_to_be_the_axis(runs: dict[str, Path], sim: Path) -> None:
    model = load(runs["generator"])
    draws = np.random.default_rng(0)
    spread = draws.normal(0, 0.2, (6, 20, 2))
    pt = -np.sort(-draws.exponential(10, (6, 20)), axis=1)
    columns = {"pt": pt, "eta": spread[..., 0], "phi": spread[..., 1], "mass": np.zeros((6, 20))}
    jets = vector.zip({name: ak.from_regular(ak.Array(values)) for name, values in columns.items()})
    with pytest.raises(HepfmError, match="axis='stored' says"):
        model.encode(jets)
    total = ak.sum(jets, axis=1)
    points = {"pt": jets.pt, "deta": jets.eta - total.eta, "dphi": jets.deltaphi(total), "energy": jets.E}
    records = ak.Array({"constituents": ak.zip(points), "pt": total.pt, "eta": total.eta, "mass": total.mass})
    assert ak.array_equal(model.encode(jets, axis="stored"), model.encode(records))
    with pytest.raises(HepfmError, match="no axis 'beam'"):
        model.encode(jets, axis="beam")  # type: ignore[arg-type]


def test_a_species_that_there_is_not_is_told(runs: dict[str, Path], tagged: Path) -> None:
    jets = as_records(Corpus.open(tagged).split("test").read(0))
    wrong = ak.Array({name: jets[name] for name in jets.fields})
    wrong["constituents"] = ak.with_field(jets.constituents, ak.full_like(jets.constituents.species, "pion"), "species")
    with pytest.raises(HepfmError, match="has the species 'pion'"):
        load(runs["deep-sets"]).tag(wrong)


def test_four_vectors_alone_are_refused_by_a_tagger_that_reads_more(runs: dict[str, Path], tagged: Path) -> None:
    given = arrays(*momenta(Corpus.open(tagged).split("test").read(0)))
    with pytest.raises(HepfmError, match=r"jets: has no constituents.charge, .*features kin"):
        load(runs["deep-sets"]).tag(given["vector"]())


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"n": 2.5}, "n: must be a whole number, is 2.5"),
        ({"n": 2, "seed": 1.5}, "seed: must be a whole number"),
        ({"n": 2, "jet_pt": "many"}, "jet_pt: is 'many', no number"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line(asked: dict[str, Any], told: str, runs: dict[str, Path]) -> None:
    with pytest.raises(HepfmError, match=told):
        load(runs["generator"]).generate(**asked)


def test_generated_jets_are_those_of_the_command(runs: dict[str, Path], tmp_path: Path) -> None:
    model = load(runs["generator"])
    assert model.labels == ("QCD", "Tbqq")
    jets = model.generate(30, label="Tbqq", jet_pt=(600, 800), seed=3)
    out = tmp_path / "jets.parquet"
    generate(GenerateConfig(str(runs["generator"]), out, 30, "parquet", ("Tbqq",), jet_pt=(600.0, 800.0), seed=3))
    table = pq.read_table(out)
    assert jets.label.to_list() == table["label"].to_pylist() == ["Tbqq"] * 30
    assert jets.constituents.to_list() == table["constituents"].to_pylist()
    for name in ("pt", "eta", "phi", "mass", "pt_constituents"):
        assert jets[name].to_list() == table[name].to_pylist()
    units = ak.parameters(jets)["units"]
    assert (units["pt"], units["constituents"]["dphi"], units["mass"]) == ("GeV", "rad", "GeV")
    assert str(ak.type(jets.pt)) == "30 * float32"
    assert len(model.generate(3)) == 3
    for wrong, told in (({"label": "Hbb"}, "label: training had no label 'Hbb'"), ({"jet_pt": 1}, "jet_pt: 1 lies")):
        with pytest.raises(HepfmError, match=f"^{told}"):  # arguments, not options
            model.generate(3, **wrong)
    with pytest.raises(HepfmError, match="n: must be at least 1"):
        model.generate(0)


def test_tokens_are_those_of_the_command_and_decode(runs: dict[str, Path], sim: Path, tmp_path: Path) -> None:
    model = load(runs["tokenizer"])
    tokens = model.encode(sim, split="val")
    written = apply(runs["tokenizer"], sim, tmp_path / "tokens").split("val")
    assert tokens.tokens.to_list() == [ids for block in written for ids in block.column("tokens").to_pylist()]
    points = model.decode(tokens)
    assert ak.array_equal(points, model.decode(tokens.tokens))
    assert ak.array_equal(points, model.decode(ak.to_list(tokens.tokens)))
    with pytest.raises(HepfmError, match="are of type NoneType"):
        model.decode(None)  # type: ignore[arg-type]
    flat = load_tokenizer(runs["tokenizer"]).decode(
        ak.to_numpy(ak.flatten(tokens.tokens)), np.cumsum([0, *ak.num(tokens.tokens)])
    )
    assert np.array_equal(ak.to_numpy(ak.flatten(points.pt)), flat["pt"])
    assert ak.parameters(points)["units"]["pt"] == "GeV"
    assert ak.array_equal(load(runs["generator"]).encode(sim, split="val"), tokens)
    with pytest.raises(HepfmError, match="token id 32 in record 0"):
        model.decode(ak.Array([[32]]))
    with pytest.raises(HepfmError, match=r"takes it for|has values of about"):
        model.encode(5e3 * np.random.default_rng(0).uniform(1, 2, (50, 8, 4)) * [1, 0, 0, 2], axis="stored")


def test_embeddings_are_means_over_the_tokens(runs: dict[str, Path], sim: Path, tmp_path: Path) -> None:
    """Against the backbone called jet by jet."""
    split = Corpus.open(sim).split("val")
    for name in ("generator", "masked"):
        model = load(runs[name])
        found = model.embed(sim, split="val")
        backbone = models.load(runs[name])[0]
        ids = load(runs["tokenizer"]).encode(split).tokens
        assert found.shape == (split.records, backbone.config.transformer.width)
        if name == "masked":
            continue  # it reads features, not ids
        tokens = apply(runs["tokenizer"], sim, tmp_path / "tokens")
        assert np.array_equal(model.embed(tokens, split="val"), found)
        for jet in (0, 7):
            inputs = torch.tensor([backbone.start, *ids[jet].to_list()])
            with torch.no_grad():
                mean = backbone.hidden(inputs, Layout.of(np.array([len(inputs)]))).mean(0)
            np.testing.assert_allclose(found[jet], mean.numpy(), atol=1e-5)
    one = load(runs["masked"]).embed(split.read(0).slice(3, 1))
    np.testing.assert_allclose(one[0], load(runs["masked"]).embed(split)[3], atol=1e-5)


def test_showers_are_encoded_and_decoded(tmp_path: Path) -> None:
    from physics_tokens import tokens_of

    corpus = shower_corpus(tmp_path / "calo", 40)
    tokens_of(corpus, tmp_path)
    model = load(tmp_path / "tokenizer")
    points = model.decode(model.encode(corpus, split="val"))
    assert {"cell_a", "cell_b", "layer", "energy"} <= set(points.fields)
    with pytest.raises(HepfmError, match="holds jets, the tokenizer takes showers"):
        model.encode(np.ones((2, 3, 4)) * [9, 0, 0, 9])


@pytest.mark.parametrize(
    ("kind", "method", "told"),
    [
        ("tokenizer", "tag", "is a tokenizer, which cannot tag .it can encode, decode"),
        ("deep-sets", "generate", "is a tagger, which cannot generate .it can tag, embed"),
        ("boosted-trees", "embed", "is a tagger, which cannot embed .it can tag"),
        ("generator", "tag", "is a backbone, which cannot tag .it can generate, embed, encode, decode"),
        ("masked", "generate", "cannot generate"),
    ],
)
def test_what_a_model_cannot_do_is_one_line(kind: str, method: str, told: str, runs: dict[str, Path]) -> None:
    model = load(runs[kind])
    assert method not in model.does
    with pytest.raises(HepfmError, match=told):
        getattr(model, method)(3 if method == "generate" else np.ones((1, 1, 4)))


def test_the_reference_is_replayed_unless_that_is_not_wanted(runs: dict[str, Path], tmp_path: Path) -> None:
    for kind, entry in (
        ("tokenizer", "ids"),
        ("deep-sets", "logits"),
        ("boosted-trees", "probabilities"),
        ("generator", "logits"),
    ):
        path = forged_reference(runs[kind] / "artifact", tmp_path / kind, entry)
        with pytest.raises(HepfmError, match=r"reference|another token"):
            load(path)
        assert load(path, check=False).artifact.path == path
        with pytest.raises(HepfmError):
            load(path)  # it is skipped only where that was asked for


def forged_reference(source: Path, target: Path, entry: str) -> Path:
    """An artifact whose reference has another output, by whoever could write checksums too."""
    artifact = read_artifact(source)
    reference = artifact.reference()
    reference[entry] = np.roll(reference[entry], 1, axis=0) + 1
    inner = [path.parent.name for path in source.glob("*/config.json")]
    write_artifact(
        target,
        kind=artifact.kind,
        architecture=artifact.architecture,
        contract=artifact.contract,
        provenance=artifact.provenance,
        weights=artifact.weights(),
        metrics=artifact.metrics(),
        reference=reference,
        card="",
        inner={name: source / name for name in inner},
    )
    return target


def test_a_shipped_model_is_found_by_its_name(
    kinematic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hepfm import cli
    from hepfm.core import resolve

    monkeypatch.setattr(resolve, "SHIPPED", tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HepfmError, match="jets-tiny: no such run or artifact"):
        load("jets-tiny")
    monkeypatch.setenv("HEPFM_CACHE", str(tmp_path / "cache"))
    with pytest.raises(HepfmError, match=r"sophon: was not downloaded yet .hepfm models pull sophon"):
        load("sophon")
    shutil.copytree(kinematic, tmp_path / "shipped" / "another")
    with pytest.raises(HepfmError, match=r"no model of that name .there is: .*another"):
        load("jets-tiny")
    shutil.copytree(kinematic, tmp_path / "shipped" / "jets-tiny")
    model = load("jets-tiny")
    assert model.does == ("tag", "embed")
    assert model.card == "# card\n"
    monkeypatch.setattr(sys, "argv", ["hepfm", "models", "list"])
    cli.main()
    assert "jets-tiny" in capsys.readouterr().out
