"""``hepfm finetune sophon``: labels by name and in order, flat weights, the published settings; real jets."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from kills import assert_same_run, kill
from resonance_jets import resonance_corpus

from hepfm import cli
from hepfm.core.config import parse
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.engine.schedule import learning_rate
from hepfm.finetune.sophon import LABELS
from hepfm.finetune.sophon_training import PUBLISHED, SophonConfig, main, scaled
from hepfm.finetune.sophon_weights import FlatConfig, flat_mixture
from hepfm.finetune.tagger import load_tagger
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.mixture import Mixture
from hepfm.ingest.sophon_groups import GROUPS, group_of

REAL = Path(__file__).resolve().parents[2] / "../shared/data/jetclass2/JetClassII_example.parquet"
PRESENT = ["X_bb", "X_YY_bbbb", "QCD_b", "QCD_light"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return resonance_corpus(tmp_path_factory.mktemp("sophon") / "corpus")


def test_the_defaults_are_the_published_recipe_and_shorter_trainings_follow() -> None:
    config = parse(SophonConfig, ["corpus", "--out", "run"], "hepfm finetune sophon")
    training = scaled(config.training)
    assert training == PUBLISHED == config.training
    assert training.steps * training.batch_records == 80 * 10_240_000
    assert (training.learning_rate, training.betas, training.weight_decay) == (5e-4, (0.95, 0.999), 0.0)
    assert learning_rate(1_119_000, training) == 5e-4  # flat for 56 of the 80 epochs
    assert learning_rate(1_599_999, training) == pytest.approx(5e-6)
    assert (training.validate_every, training.validation_records) == (20_000, 2_560_000)
    assert (config.labels, config.flat.reweight) == (188, "flat")

    short = scaled(dataclasses.replace(PUBLISHED, steps=1000, batch_records=64))
    assert (short.warmup_steps, short.validate_every, short.validation_records) == (50, 100, 1600)
    own = scaled(dataclasses.replace(PUBLISHED, steps=1000, warmup_steps=7, validate_every=0))
    assert (own.warmup_steps, own.validate_every) == (7, 0)


def test_weights_are_flat_in_each_group_and_follow_sophons_shares(corpus: Path) -> None:
    opened = Corpus.open(corpus)
    config = FlatConfig(pt_bins=(200, 2500, 2), mass_bins=(20, 500, 4), cap_percentile=0)
    mixture, inside = flat_mixture((opened,), PRESENT, config, corpus / "flat.json")
    assert inside == PRESENT
    assert not (corpus / "flat.json").exists()
    weights = mixture.weights("train")
    blocks = list(opened.split("train"))
    columns = {
        name: np.concatenate([block.column(name).to_numpy() for block in blocks]) for name in ("pt", "softdrop_mass")
    }
    labels = [label for block in blocks for label in block.column("label").to_pylist()]
    groups = np.array([group_of(label) for label in labels])
    assert mixture.flat is not None
    place = mixture.flat.bins.place(columns["pt"], columns["softdrop_mass"])
    total = sum(GROUPS[name] for name in set(groups))
    for name in set(groups):
        mine = groups == name
        assert weights[mine].sum() / weights.sum() == pytest.approx(GROUPS[name] / total, rel=1e-4)
        sums = [weights[mine & (place == cell)].sum() for cell in set(place[mine])]
        assert sums == pytest.approx([sums[0]] * len(sums), rel=1e-4)


def quick(steps: int = 2) -> TrainingConfig:
    return dataclasses.replace(PUBLISHED, steps=steps, batch_records=16, validation_records=16)


def test_a_run_has_the_named_head_its_weights_and_a_card(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = SophonConfig((corpus,), run, absent="leave-out", training=quick())
    main(config)
    tagger, artifact = load_tagger(run)
    assert list(tagger.classes) == PRESENT  # in the order of the 188
    assert artifact.architecture["head"] == [512]
    assert artifact.contract["rescale_pt_gev"] == 500
    mixture = Mixture.open(run / "flat.json")
    assert artifact.provenance["mixture"]["digest"] == mixture.digest
    assert "30 groups" in (artifact.path / "README.md").read_text()
    records = Corpus.open(corpus).split("test").read(0)
    scores = tagger.scores(records)
    ratio = tagger(["X_YY_bbbb"], against=["QCD"])(scores)
    np.testing.assert_allclose(ratio, scores[:, 1] / scores[:, 1:].sum(1), rtol=1e-5)
    assert tagger.embedding(records).shape == (len(records), 128)  # type: ignore[attr-defined]
    before = (run / "artifact" / "config.json").read_bytes()
    main(config)
    assert (run / "artifact" / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no training jet of class 'X_cc', 'X_ss', 'X_qq', 'X_bc' and 180 more in the bins"),
        (["--labels", "17"], "no training jet of class 'X_ll'"),
        (["--absent", "leave-out", "--pt-bins", "2000", "2500", "3"], "no jet lies in the bins"),
        (["--absent", "leave-out", "--pt-bins", "0", "2500", "3"], "--pt-bins"),
        (["--absent", "leave-out", "--min-learning-rate-fraction", "0"], "--min-learning-rate-fraction"),
    ],
)
def test_what_cannot_be_trained_is_one_line_and_leaves_nothing(
    options: list[str],
    message: str,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    monkeypatch.setattr(sys, "argv", ["hepfm", "finetune", "sophon", str(corpus), "--out", str(out), *options])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not out.exists()


def test_real_jets_go_through_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not REAL.exists():
        pytest.skip(f"{REAL} is not there")
    import pyarrow.parquet as pq

    corpus, run = tmp_path / "corpus", tmp_path / "run"
    options = ["--splits", "1", "0", "0"]
    monkeypatch.setattr(sys, "argv", ["hepfm", "ingest", "jetclass2", str(REAL), "--out", str(corpus), *options])
    cli.main()
    main(SophonConfig((corpus,), run, absent="leave-out", training=quick(1)))
    table = pq.read_table(REAL, columns=["jet_pt", "jet_sdmass", "jet_label"]).to_pydict()
    inside = {
        LABELS[label] for pt, mass, label in zip(*table.values(), strict=True) if 200 <= pt < 2500 and 20 <= mass < 500
    }
    tagger, artifact = load_tagger(run)
    assert list(tagger.classes) == [label for label in LABELS if label in inside]
    assert 80 <= artifact.provenance["jets"] <= 90  # 85 of the 100 pass
    records = Corpus.open(corpus).split("train").read(0)
    np.testing.assert_allclose(tagger.scores(records).sum(1), 1, atol=1e-5)


@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_weights(corpus: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    words = ["finetune", "sophon", str(corpus), "--absent=leave-out", "--steps=6", "--batch-records=16"]
    words += ["--checkpoint-every=2", "--validate-every=0", "--log-every=1"]
    config = parse(SophonConfig, [*words[2:], "--out", str(killed)], "hepfm finetune sophon")
    main(dataclasses.replace(config, out=whole))
    kill(words, killed, 3, OMP_NUM_THREADS="1")  # as here
    main(config)
    assert_same_run(killed, whole)
