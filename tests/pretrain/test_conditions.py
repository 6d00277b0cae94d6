"""A backbone is told what it is told of each record: the right values, counted as they come in training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from physics_tokens import LABELS, jet_corpus, jets, shower_corpus, tokens_of

from hepfm.core.engine.config import TrainingConfig
from hepfm.core.errors import HepfmError
from hepfm.core.nn.ragged import Layout
from hepfm.core.nn.transformer import TransformerConfig
from hepfm.core.records import values_of
from hepfm.core.runs import RunFolder
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.mixture import define, entry_of
from hepfm.pretrain import run
from hepfm.pretrain.backbone import Backbone, BackboneConfig, condition_sample, load_backbone, retold
from hepfm.pretrain.conditions import Condition, ConditionValues
from hepfm.pretrain.data import TokenCorpora
from hepfm.pretrain.objectives import ObjectiveConfig
from hepfm.pretrain.run import PretrainConfig, main
from hepfm.pretrain.survey import condition_names, survey, usual_conditions
from hepfm.tokenize.apply import apply

TRAINING = TrainingConfig(steps=3, batch_records=32, warmup_steps=1, log_every=1, validate_every=3)
CONFIG = BackboneConfig(codes=20, transformer=TransformerConfig(width=32, blocks=2, heads=4))
ALL = ("label", "data_set", "jet_pt", "jet_mass", "jet_eta")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conditions")


@pytest.fixture(scope="module")
def simulated(folder: Path) -> Path:
    return tokens_of(jet_corpus(folder / "sim"), folder)


@pytest.fixture(scope="module")
def real(folder: Path, simulated: Path) -> Path:
    """Jets without labels, by the same tokenizer."""
    corpus = jet_corpus(folder / "real", 200, seed=7, labels=())
    return apply(simulated / "tokenizer", corpus.path, folder / "real-tokens").path


def test_what_is_counted_is_what_the_records_have(simulated: Path) -> None:
    found = survey(TokenCorpora.open([simulated]), ALL)
    source = jets(400, 1 + len("train"))
    label, data_set, pt, mass, eta = found.conditions
    assert (label.names, data_set.names) == (LABELS, ("sim-tokens",))
    for known, column in ((pt, "pt"), (mass, "mass"), (eta, "eta")):
        values = values_of(source.column(column)).astype(np.float64)
        assert (known.low, known.high) == (values.min(), values.max())
        moved = values if known.name == "jet_eta" else np.log1p(values)
        assert known.mean == pytest.approx(moved.mean())
        assert known.std == pytest.approx(moved.std())
    assert (pt.unit, pt.transform, eta.transform) == ("GeV", "signed_log", "identity")
    assert len(found.sample) == 400
    assert sorted(found.sample.numbers[:, 0].tolist()) == sorted(values_of(source.column("pt")).tolist())


def test_batches_tell_the_values_of_their_records(simulated: Path, real: Path) -> None:
    data = TokenCorpora.open([simulated, real])
    found = survey(data, ALL)
    batch = data.batches("train", 128, 5, conditions=found.conditions).batch(0, 600)
    assert batch.conditions is not None
    assert batch.keys is not None
    told = batch.conditions.columns(found.conditions)
    record = batch.keys[:, 1]
    here = record < 400
    source = jets(400, 1 + len("train"))
    for name, column in (("label", "label"), ("jet_pt", "pt"), ("jet_mass", "mass")):
        np.testing.assert_array_equal(told[name][here], values_of(source.column(column))[record[here]])
    assert set(told["label"][~here]) == {-1}
    np.testing.assert_array_equal(told["data_set"], np.where(here, 0, 1))
    assert found.conditions[1].names == ("sim-tokens", "real-tokens")


def test_weights_of_a_mixture_count(simulated: Path, real: Path, tmp_path: Path) -> None:
    mixture = define([entry_of(simulated, 1, ("QCD",)), entry_of(real, 3, ())], tmp_path / "mix.json", 1000)
    found = survey(TokenCorpora.open([mixture.path]), ("label", "data_set", "jet_pt"))
    assert found.conditions[0].names == ("QCD",)  # no Tbqq comes
    told = found.sample.columns(found.conditions)
    assert 1 not in told["label"]
    first, second = jets(400, 6), jets(200, 12, ())
    wanted = values_of(first["label"]) == 0
    values = np.concatenate([values_of(first["pt"])[wanted], values_of(second["pt"])]).astype(np.float64)
    share = np.where(np.arange(len(values)) < len(values) - 200, 0.25 / (len(values) - 200), 0.75 / 200)
    assert found.conditions[2].mean == pytest.approx((share * np.log1p(values)).sum(), rel=1e-5)


def test_dropping_is_keyed_by_the_record(simulated: Path) -> None:
    data = TokenCorpora.open([simulated])
    conditions = survey(data, ALL).conditions
    batches = data.batches("train", 128, 5, conditions=conditions, dropout=0.3)
    whole, part = batches.batch(0, 4000).conditions, batches.batch(100, 130).conditions
    assert whole is not None
    assert part is not None
    np.testing.assert_array_equal(whole.numbers[100:130], part.numbers)
    np.testing.assert_array_equal(whole.names[100:130], part.names)
    unknown = np.concatenate([whole.names.numpy() < 0, np.isnan(whole.numbers.numpy())], axis=1)
    assert unknown.mean(0) == pytest.approx(np.full(5, 1 - 0.7**2), abs=0.03)
    assert unknown.all(axis=1).mean() == pytest.approx(0.3 + 0.7 * 0.3**5, abs=0.03)
    kept = data.batches("train", 128, 5, conditions=conditions).batch(0, 400).conditions
    assert kept is not None
    assert kept.names.min() == 0


def told_backbone() -> tuple[Backbone, ConditionValues]:
    torch.manual_seed(1)
    conditions = (
        Condition("label", "label", "label", LABELS),
        Condition("jet_pt", "number", "pt", unit="GeV", transform="signed_log", mean=6.0, std=0.3, low=300, high=900),
    )
    backbone = Backbone(dataclasses.replace(CONFIG, conditions=conditions)).eval()
    return backbone, ConditionValues(torch.tensor([[0], [1], [-1]]), torch.tensor([[500.0], [torch.nan], [800.0]]))


def test_a_new_backbone_is_that_without_conditions() -> None:
    """And those of one without are as if there were no such thing."""
    backbone, told = told_backbone()
    torch.manual_seed(1)
    plain = Backbone(CONFIG).eval()
    inputs, layout = torch.tensor([20, 1, 2, 20, 3, 20]), Layout.of(np.array([3, 2, 1]))
    assert torch.equal(backbone(inputs, layout, told), plain(inputs, layout))
    assert set(plain.state_dict()) == {name for name in backbone.state_dict() if not name.startswith("told.")}


def test_what_is_told_reaches_its_own_sequence_only_and_the_cache_agrees() -> None:
    backbone, told = told_backbone()
    assert backbone.told is not None
    with torch.no_grad():
        for parameter in backbone.told.parameters():
            parameter.normal_()
    inputs, layout = torch.tensor([20, 1, 2, 20, 3, 20]), Layout.of(np.array([3, 2, 1]))
    logits = backbone(inputs, layout, told)
    other = ConditionValues(told.names.clone(), told.numbers.clone())
    other.names[1] = -1
    changed = (backbone(inputs, layout, other) != logits).any(-1)
    assert changed.tolist() == [False, False, False, True, True, False]
    nothing = backbone(inputs, layout)
    unknown = ConditionValues.unknown(backbone.config.conditions, 3)
    assert torch.equal(nothing, backbone(inputs, layout, unknown))
    cache = backbone.new_cache(3, 4)
    begin = backbone.beginning(told, 3)
    first = backbone.step(torch.tensor([20, 20, 20]), cache, begin)
    torch.testing.assert_close(first, logits[[0, 3, 5]], atol=1e-5, rtol=1e-5)
    second = backbone.step(torch.tensor([1, 3, 0]), cache, begin)
    torch.testing.assert_close(second[:2], logits[[1, 4]], atol=1e-5, rtol=1e-5)


def test_more_conditions_change_nothing_until_they_are_learned() -> None:
    backbone, told = told_backbone()
    assert backbone.told is not None
    with torch.no_grad():
        for parameter in backbone.told.parameters():
            parameter.normal_()
    label, pt = backbone.config.conditions
    more = (dataclasses.replace(label, names=(*LABELS, "Hbb")), pt, Condition("data_set", "data_set", names=("a", "b")))
    made = retold(backbone, more)
    wider = ConditionValues(torch.tensor([[0, 1], [1, 0], [-1, -1]]), told.numbers)
    inputs, layout = torch.tensor([20, 1, 2, 20, 3, 20]), Layout.of(np.array([3, 2, 1]))
    torch.testing.assert_close(made(inputs, layout, wider), backbone(inputs, layout, told))


def test_a_run_learns_what_it_is_told(simulated: Path, tmp_path: Path) -> None:
    """The number of constituents tells the class, so knowing the class helps with the stop."""
    training = dataclasses.replace(TRAINING, steps=60, learning_rate=3e-3, batch_records=64, validate_every=60)
    losses = {}
    for condition in ((), ("label", "jet_pt")):
        out = tmp_path / f"run{len(condition)}"
        main(PretrainConfig((simulated,), out, max_length=16, condition=condition, training=training))
        losses[condition] = load_backbone(out)[1].metrics()["validation_loss"]
    assert losses["label", "jet_pt"] < losses[()] - 0.03
    backbone, artifact = load_backbone(tmp_path / "run2")
    assert [known.name for known in backbone.config.conditions] == ["label", "jet_pt"]
    sample = condition_sample(artifact)
    assert sample is not None
    assert len(sample) == 400
    assert "jet_pt" in (artifact.path / "README.md").read_text()


def test_tokenizers_side_by_side(
    simulated: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jets and showers in one vocabulary: each id once, and the backbone is told which."""
    showers = tokens_of(shower_corpus(folder / "calo"), folder / "showers", "--tokenizer=kmeans", "--codes=300")
    with pytest.raises(HepfmError, match="--vocabulary joined"):
        TokenCorpora.open([simulated, showers])
    data = TokenCorpora.open([simulated, showers], "joined")
    assert data.codes == 332
    assert usual_conditions(data, "next-token") == ("incident_energy", "direction", "particle")
    assert run.usual_length(data) == 128
    with monkeypatch.context() as patch:
        patch.setattr(run, "JET_LENGTH", 2)
        assert run.usual_length(data) == 13  # showers are kept whole, as they are alone
    names = condition_names(("incident_energy", "jet_pt"), data)
    assert names == ["incident_energy", "jet_pt", "data_set"]
    found = survey(data, names)
    batch = data.batches("train", 128, 0, conditions=found.conditions).batch(0, 600)
    assert batch.keys is not None
    assert batch.conditions is not None
    shower = batch.keys[:, 1] >= 400
    of_shower = torch.from_numpy(np.repeat(shower, batch.layout.offsets.diff().numpy()))
    codes = batch.targets != 333
    assert batch.targets[~of_shower & codes].max() < 32
    assert batch.targets[of_shower & codes].min() >= 32
    told = batch.conditions.columns(found.conditions)
    assert np.isnan(told["incident_energy"][~shower]).all()
    assert np.isnan(told["jet_pt"][shower]).all()
    assert told["data_set"].tolist() == shower.astype(int).tolist()
    out = tmp_path / "run"
    main(PretrainConfig((simulated, showers), out, condition=("jet_pt",), vocabulary="joined", training=TRAINING))
    backbone, artifact = load_backbone(out)
    assert backbone.config.codes == 332
    first, second = artifact.contract["data_sets"]
    assert (first["tokenizer"], first["first"], first["codes"], first["geometry"]) == ("tokenizer", 0, 32, None)
    assert (second["tokenizer"], second["first"], second["codes"]) == ("tokenizer_2", 32, 300)
    assert second["geometry"]["name"] == "toy"
    assert (artifact.inner("tokenizer_2") / "config.json").is_file()
    card = (artifact.path / "README.md").read_text()
    assert all(f"(hash `{tokenizer.hash}`)" in card for tokenizer in data.tokenizers)
    # What generation would have to be told is no matter of an objective that is told nothing.
    task = ObjectiveConfig("masked", input="tokens")
    main(PretrainConfig((simulated, showers), tmp_path / "masked", vocabulary="joined", task=task, training=TRAINING))
    assert load_backbone(tmp_path / "masked")[0].config.conditions == ()


