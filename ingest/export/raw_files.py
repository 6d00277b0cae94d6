"""The formats that raw data comes in: what reads such a data set reads a corpus that was exported to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from hepfm.core.errors import HepfmError
from hepfm.ingest.corpus import Corpus, Split
from hepfm.ingest.export.format import blocks_of
from hepfm.ingest.geometry import Geometry
from hepfm.ingest.manifest import ShardEntry


@dataclass(frozen=True)
class RawFormat:
    """A file a shard, written by ``hepfm.ingest.formats.NAME.write_NAME``; its docstring says what is lost.

    Attributes:
        source: name of the source that reads such files back.
        suffix: of the files.
    """

    source: str
    suffix: str
    kinds: tuple[str, ...]

    @property
    def opening(self) -> str:
        return f"hepfm ingest {self.source} DIR/*/*{self.suffix} --out CORPUS"

    def name(self, corpus: Corpus, split: str, shard: ShardEntry) -> str:
        return f"{split}/{shard.number:06d}{self.suffix}"

    def write(self, split: Split, shard: ShardEntry, path: Path) -> None:
        writer = getattr(import_module(f"hepfm.ingest.formats.{self.source}"), f"write_{self.source}")
        manifest = split.corpus.manifest
        if manifest.kind == "showers":
            if manifest.geometry is None:
                raise HepfmError("has no geometry", split.corpus.path, "export it as parquet")
            writer(path, blocks_of(split, shard), Geometry.from_data(manifest.geometry))
            return
        options = {}
        if self.source == "aspenopenjets":
            ignored = manifest.provenance.get("settings", {}).get("puppi") == "ignore"
            options["weights"] = "not_applied" if ignored else "applied"
        writer(path, blocks_of(split, shard), **options)

    def texts(self, corpus: Corpus, splits: Sequence[str]) -> dict[str, str]:
        return {}


RAW_FORMATS = {
    form.source: form
    for form in (
        RawFormat("jetclass", ".root", ("jets",)),
        RawFormat("jetclass2", ".parquet", ("jets",)),
        RawFormat("aspenopenjets", ".h5", ("jets",)),
        RawFormat("calochallenge", ".hdf5", ("showers",)),
        RawFormat("ildgrid", ".h5", ("showers",)),
        RawFormat("showerclouds", ".h5", ("showers",)),
        RawFormat("showerdata", ".h5", ("showers",)),
    )
}
