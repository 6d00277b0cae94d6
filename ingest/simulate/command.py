"""``hepfm ingest pythia`` and ``hepfm ingest gflash``: simulated jets and showers, as a corpus or as raw files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from hepfm.core.config import read_yaml
from hepfm.core.errors import HepfmError
from hepfm.core.progress import say
from hepfm.ingest.simulate.raw import RECORDS_PER_FILE, write_raw
from hepfm.ingest.simulate.simulation import Simulation
from hepfm.ingest.simulate.straight import Layout, simulate_corpus
from hepfm.ingest.workers import Workers, cores

CORPUS = "corpus"
SAMPLES = {
    "jetclass": ("hepfm.ingest.simulate.ten_classes", "JetClassJets"),
    "jetclass2": ("hepfm.ingest.simulate.jetclass2_jets", "JetClass2Jets"),
    "aspenopenjets": ("hepfm.ingest.simulate.inclusive_qcd", "AspenOpenJetsJets"),
}
DEFAULT_SAMPLE = "jetclass"


@dataclass(frozen=True)
class SimulateConfig:
    """What all simulations are asked."""

    out: Path
    """Folder of the corpus, or of the raw files: new, empty, or begun with the same command."""
    records: int = 10_000
    """Jets of each class or part; showers of each particle."""
    format: str = CORPUS
    """corpus; or raw files in a public format, which 'hepfm ingest auto' reads: jetclass, jetclass2, aspenopenjets,
    ildgrid, showerclouds, calochallenge, showerdata, whichever fits."""
    records_per_file: int = RECORDS_PER_FILE
    """Records in one raw file."""
    layout: Layout = field(default_factory=Layout)
    processes: int = field(default_factory=cores)
    """Worker processes; default all cores. The result does not depend on it."""
    scheduler: str | None = None
    """Dask scheduler whose workers simulate (tcp://host:8786; files under the same paths everywhere), or 'local' for a
    Dask cluster of --processes workers on this machine."""


@dataclass(frozen=True)
class PythiaConfig(SimulateConfig):
    """Simulate jets with Pythia 8, fastjet and a CMS-like parametrised detector.

    Run it again to continue where it was stopped.

    Samples: jetclass (the ten classes of JetClass), jetclass2 (resonances of free mass and QCD, by JetClass-II's
    labels), aspenopenjets (inclusive QCD above 300 GeV, with pileup if wanted).
    'hepfm ingest pythia SAMPLE --help' shows the options of one.
    """

    sample: Annotated[Positional[str], tyro.conf.arg(metavar="SAMPLE")] = DEFAULT_SAMPLE
    """What is simulated."""


@dataclass(frozen=True)
class GflashConfig(SimulateConfig):
    """Simulate showers of photons and electrons in a sampling calorimeter.

    Run it again to continue where it was stopped.
    """


def gflash_config(arguments: Sequence[str]) -> type[GflashConfig]:
    """The configuration of ``hepfm ingest gflash``, with the simulation's settings."""
    return _with_simulation(GflashConfig, import_module("hepfm.ingest.gflash.simulation").GflashShowers)


def pythia_config(arguments: Sequence[str]) -> type[PythiaConfig]:
    """The configuration of ``hepfm ingest pythia SAMPLE``, with the sample's settings."""
    return _with_simulation(PythiaConfig, _sample(_named_sample(arguments)))


def _sample(name: str) -> type[Simulation]:
    if name not in SAMPLES:
        raise HepfmError(f"no sample is called '{name}'", "ingest pythia", f"there is: {', '.join(SAMPLES)}")
    module, class_name = SAMPLES[name]
    found: type[Simulation] = getattr(import_module(module), class_name)
    return found


def _named_sample(arguments: Sequence[str]) -> str:
    if arguments and not arguments[0].startswith("-"):
        return arguments[0]
    if "--config" in arguments[:-1]:
        named = read_yaml(Path(arguments[list(arguments).index("--config") + 1])).get("sample")
        return named if isinstance(named, str) else DEFAULT_SAMPLE
    return DEFAULT_SAMPLE


def _with_simulation(config: type[Any], simulation: type[Simulation]) -> type[Any]:
    """The configuration with the simulation's fields among its options."""
    body: dict[str, Any] = {
        "__doc__": f"{config.__doc__}\n\n{simulation.__doc__}",
        "__annotations__": {"simulation": simulation},
        "__module__": __name__,
        "simulation": field(default_factory=simulation),
    }
    return dataclass(frozen=True)(type(config.__name__, (config,), body))


def main(config: SimulateConfig) -> None:
    """Simulate, and say what came of it."""
    if config.processes < 1:
        raise HepfmError(f"must be at least 1, is {config.processes}", "--processes")
    simulation: Simulation = config.simulation  # type: ignore[attr-defined]
    if isinstance(config, PythiaConfig) and type(simulation) is not _sample(config.sample):
        # Its options are those of another sample, which was taken for granted before this one was read.
        raise HepfmError(
            f"the sample '{config.sample}' has to come first",
            "ingest pythia",
            f"hepfm ingest pythia {config.sample} ...",
        )
    workers = Workers(config.processes, config.scheduler)
    if config.format == CORPUS:
        corpus = simulate_corpus(simulation, config.out, config.records, config.layout, workers)
        for name, split in corpus.manifest.splits.items():
            say(f"{name}: {split.records:,} {corpus.manifest.kind}, {len(split.shards)} shards")
        sys.stdout.write(f"{corpus.path}\n")
        return
    files = write_raw(simulation, config.format, config.out, config.records, config.records_per_file, workers)
    sys.stdout.write(
        f"{len(files)} files, {config.records * len(simulation.streams):,} {simulation.kind} in {config.out}\n"
    )