def test_a_column_that_no_corpus_has_is_named(real: Path, tmp_path: Path) -> None:
    told_of = {
        "label": "has no 'label'",
        "direction": "has no 'direction_x' for --condition direction .it",
        "incident_energy": "has no 'incident_energy'",
        "pts": "data_set, jet_pt",
    }
    for name, told in told_of.items():
        with pytest.raises(HepfmError, match=told):
            main(PretrainConfig((real,), tmp_path / "run", condition=(name,), training=TRAINING))
    assert not (tmp_path / "run").exists()


def test_a_masked_objective_is_told_nothing(simulated: Path, tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match="masked is told nothing of a record"):
        task = ObjectiveConfig(objective="masked")
        main(PretrainConfig((simulated,), tmp_path / "run", condition=("label",), task=task, training=TRAINING))


def test_a_number_that_is_none_is_named(simulated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = TokenCorpora.open([simulated])
    whole = Corpus.open(simulated).split("train").read(0)
    place = whole.schema.get_field_index("pt")
    broken = whole.set_column(place, whole.schema.field(place), pa.array(np.full(len(whole), np.nan, np.float32)))
    monkeypatch.setattr("hepfm.ingest.corpus.Split.read", lambda *_: broken)
    with pytest.raises(HepfmError, match="record 0 has jet_pt nan"):
        survey(data, ("jet_pt",))


def test_an_interrupted_run_is_told_the_same(
    simulated: Path, real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It continues to the same weights, to the bit, and keeps the same sample."""
    training = dataclasses.replace(TRAINING, steps=4, checkpoint_every=2, validate_every=0)
    runs = [tmp_path / name for name in ("whole", "parts")]
    configs = [PretrainConfig((simulated, real), run, condition=("label", "jet_pt"), training=training) for run in runs]
    main(configs[0])
    log = RunFolder.log

    def stopped(folder: RunFolder, step: int, **figures: float) -> None:
        if step == 3:
            raise KeyboardInterrupt
        log(folder, step, **figures)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(RunFolder, "log", stopped)
        main(configs[1])
    main(configs[1])
    whole, parts = ((run / "artifact/model.safetensors").read_bytes() for run in runs)
    assert whole == parts
    first, second = (condition_sample(load_backbone(run)[1]) for run in runs)
    assert first is not None
    assert second is not None
    assert torch.equal(first.numbers.nan_to_num(-1), second.numbers.nan_to_num(-1))
    assert torch.equal(first.names, second.names)
