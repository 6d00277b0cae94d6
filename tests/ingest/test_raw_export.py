"""``hepfm corpus export`` to the formats of data sets, and back through ``hepfm ingest``."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from aspenopenjets_files import make_raw, write_raw

from hepfm.benchmarks.synthetic import jetclass_files
from hepfm.core.errors import HepfmError
from hepfm.core.records import lengths_of, points_of
from hepfm.ingest.build import BuildOptions, build
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.export.folder import export
from hepfm.ingest.export.raw_files import RAW_FORMATS
from hepfm.ingest.formats.calochallenge import write_calochallenge
from hepfm.ingest.formats.ild import ild_grid
from hepfm.ingest.geometry import Stored
from hepfm.ingest.merge import merge
from hepfm.ingest.sources.aspenopenjets import AspenOpenJetsSource
from hepfm.ingest.sources.registry import recognised, source

LAYOUT = BuildOptions(run_entries=40, block_records=32, shard_entries=160)


@pytest.fixture(scope="module")
def jets(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("jets")
    return build(source("jetclass"), jetclass_files(folder / "raw", 2, 250), folder / "corpus", LAYOUT)


@pytest.fixture(scope="module")
def showers(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """CaloChallenge data set 2, in which a hundredth of the voxels are hit."""
    folder = tmp_path_factory.mktemp("showers")
    draws = np.random.default_rng(1)
    voxels = draws.exponential(20.0, (120, 6480)) * (draws.random((120, 6480)) < 0.01)
    with h5py.File(folder / "raw.hdf5", "w") as file:
        file["showers"] = voxels.astype(np.float32)
        file["incident_energies"] = draws.uniform(1000, 100_000, (120, 1)).astype(np.float32)
    return build(source("calochallenge"), [folder / "raw.hdf5"], folder / "corpus", LAYOUT)


def back(corpus: Corpus, name: str, folder: Path) -> Corpus:
    """A corpus of what was exported: each file recognised, one split."""
    export(corpus, name, folder / "files", corpus.splits())
    files = sorted((folder / "files").glob(f"*/*{RAW_FORMATS[name].suffix}"))
    assert {tuple(recognised(file)) for file in files} == {(name,)}
    return build(source(name), files, folder / "back", BuildOptions(splits=(1, 0, 0), run_entries=40))


def totals(corpus: Corpus, quantity: str) -> np.ndarray:
    """Sum over the points of each record, sorted: the same records in any order give the same sums."""
    found = []
    for name in corpus.splits():
        for block in corpus.split(name):
            lengths = lengths_of(block.column(corpus.manifest.points_column))
            values = np.nan_to_num(points_of(block, quantity).astype(np.float64))
            found.append(np.bincount(np.repeat(np.arange(len(lengths)), lengths), values, len(lengths)))
    return np.sort(np.concatenate(found))


@pytest.mark.parametrize("name", ["jetclass", "aspenopenjets"])
def test_jets_come_back(jets: Corpus, name: str, tmp_path: Path) -> None:
    again = back(jets, name, tmp_path)
    assert sum(split.records for split in again.manifest.splits.values()) == 500
    for quantity in ("pt", "energy", "deta", "d0", "dz", "charge"):
        assert totals(again, quantity) == pytest.approx(totals(jets, quantity), rel=1e-4, abs=2e-3)


@pytest.mark.parametrize("name", ["calochallenge", "showerdata"])
def test_showers_come_back(showers: Corpus, name: str, tmp_path: Path) -> None:
    again = back(showers, name, tmp_path)
    assert sum(split.records for split in again.manifest.splits.values()) == 120
    assert totals(again, "energy") == pytest.approx(totals(showers, "energy"), rel=1e-6)


def test_a_format_that_would_tell_another_geometry_is_refused(showers: Corpus, tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match="is not ILD, whose layers this format means"):
        export(showers, "showerclouds", tmp_path / "clouds", ["train"])
    with pytest.raises(HepfmError, match="is no grid of equal layers"):
        export(showers, "ildgrid", tmp_path / "grid", ["train"])


def test_a_grid_has_no_rings(showers: Corpus, tmp_path: Path) -> None:
    batch = showers.split("train").read(0)
    with pytest.raises(HepfmError, match="has no rings and sectors"):
        write_calochallenge(tmp_path / "x.hdf5", [batch], ild_grid(30, 30, Stored()))


def test_a_format_of_another_kind_is_refused(jets: Corpus, tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match=r"holds jets, which calochallenge files cannot \(there is: parquet"):
        export(jets, "calochallenge", tmp_path / "out", ["train"])
    assert not (tmp_path / "out").exists()


def test_labels_that_the_format_does_not_have_are_told(jets: Corpus, tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match="label"):
        export(jets, "jetclass2", tmp_path / "out", ["train"])


def collisions(folder: Path, seed: int, puppi: str, run: int | None = None, simulated: bool = False) -> Corpus:
    """A corpus of AspenOpenJets, several jets a collision; all of run 1 if simulated."""
    folder.mkdir(parents=True)
    arrays = make_raw(400, seed)
    arrays["event_info"][:, 0] += 1000 * (seed if run is None else run)
    if simulated:
        arrays["event_info"][:, 0] = 1
    raw = write_raw(folder / "raw.h5", arrays)
    options = BuildOptions(run_entries=30, block_records=32, shard_entries=120)
    return build(AspenOpenJetsSource(puppi=puppi), [raw], folder / "corpus", options)  # type: ignore[arg-type]


def per_collision(corpus: Corpus) -> dict[tuple[int, ...], list[float]]:
    """pt of the jets of each collision, in their order."""
    found: dict[tuple[int, ...], list[tuple[int, float]]] = {}
    for name in corpus.splits():
        for block in corpus.split(name):
            columns = [block[column].to_pylist() for column in ("run", "lumi", "event", "jet_index", "pt")]
            for *event, index, pt in zip(*columns, strict=True):
                found.setdefault(tuple(event), []).append((index, pt))
    return {event: [pt for _, pt in sorted(jets)] for event, jets in found.items()}


@pytest.mark.parametrize("puppi", ["apply", "ignore"])
def test_collisions_of_merged_corpora_come_back(puppi: str, tmp_path: Path) -> None:
    parts = [collisions(tmp_path / str(seed), seed, puppi) for seed in (1, 2)]
    merged = merge(parts, tmp_path / "merged")
    export(merged, "aspenopenjets", tmp_path / "files", merged.splits())
    files = sorted((tmp_path / "files").glob("*/*.h5"))
    again = build(AspenOpenJetsSource(puppi=puppi), files, tmp_path / "back", BuildOptions(splits=(1, 0, 0)))  # type: ignore[arg-type]
    expected = per_collision(merged)
    assert max(map(len, expected.values())) > 1
    assert per_collision(again) == expected
    assert totals(again, "pt") == pytest.approx(totals(merged, "pt"), rel=1e-4)


def test_a_jet_without_collision_beside_jets_with_one_is_its_own(jets: Corpus, tmp_path: Path) -> None:
    known = collisions(tmp_path / "known", 1, "apply")
    merged = merge([jets, known], tmp_path / "merged")
    again = back(merged, "aspenopenjets", tmp_path)
    expected = per_collision(known)
    found = per_collision(again)
    assert {event: pt for event, pt in found.items() if event[0] > 0} == expected
    assert len(found) == len(expected) + 500
    assert totals(again, "pt") == pytest.approx(totals(merged, "pt"), rel=1e-4)
    largest = max(AspenOpenJetsSource().entries(path) for path in (tmp_path / "files").glob("*/*.h5"))
    assert largest < 0.5 * len(totals(merged, "pt"))


def test_corpora_whose_pt_means_different_things_are_not_merged(tmp_path: Path) -> None:
    parts = [collisions(tmp_path / puppi, seed, puppi) for seed, puppi in enumerate(("apply", "ignore"))]
    with pytest.raises(HepfmError, match=r"was built with --puppi ignore, .* with --puppi apply"):
        merge(parts, tmp_path / "merged")


def test_corpora_that_share_a_collision_are_not_merged(tmp_path: Path) -> None:
    parts = [collisions(tmp_path / str(seed), seed, "apply", run=7) for seed in (1, 2)]
    with pytest.raises(HepfmError, match=r"run 285\d{3}, luminosity block \d+, event \d+ is in another"):
        merge(parts, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_simulated_samples_number_their_events_alike_and_are_merged(tmp_path: Path) -> None:
    parts = [collisions(tmp_path / str(seed), seed, "apply", simulated=True) for seed in (1, 2)]
    assert not set(per_collision(parts[0])).isdisjoint(per_collision(parts[1]))
    assert sum(split.records for split in merge(parts, tmp_path / "merged").manifest.splits.values()) == sum(
        split.records for part in parts for split in part.manifest.splits.values()
    )
