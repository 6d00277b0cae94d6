"""Commands: ``hepfm ingest SOURCE FILES``, ``hepfm corpus verify DIR``, ``hepfm corpus inspect DIR``."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from hepfm.core.errors import HepfmError
from hepfm.core.progress import say
from hepfm.ingest.build import BuildOptions, build
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.describe import describe
from hepfm.ingest.manifest import Manifest
from hepfm.ingest.selection import JetSelection
from hepfm.ingest.sources.registry import source
from hepfm.ingest.verify import verify


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class IngestConfig:
    """Build a corpus from raw files. Run again after an interruption, it continues; the result is the same bytes."""

    source: Annotated[Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """Format of the files: jetclass."""
    files: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FILES...")]
    """Raw files, each once."""
    out: Path
    """Folder of the corpus: new, empty, or begun with the same command."""
    layout: BuildOptions = field(default_factory=BuildOptions)
    selection: JetSelection = field(default_factory=JetSelection)
    processes: int = field(default_factory=_cores)
    """Worker processes; default all cores. The result does not depend on it."""


def ingest(config: IngestConfig) -> None:
    """Build the corpus and say what is in it."""
    if config.processes < 1:
        raise HepfmError("must be at least 1", "--processes")
    corpus = build(source(config.source), config.files, config.out, config.layout, config.selection, config.processes)
    for name, split in corpus.manifest.splits.items():
        say(f"{name}: {split.records:,} {corpus.manifest.kind}, {len(split.shards)} shards")
        for label in missing_labels(corpus.manifest, name):
            say(f"note: {name} has no {label}: too few entries to give each split every class; take more files")
    sys.stdout.write(f"{corpus.path}\n")


def missing_labels(manifest: Manifest, split: str) -> list[str]:
    """Labels that another split has and this one has not."""
    counts = [entry.labels for entry in manifest.splits.values()]
    present = [label for label in manifest.labels if any(count.get(label) for count in counts)]
    return [label for label in present if not manifest.splits[split].labels.get(label)]


@dataclass(frozen=True)
class VerifyConfig:
    """Check every checksum, count and rule of a corpus."""

    corpus: Annotated[Positional[Path], tyro.conf.arg(metavar="CORPUS")]
    """Folder of the corpus."""


def verify_corpus(config: VerifyConfig) -> None:
    """List what is wrong; nothing wrong is said too."""
    if not config.corpus.is_dir():
        raise HepfmError("is not a folder" if config.corpus.exists() else "no such folder", config.corpus)
    problems = verify(config.corpus)
    for problem in problems:
        sys.stdout.write(f"{problem}\n")
    if problems:
        raise HepfmError(
            f"{len(problems)} problem{'s' if len(problems) > 1 else ''} found, first: {problems[0]}",
            config.corpus,
            "restore what is damaged from a copy, or build the corpus again",
        )
    corpus = Corpus.open(config.corpus)
    records = sum(split.records for split in corpus.manifest.splits.values())
    sys.stdout.write(f"{config.corpus}: sound, {records:,} {corpus.manifest.kind}, digest {corpus.digest}\n")


@dataclass(frozen=True)
class InspectConfig:
    """Show a corpus: schema with units, counts, labels, ranges, cut flow, origin."""

    corpus: Annotated[Positional[Path], tyro.conf.arg(metavar="CORPUS")]
    """Folder of the corpus."""


def inspect_corpus(config: InspectConfig) -> None:
    """Print the description."""
    sys.stdout.write(describe(Corpus.open(config.corpus)))
