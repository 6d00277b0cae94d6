"""Mixtures: records come as often as stated, in one exact order, and nothing altered is read."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from derived import content, origins, token_corpus, toy
from hypothesis import given, settings
from hypothesis import strategies as st
from mass_jets import mass_jets

from hepfm.core.config import from_yaml, parse, save_yaml
from hepfm.core.errors import HepfmError
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.filter import filter_corpus
from hepfm.ingest.mix_command import MixConfig, mix, parse_share
from hepfm.ingest.mixture import Mixture, define
from hepfm.ingest.resplit import SplitOptions, split_corpus
from hepfm.ingest.reweight import count
from hepfm.ingest.selection import JetSelection

LABELS = ("qcd", "top", "higgs")
COLUMNS = ["pt", "softdrop_mass", "label"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixtures")
    mass_jets(folder / "a", LABELS, 6000, seed=1)
    mass_jets(folder / "b", ("top", "qcd"), 2000, seed=2)
    return folder


def mixed(folder: Path, name: str, *words: str) -> Mixture:
    """The mixture that a command line defines."""
    mix(parse(MixConfig, [*words, "--out", str(folder / f"{name}.json")], "hepfm corpus mix"))
    return Mixture.open(folder / f"{name}.json")


@pytest.fixture(scope="module")
def shared(folder: Path) -> Mixture:
    return mixed(folder, "shared", f"{folder / 'a'}=1", f"{folder / 'b'}=3:top")


@pytest.fixture(scope="module")
def flat(folder: Path) -> Mixture:
    words = (str(folder / "a"), str(folder / "b"), "--reweight", "flat", "--pt-bins", "200", "500", "3")
    return mixed(folder, "flat", *words, "--mass-bins", "20", "140", "4", "--cap-percentile", "0")


def test_shares_and_labels_say_how_often_a_record_comes(folder: Path, shared: Mixture) -> None:
    tops = Corpus.open(folder / "b").manifest.splits["train"].labels["top"]
    assert shared.epoch_records == 6000 + tops
    reader = shared.reader("train", seed=4, columns=["label", "source_entry"])
    weights = shared.weights("train")
    assert weights is not None
    assert weights[:6000] == pytest.approx(shared.epoch_records * 0.25 / 6000)
    epochs = 12
    stop = sum(reader.order.epoch_records(epoch) for epoch in range(epochs))
    repeats = np.bincount(reader.take(0, stop).keys[:, 1], minlength=8000) / epochs
    # A record comes floor(w) or ceil(w) times in an epoch, w times on average.
    assert repeats.sum() == pytest.approx(shared.epoch_records, rel=0.01)
    assert repeats[:6000].sum() / repeats.sum() == pytest.approx(0.25, abs=0.005)
    assert (np.abs(repeats - weights) < 1).all()
    part = np.where(weights > 0, weights % 1, 0)
    spread = np.sqrt(part * (1 - part) / epochs)
    assert (np.abs(repeats - weights) <= 6 * spread + 1e-5).all()
    labels = [label for block in shared.corpora[1].split("train") for label in block["label"].to_pylist()]
    assert {label for label, often in zip(labels, repeats[6000:], strict=True) if often} == {"top"}


def test_flat_mixtures_are_flat_within_statistics(flat: Mixture) -> None:
    assert flat.flat is not None
    splits = flat.splits("train")
    counts = count(splits, flat.flat.groups, flat.flat.bins)
    assert flat.epoch_records == counts.table.sum() < 8000
    reader = flat.reader("train", seed=1, columns=COLUMNS)
    epochs = 20
    stop = sum(reader.order.epoch_records(epoch) for epoch in range(epochs))
    batch = reader.take(0, stop).batch
    names = [group.name for group in flat.flat.groups]
    found = np.zeros(counts.table.shape)
    pt, mass = (batch[name].to_numpy(zero_copy_only=False) for name in COLUMNS[:2])
    group = np.array([names.index(label or "unlabelled") for label in batch["label"].to_pylist()])
    for number in range(len(names)):
        edges = [np.array(flat.flat.bins.pt), np.array(flat.flat.bins.mass)]
        found[number] = np.histogram2d(pt[group == number], mass[group == number], edges)[0]
    assert found.sum() == len(batch)
    populated = counts.table > 0
    assert not found[~populated].any()
    expected = stop / len(names) / populated.sum(axis=(1, 2), keepdims=True) * populated
    # Repeats of one jet differ by less than one from their mean in each epoch, so a bin's spread is below Poisson's.
    assert (np.abs(found - expected)[populated] < 5 * np.sqrt(expected[populated])).all()
    assert found.sum(axis=(1, 2)) == pytest.approx(stop / len(names), rel=0.02)


def test_without_shares_each_record_comes_once(folder: Path) -> None:
    plain = mixed(folder, "plain", str(folder / "a"), str(folder / "b"))
    reader = plain.reader("train", seed=1, columns=["pt"])
    assert reader.order.epoch_records(0) == 8000
    assert sorted(reader.take(0, 8000).keys[:, 1].tolist()) == list(range(8000))


@settings(max_examples=25)
@given(st.sampled_from(["shared", "flat"]), st.integers(0, 10_000), st.lists(st.integers(1, 700), max_size=5))
def test_any_batches_of_any_reader_are_parts_of_one_order(
    shared: Mixture, flat: Mixture, name: str, start: int, sizes: list[int]
) -> None:
    mixture = {"shared": shared, "flat": flat}[name]
    stop = start + sum(sizes)
    whole = mixture.reader("train", seed=7, columns=COLUMNS).take(start, stop)
    again = Mixture.open(mixture.path).reader("train", seed=7, columns=COLUMNS)
    edges = np.cumsum([start, *sizes]).tolist()
    parts = [again.take(first, last) for first, last in itertools.pairwise(edges)]
    assert [key for part in parts for key in part.keys.tolist()] == whole.keys.tolist()
    assert [row for part in parts for row in part.batch.to_pylist()] == whole.batch.to_pylist()


def test_seed_and_weights_matter(shared: Mixture, flat: Mixture) -> None:
    first = shared.reader("train", 1, ["pt"]).take(0, 500).keys.tolist()
    assert shared.reader("train", 1, ["pt"]).take(0, 500).keys.tolist() == first
    assert shared.reader("train", 2, ["pt"]).take(0, 500).keys.tolist() != first
    assert flat.reader("train", 1, ["pt"]).take(0, 500).keys.tolist() != first


def test_validation_reads_what_belongs_to_the_mixture_once(folder: Path, shared: Mixture, flat: Mixture) -> None:
    tops = Corpus.open(folder / "b").manifest.splits["val"].labels["top"]
    reader = shared.reader("val", 0, ["label"])
    keys = reader.take(0, reader.order.epoch_records(0)).keys
    assert len(keys) == 600 + tops
    assert Counter(keys[:, 1].tolist()).most_common(1)[0][1] == 1
    reader = flat.reader("val", 0, COLUMNS)
    batch = reader.take(0, reader.order.epoch_records(0)).batch
    pt, mass = (batch[name].to_numpy(zero_copy_only=False) for name in COLUMNS[:2])
    assert 300 < len(batch) < 800
    assert pt.min() >= 200
    assert pt.max() < 500
    assert mass.min() >= 20
    assert mass.max() < 140
    with pytest.raises(HepfmError, match="no corpus has a split 'test'"):
        shared.reader("test", 0)


def test_groups_can_be_given(folder: Path) -> None:
    words = [str(folder / "a"), "--reweight", "flat", "--groups", "light=1:qcd,unlabelled", "heavy=3:higgs"]
    mixture = mixed(folder, "groups", *words, "--epoch-records", "1000")
    weights = mixture.weights("train")
    assert weights is not None
    labels = np.array([label or "" for block in mixture.splits("train")[0] for label in block["label"].to_pylist()])
    total = {name: float(weights[labels == name].sum()) for name in ("", *LABELS)}
    assert total["top"] == 0
    assert total["higgs"] == pytest.approx(750, rel=1e-4)
    assert total["qcd"] + total[""] == pytest.approx(250, rel=1e-4)


def test_sophons_groups_need_its_labels(folder: Path, tmp_path: Path) -> None:
    mass_jets(tmp_path / "two", ("X_bb", "X_cc", "QCD_b"), 1000)
    mixture = mixed(tmp_path, "sophon", str(tmp_path / "two"), "--reweight", "flat", "--groups", "sophon")
    weights = mixture.weights("train")
    assert weights is not None
    labels = np.array([label or "" for block in mixture.splits("train")[0] for label in block["label"].to_pylist()])
    assert weights[labels == "QCD_b"].sum() / weights.sum() == pytest.approx(0.25 / (0.25 + 0.4), rel=1e-4)
    with pytest.raises(HepfmError, match="'qcd' is no label of JetClass-II"):
        mixed(folder, "none", str(folder / "a"), "--reweight", "flat", "--groups", "sophon")


def test_equal_commands_give_equal_files_wherever_they_lie(folder: Path, shared: Mixture, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "moved")
    moved = Mixture.open(tmp_path / "moved" / "shared.json")
    assert moved.corpora[0].path == (tmp_path / "moved" / "a").resolve()
    assert moved.path.read_bytes() == shared.path.read_bytes()
    again = mixed(tmp_path, "again", f"{folder / 'a'}=1", f"{folder / 'b'}=3:top")
    assert again.digest == shared.digest
    assert again.summary() == shared.summary()
    entries = [dataclasses.replace(entry, share=int(entry.share or 0)) for entry in shared.entries]
    assert define(entries, tmp_path / "whole.json", shared.epoch_records).digest == shared.digest
    assert json.loads(shared.path.read_text())["digest"] == shared.digest


@pytest.mark.parametrize("name", ["shared", "flat"])
def test_an_altered_file_is_refused(folder: Path, shared: Mixture, flat: Mixture, name: str) -> None:
    text = (folder / f"{name}.json").read_text()
    altered = folder / "altered.json"
    data = json.loads(text)
    data["corpora"][0]["path"] = str(folder / "a")  # a corpus may move
    altered.write_text(json.dumps(data))
    assert Mixture.open(altered).digest == {"shared": shared, "flat": flat}[name].digest
    for change in ({"epoch_records": 1}, {"more": 1}, {"format": 2}, {"kind": "corpus"}, {"digest": "0"}):
        altered.write_text(json.dumps({**data, **change}))
        with pytest.raises(HepfmError, match=r"was altered|is newer than this hepfm|is no mixture"):
            Mixture.open(altered)
    for broken in ("[]", "3", "{}", "", text[:-9], json.dumps({"format": 1, "kind": "mixture", "digest": ""})):
        altered.write_text(broken)
        with pytest.raises(HepfmError, match=r"not valid JSON|is no mixture"):
            Mixture.open(altered)


def test_another_corpus_in_its_place_is_refused(folder: Path, shared: Mixture, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "m")
    shutil.rmtree(tmp_path / "m" / "a")
    with pytest.raises(HepfmError, match="is no corpus"):
        Mixture.open(tmp_path / "m" / "shared.json")
    mass_jets(tmp_path / "m" / "a", LABELS, 6000, seed=9)
    with pytest.raises(HepfmError, match=r"is not the corpus that .*shared\.json was made for"):
        Mixture.open(tmp_path / "m" / "shared.json")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["A", "B=1"], "has no share, others have"),
        (["A=0"], "is not understood"),
        (["A=1:"], "is not understood"),
        (["A=1:top,top"], "is not understood"),
        (["A=nan"], "is not understood"),
        (["A=1:muon"], "has no label 'muon'"),
        (["A=1", "A=1:top"], "is named twice"),
        (["A=1:qcd,top", "A=1:top"], "is named twice"),
        (["missing=1"], "is no corpus"),
        (["A=1", "--reweight", "flat"], "takes no shares"),
        (["A", "--reweight", "flat", "--pt-bins", "0", "9", "3"], "must be a rising range"),
        (["A", "--reweight", "flat", "--mass-bins", "1000", "2000", "3"], "no jet lies in the bins"),
        (["A", "--reweight", "flat", "--groups", "x=1:top", "y=1:top"], "is in two groups"),
        (["A", "--reweight", "flat", "--groups", "x=1:muon"], "no corpus has the label 'muon'"),
        (["A", "--reweight", "flat", "--groups", "tops"], "is not understood"),
        (["A", "--reweight", "flat", "--cap-percentile", "101"], "must be between 0 and 100"),
        (["A", "--epoch-records", "-1"], "must not be negative"),
        (["A", "--groups", "sophon"], "--groups: does nothing without reweighting"),
        (["A", "--mass-bins", "20", "400", "4"], "--mass-bins: does nothing without reweighting"),
    ],
)
def test_what_cannot_be_mixed_is_refused(folder: Path, tmp_path: Path, words: list[str], told: str) -> None:
    words = [str(folder / word.replace("A", "a").replace("B", "b")) if word[0] in "ABm" else word for word in words]
    with pytest.raises(HepfmError, match=told):
        mixed(tmp_path, "none", *words)
    assert not (tmp_path / "none.json").exists()


def test_one_corpus_may_give_different_labels_different_shares(folder: Path, tmp_path: Path) -> None:
    mixture = mixed(tmp_path, "apart", f"{folder / 'a'}=1:qcd", f"{folder / 'a'}=4:top")
    reader = mixture.reader("train", 3, ["label"])
    found = Counter(reader.take(0, 4 * mixture.epoch_records).batch["label"].to_pylist())
    assert found["top"] / found["qcd"] == pytest.approx(4, rel=0.05)
    assert set(found) == {"qcd", "top"}


def test_a_mixture_is_no_corpus(folder: Path, shared: Mixture, tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match="is a file, not a corpus"):
        mixed(tmp_path, "again", f"{shared.path}=1", f"{folder / 'a'}=1")


def test_nothing_but_a_mixture_is_written_over(folder: Path, tmp_path: Path) -> None:
    first = mixed(tmp_path, "m", str(folder / "a"))
    assert mixed(tmp_path, "m", str(folder / "b")).digest != first.digest
    shutil.copytree(folder / "a", tmp_path / "a")
    (tmp_path / "torn.json").write_text("{")
    (tmp_path / "folder.json").mkdir()
    before = content(tmp_path)
    for name in ("a/corpus", "torn", "folder"):
        with pytest.raises(HepfmError, match="is there already and is no mixture"):
            mixed(tmp_path, name, str(folder / "a"))
    assert content(tmp_path) == before


def test_tokens_of_two_tokenizers_may_stand_in_a_mixture(tmp_path: Path) -> None:
    """Who reads it says what their ids are: pretraining takes them side by side, or not at all."""
    corpus = toy(tmp_path, (300,), 1)
    first, second = (token_corpus(corpus, tmp_path / name / "work", name) for name in "ab")
    made = mixed(tmp_path, "ids", f"{first.path}=1", f"{second.path}=1")
    assert [entry.digest for entry in made.entries] == [first.digest, second.digest]


def test_what_one_corpus_holds_out_another_may_not_train_on(tmp_path: Path) -> None:
    corpus = toy(tmp_path, (800, 800), 1)
    half, other = (
        split_corpus(corpus, SplitOptions((0.5, 0.5, 0.0), seed=seed, run_entries=20), tmp_path / f"s{seed}" / "corpus")
        for seed in (1, 2)
    )
    held = set(origins(half, "val"))
    again = sum(origin in held for origin in origins(other, "train"))
    with pytest.raises(
        HepfmError, match=rf"{again} records of its training split come from entries that .*s1/corpus holds"
    ):
        mixed(tmp_path, "leak", str(half.path), str(other.path))
    assert not (tmp_path / "leak.json").exists()
    # Records of other labels are not read; those of one split are where they were.
    mixed(tmp_path, "apart", f"{half.path}=1:qcd", f"{other.path}=1:top")
    hard = filter_corpus(half, JetSelection(pt_min=600), tmp_path / "hard")
    mixed(tmp_path, "fine", str(half.path), str(hard.path))
    # Tokens stand for the records that they were made from.
    tokens = [token_corpus(part, part.path.parent / "work") for part in (half, other)]
    with pytest.raises(HepfmError, match=f"{again} records"):
        mixed(tmp_path, "tokens", *(str(part.path) for part in tokens))


def test_another_name_than_json_is_refused(folder: Path) -> None:
    with pytest.raises(HepfmError, match=r"name it \*\.json"):
        mix(MixConfig((str(folder / "a"),), folder / "mix.yaml"))


def test_settings_survive_a_file(tmp_path: Path) -> None:
    words = ["a=1:x,y", "b=2", "--out", "m.json", "--groups", "q=1:x", "--pt-bins", "1", "2", "3"]
    config = parse(MixConfig, words, "hepfm corpus mix")
    save_yaml(config, tmp_path / "config.yaml")
    assert from_yaml(MixConfig, tmp_path / "config.yaml") == config
    assert parse_share("a=b/c=0.5:x,y") == ("a=b/c", 0.5, ("x", "y"))
    assert parse_share("a/b") == ("a/b", None, ())
