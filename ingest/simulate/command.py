"""``hepfm ingest pythia``: simulated jets as JetClass ROOT files."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from hepfm.ingest.simulate.produce import JETS_PER_FILE, simulate_jetclass


@dataclass(frozen=True)
class PythiaConfig:
    """Simulate jets with Pythia 8 and write them as ROOT files in the format of JetClass.

    13 TeV, anti-kt R = 0.8, 500 < pt < 1000 GeV, abs(eta) < 2, CMS-like parametrised detector, no pileup. Run it again
    to continue where it was stopped. `hepfm ingest jetclass OUT/*.root --out CORPUS` then builds a corpus.
    """

    out: Path
    """Folder that the ROOT files go to, named like QCD_000.root (raw files, not a corpus)."""
    labels: tuple[str, ...] = ("QCD", "Tbqq")
    """Classes: QCD, Hbb, Hcc, Hgg, H4q, Zqq, Wqq, Tbqq."""
    jets_per_label: int = 30_000
    """Jets of each class."""
    jets_per_file: int = JETS_PER_FILE
    """Jets in one file; a file is one job."""
    seed: int = 1
    """Same seed, same jets, whatever the number of processes."""
    processes: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Processes that share the work (default: one a core)."""


def main(config: PythiaConfig) -> None:
    """Run the command."""
    files = simulate_jetclass(
        config.out,
        config.labels,
        config.jets_per_label,
        config.seed,
        config.processes,
        config.jets_per_file,
    )
    sys.stdout.write(f"{len(files)} files, {config.jets_per_label * len(config.labels):,} jets in {config.out}\n")
