"""Which jets a tagger is trained on: classes, choice of jets, mixtures; and what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hepfm.benchmarks.synthetic import random_jets
from hepfm.core.errors import HepfmError
from hepfm.finetune.inputs import FEATURE_SETS
from hepfm.finetune.labelled import LabelledCorpora
from hepfm.ingest.formats.jetclass import LABELS, SCHEMA
from hepfm.ingest.jobs import write_corpus
from hepfm.ingest.mix_command import MixConfig, mix
from hepfm.ingest.plan import Job, Plan

KIN = FEATURE_SETS["kin"]


@dataclass(frozen=True)
class ThreeClasses:
    """Records of classes 0, 1 and 2 in turn."""

    def __call__(self, job: Job) -> Iterator[pa.RecordBatch]:
        draws = np.random.default_rng(job.shard + len(job.split))
        for label in range(3):
            yield random_jets(draws, draws.integers(1, 9, job.size // 3), label)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 jets of each of three classes to train on, 30 to validate."""
    out = tmp_path_factory.mktemp("labelled") / "corpus"
    jobs = (Job("train", 0, None, 270), Job("val", 0, None, 90))
    write_corpus(out, Plan({"made": "labelled"}, jobs, "jets", SCHEMA, LABELS, "stored", 32, {}), ThreeClasses())
    return out


def taken(batches: object, jets: int) -> tuple[np.ndarray, list[tuple[float, ...]]]:
    """Classes of the first jets, and what tells each jet from the others."""
    batch = batches.batch(0, jets)  # type: ignore[attr-defined]
    first = batch.inputs.layout.offsets[:-1].long()
    return batch.targets.numpy(), [tuple(row) for row in batch.inputs.features[first].tolist()]


def test_targets_are_the_classes_of_the_records(corpus: Path) -> None:
    data = LabelledCorpora.open([corpus])
    chosen = ("Hbb", "QCD", "Hcc")
    batches = data.batches("train", data.classes(chosen), KIN, 0)
    assert batches is not None
    targets, _ = taken(batches, 270)
    records = batches.reader.take(0, 270).batch
    assert [chosen[number] for number in targets] == records.column("label").to_pylist()
    assert batches.tokens(5, 25) == 20


def test_other_labels_are_left_out_and_every_wanted_jet_comes_once_an_epoch(corpus: Path) -> None:
    data = LabelledCorpora.open([corpus])
    for split, jets in (("train", 180), ("val", 60)):
        batches = data.batches(split, data.classes(("Hcc", "QCD")), KIN, 1)
        assert batches is not None
        assert batches.reader.order.epoch_records(0) == jets
        targets, names = taken(batches, jets)
        assert Counter(targets.tolist()) == {0: jets // 2, 1: jets // 2}
        assert len(set(names)) == jets


def test_so_many_jets_are_the_same_of_each_class_and_more_include_fewer(corpus: Path) -> None:
    data = LabelledCorpora.open([corpus])
    classes = data.classes(LABELS[:3])
    sets = {}
    for jets in (30, 60, 61):
        batches = data.batches("train", classes, KIN, 7, jets)
        assert batches is not None
        assert batches.reader.order.epoch_records(3) == jets
        targets, names = taken(batches, jets)
        assert max(Counter(targets.tolist()).values()) - min(Counter(targets.tolist()).values()) <= 1
        sets[jets] = set(names)
    assert sets[30] < sets[60] < sets[61]
    other = data.batches("train", classes, KIN, 8, 30)
    assert set(taken(other, 30)[1]) != sets[30]


def test_merged_labels_are_one_class(corpus: Path) -> None:
    data = LabelledCorpora.open([corpus])
    merged = {"QCD": "light", "Hbb": "heavy", "Hcc": "heavy"}
    classes = data.classes(tuple(merged), merged)
    assert classes.names == ("light", "heavy")
    batches = data.batches("train", classes, KIN, 0)
    assert batches is not None
    assert Counter(taken(batches, 270)[0].tolist()) == {0: 90, 1: 180}


def test_a_mixtures_weights_hold(corpus: Path, tmp_path: Path) -> None:
    file = tmp_path / "mixture.json"
    mix(MixConfig((f"{corpus}=0.75:QCD", f"{corpus}=0.25:Hbb"), file, epoch_records=400))
    data = LabelledCorpora.open([file])
    batches = data.batches("train", data.classes(("QCD", "Hbb")), KIN, 0)
    assert batches is not None
    jets = batches.reader.order.epoch_records(0)
    counts = Counter(taken(batches, jets)[0].tolist())
    assert abs(counts[0] - 300) < 40
    assert abs(counts[1] - 100) < 40


def test_what_makes_no_sense_is_refused_by_name(corpus: Path, tmp_path: Path) -> None:
    data = LabelledCorpora.open([corpus])
    with pytest.raises(HepfmError, match="label 'X_bb'"):
        data.classes(("QCD", "X_bb"))
    with pytest.raises(HepfmError, match=r"no training record of class 'Hgg'.*--labels QCD Hbb Hcc"):
        data.classes()
    with pytest.raises(HepfmError, match="one class only"):
        data.classes(("QCD",))
    with pytest.raises(HepfmError, match="which the set of classes does not know"):
        data.classes(("QCD", "Hbb"), {"QCD": "QCD"})
    with pytest.raises(HepfmError, match="has 90 records of class 'QCD', 100 are asked for"):
        data.batches("train", data.classes(("QCD", "Hbb")), KIN, 0, 200)
    with pytest.raises(HepfmError, match="no corpus given"):
        LabelledCorpora.open([])
    with pytest.raises(HepfmError, match="stands alone"):
        LabelledCorpora.open([corpus, tmp_path / "a.json"])
    assert data.batches("test", data.classes(("QCD", "Hbb")), KIN, 0) is None
