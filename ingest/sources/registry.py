"""Every source by name. A new one is a file in this folder and a line here."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import cast

from hepfm.core.errors import HepfmError
from hepfm.core.records import Kind
from hepfm.ingest.sources.base import Source
from hepfm.ingest.sources.contents import contents


@dataclass(frozen=True)
class Entry:
    """A source and where it lives: it is imported when it is asked for, so that none slows the others down."""

    name: str
    kind: Kind
    title: str
    module: str
    class_name: str

    def load(self) -> type[Source]:
        return getattr(import_module(self.module), self.class_name)


SOURCES: dict[str, Entry] = {
    name: Entry(name, cast(Kind, kind), title, f"hepfm.ingest.sources.{name}", class_name)
    for name, kind, title, class_name in (
        ("jetclass", "jets", "JetClass, ROOT", "JetClassSource"),
        ("jetclass2", "jets", "JetClass-II, Parquet or ROOT", "JetClass2Source"),
        ("aspenopenjets", "jets", "AspenOpenJets, HDF5", "AspenOpenJetsSource"),
        ("cms", "jets", "CMS Open Data (PFNano, NanoAODv15), ROOT", "CmsSource"),
        ("toplandscape", "jets", "top-tagging landscape, HDF5 or Parquet", "TopLandscapeSource"),
        ("quarkgluon", "jets", "quark-gluon, HDF5, Parquet or npz", "QuarkGluonSource"),
        ("jetnet", "jets", "JetNet, HDF5 or Parquet", "JetNetSource"),
        ("hls4ml", "jets", "hls4ml jets, HDF5 or Parquet", "Hls4mlSource"),
        ("lhco", "jets", "LHC Olympics, HDF5", "LhcOlympicsSource"),
        ("calochallenge", "showers", "CaloChallenge, HDF5", "CaloChallengeSource"),
        ("ildgrid", "showers", "ILD 30x30x30 grid, HDF5", "IldGridSource"),
        ("showerclouds", "showers", "shower point clouds, HDF5", "ShowerCloudsSource"),
        ("showerdata", "showers", "showerdata, HDF5", "ShowerDataSource"),
    )
}


def source_type(name: str) -> type[Source]:
    """The class of the source called ``name``.

    Raises:
        HepfmError: there is none; the message lists those there are.
    """
    if name not in SOURCES:
        raise HepfmError(f"no source is called '{name}'", "ingest", f"there is: auto, {', '.join(SOURCES)}")
    return SOURCES[name].load()


def source(name: str) -> Source:
    """The source called ``name``, with its default settings.

    Raises:
        HepfmError: as for :func:`source_type`.
    """
    return source_type(name)()


def recognised(path: Path) -> list[str]:
    """Names of the sources whose format a file has, by its contents; none for a damaged or unknown file."""
    found = contents(path)
    return [name for name, entry in SOURCES.items() if found.container and entry.load().recognises(found)]
