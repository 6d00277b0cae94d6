"""Commands that make something of finished corpora: ``hepfm corpus merge | filter | split | export``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from hepfm.core.errors import HepfmError
from hepfm.core.progress import say
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.export.folder import FORMATS, export
from hepfm.ingest.filter import filter_corpus, holds_showers
from hepfm.ingest.manifest import SPLITS
from hepfm.ingest.merge import merge
from hepfm.ingest.resplit import SplitOptions, split_corpus
from hepfm.ingest.selection import JetSelection, Selection, ShowerSelection
from hepfm.ingest.workers import cores


@dataclass(frozen=True)
class MergeConfig:
    """One corpus of all records of several. Splits are kept; every block mixes the corpora in proportion. Run again
    after an interruption, it continues to the same bytes."""

    corpora: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="CORPORA...")]
    """Folders of at least two corpora of one kind, from different source files."""
    out: Path
    """Folder of the merged corpus: new, empty, or begun with the same command."""
    common: bool = False
    """Keep only the quantities that all corpora have; by default one that a corpus lacks is null in its records."""
    seed: int = 0
    """Seed of the order of records."""
    processes: int = field(default_factory=cores)
    """Worker processes; default all cores. The result does not depend on it."""


def merge_corpora(config: MergeConfig) -> None:
    """Merge and say what came out."""
    _check_processes(config.processes)
    _report(
        merge([Corpus.open(path) for path in config.corpora], config.out, config.common, config.seed, config.processes)
    )


@dataclass(frozen=True)
class FilterConfig:
    """The records of a corpus that pass cuts. Splits and order are kept. Run again after an interruption, it continues
    to the same bytes."""

    corpus: Annotated[Positional[Path], tyro.conf.arg(metavar="CORPUS")]
    """Folder of the corpus."""
    out: Path
    """Folder of the new corpus: new, empty, or begun with the same command."""
    selection: JetSelection = field(default_factory=JetSelection)
    energy_min: float | None = None
    """Of showers: lowest incident energy [GeV]."""
    energy_max: float | None = None
    """Of showers: highest incident energy [GeV]."""
    min_points: int | None = None
    """Of showers: fewest points."""
    processes: int = field(default_factory=cores)
    """Worker processes; default all cores. The result does not depend on it."""


def filter_records(config: FilterConfig) -> None:
    """Filter, and print the cut flow."""
    _check_processes(config.processes)
    corpus = Corpus.open(config.corpus)
    filtered = filter_corpus(corpus, _selection(config, corpus), config.out, config.processes)
    for name, count in filtered.manifest.provenance["cut_flow"]:
        say(f"  {name}: {count:,}")
    _report(filtered)


def _selection(config: FilterConfig, corpus: Corpus) -> Selection:
    """The cuts as cuts on the corpus's kind of record; labels are common to both kinds."""
    jets = config.selection
    showers = ShowerSelection(config.energy_min, config.energy_max, jets.labels, config.min_points)
    of_showers = holds_showers(corpus.manifest)
    foreign = (jets if of_showers else showers).settings().keys() - {"labels"}
    if foreign:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(foreign))
        what = "showers" if of_showers else "jets"
        raise HepfmError(f"the corpus holds {what}, but {options} is no cut on {what}", config.corpus, "leave it out")
    return showers if of_showers else jets


@dataclass(frozen=True)
class SplitConfig:
    """Deal the records of a corpus anew to train, val and test: whole collision events, or runs of neighbouring
    entries, never single jets. Run again after an interruption, it continues to the same bytes."""

    corpus: Annotated[Positional[Path], tyro.conf.arg(metavar="CORPUS")]
    """Folder of the corpus."""
    out: Path
    """Folder of the new corpus: new, empty, or begun with the same command."""
    splits: SplitOptions = field(default_factory=SplitOptions)
    processes: int = field(default_factory=cores)
    """Worker processes; default all cores. The result does not depend on it."""


def split_records(config: SplitConfig) -> None:
    """Deal the records and say what came out."""
    _check_processes(config.processes)
    _report(split_corpus(Corpus.open(config.corpus), config.splits, config.out, config.processes))


@dataclass(frozen=True)
class ExportConfig:
    """Write a corpus for other programs. Run again after an interruption, it continues.

    parquet: a file a shard, a row group a block, units in the field metadata (pyarrow.parquet.read_table("DIR/train")).
    awkward: Parquet files for awkward.from_parquet("DIR/train"). datasets: for datasets.load_from_disk("DIR").
    webdataset: a tar a shard, a sample a record: KEY.npy has the points (a structured array: one field a quantity),
    KEY.json the other quantities (webdataset.WebDataset("DIR/train/000000.tar").decode())."""

    corpus: Annotated[Positional[Path], tyro.conf.arg(metavar="CORPUS")]
    """Folder of the corpus."""
    format: Literal[
        "parquet",
        "awkward",
        "datasets",
        "webdataset",
        "jetclass",
        "jetclass2",
        "aspenopenjets",
        "calochallenge",
        "ildgrid",
        "showerclouds",
        "showerdata",
    ]
    """What to write: tables for other libraries, or the format of a data set, which 'hepfm ingest' reads back."""
    out: Path
    """Folder of the export: new, empty, or begun with the same command."""
    split: Literal["train", "val", "test"] | None = None
    """Only this split; default all."""
    processes: int = field(default_factory=cores)
    """Worker processes; default all cores. The result does not depend on it."""


def export_corpus(config: ExportConfig) -> None:
    """Export and say how to open it."""
    _check_processes(config.processes)
    corpus = Corpus.open(config.corpus)
    splits = corpus.splits() if config.split is None else [corpus.split(config.split).name]
    export(corpus, config.format, config.out, splits, config.processes)
    opening = FORMATS[config.format].opening.replace("DIR/train", f"DIR/{splits[0]}").replace("DIR", str(config.out))
    say(f"to open it: {opening}")
    sys.stdout.write(f"{config.out}\n")


def _check_processes(processes: int) -> None:
    if processes < 1:
        raise HepfmError("must be at least 1", "--processes")


def _report(corpus: Corpus) -> None:
    for name in SPLITS:
        if name in corpus.manifest.splits:
            split = corpus.manifest.splits[name]
            say(f"{name}: {split.records:,} {corpus.manifest.records_name}, {len(split.shards)} shards")
    sys.stdout.write(f"{corpus.path}\n")
