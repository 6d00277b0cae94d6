"""``hepfm generate``: jets or showers from a backbone, decoded by its tokenizer, in a format that others read."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import tyro
from tyro.conf import Positional

from hepfm.core.config import settings_of
from hepfm.core.errors import HepfmError
from hepfm.core.progress import progress, say
from hepfm.finetune.asked import NAMES, NUMBERS, Asked, option_of, range_of, ranges_of
from hepfm.finetune.decoded import ShowerRecords
from hepfm.finetune.generator import Generator
from hepfm.finetune.sampler import Drawing
from hepfm.finetune.writers import FormatName, Output, check_format, check_name, write
from hepfm.ingest.jobs import BUILD


@dataclass(frozen=True)
class GenerateConfig:
    """Generate jets or showers with a backbone. The same seed gives the same records, whatever --batch is.

    What the backbone is told and is not asked for here is drawn as it came in training, together with what is asked.
    Jets lie at phi = 0 and at eta = 0 unless the backbone is told eta: deta and dphi are about that axis, and
    constituents are massless. Of a shower each cell comes once. Every record has at least one point.
    """

    model: Annotated[Positional[str], tyro.conf.arg(metavar="MODEL")]
    """Backbone: a run, an artifact folder, a hub id or a URL."""
    out: Path
    """File to write; of corpus a folder."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1000
    """Number of records."""
    format: FormatName = "auto"
    """Of jets jetclass (default), aspenopenjets, jetnet, parquet, corpus; of showers showerdata (default),
    calochallenge, ildgrid, showerclouds, parquet, corpus. Units: GeV and rad; of showers mm and MeV, unless the format
    has others."""
    label: tuple[str, ...] = ()
    """Class, or several."""
    data_set: tuple[str, ...] = ()
    """Data set that it is to be like, by the name it had in training."""
    particle: tuple[str, ...] = ()
    """PDG id of the incident particle."""
    jet_pt: tuple[float, ...] = ()
    """Jet pt [GeV]: one number, or least and largest."""
    jet_mass: tuple[float, ...] = ()
    """Jet mass [GeV], likewise."""
    jet_eta: tuple[float, ...] = ()
    """Jet pseudorapidity, likewise."""
    jet_softdrop_mass: tuple[float, ...] = ()
    """Soft-drop mass [GeV], likewise."""
    incident_energy: tuple[float, ...] = ()
    """Energy of the incident particle [GeV], likewise."""
    direction: tuple[float, float, float] | None = None
    """Direction of the incident particle, a unit vector."""
    number: tuple[str, ...] = ()
    """Any other number that the backbone is told, such as tau1=0.2, or tau1=0.2:0.4 for least and largest."""
    seed: int = 0
    """Another seed, other records."""
    batch: int = 256
    """Records generated at a time."""
    temperature: float = 1.0
    """Logits are divided by it; 0 takes the most probable token."""
    top_k: int | None = None
    """Draw from the k most probable tokens only."""
    top_p: float | None = None
    """Draw from the most probable tokens that together have this probability only."""
    min_length: int = 1
    """Least points of a record."""
    max_length: int | None = None
    """Most points of a record; by default what the backbone was trained with."""

    @property
    def asked(self) -> Asked:
        """What the records are to be.

        Raises:
            HepfmError: something that is no range, or no unit vector.
        """
        names = {name: tuple(getattr(self, name)) for name in NAMES if getattr(self, name)}
        ranges = {name: range_of(name, getattr(self, name)) for name in NUMBERS if getattr(self, name)}
        others = ranges_of(self.number)
        twice = sorted(ranges.keys() & others.keys())
        if twice:
            raise HepfmError(f"asks for {twice[0]} twice", "--number", f"leave it out, or {option_of(twice[0])}")
        ranges |= others
        if self.direction is not None:
            length = sum(part**2 for part in self.direction) ** 0.5
            if not abs(length - 1) < 1e-3:
                raise HepfmError(f"has length {length:g}", "--direction", "give a unit vector")
            ranges |= {f"direction_{axis}": (part, part) for axis, part in zip("xyz", self.direction, strict=True)}
        return Asked(names, ranges)


def main(config: GenerateConfig) -> None:
    """Generate, decode, write; tell the counts."""
    for name in ("n", "batch"):
        if getattr(config, name) < 1:
            raise HepfmError(f"must be at least 1, is {getattr(config, name)}", f"--{name}")
    if config.out.exists() and not (config.format == "corpus" and (config.out / BUILD).is_dir()):
        raise HepfmError("exists already", config.out, "name another --out, or remove it")
    drawing = Drawing(config.temperature, config.top_k, config.top_p)
    generator = Generator(
        config.model, config.asked, config.seed, drawing, config.batch, config.min_length, config.max_length
    )
    made = generator.records
    form = check_format(config.format, made.kind, made.schema)
    check_name(form, config.out)
    if generator.teller and generator.teller.told():
        say(generator.teller.told())
    fresh = 0
    with progress("generate", config.n, made.kind) as task:

        def batches(first: int, stop: int) -> Iterator[pa.RecordBatch]:
            nonlocal fresh
            for batch in generator.batches(first, stop, task):
                fresh += len(batch)
                yield batch

        identity = {"model": generator.artifact.hash, **settings_of(config, without=("model", "out", "batch"))}
        write(form, config.out, Output(made.kind, made.schema, made.labels, made.geometry, config.n, batches, identity))
    points = "constituents" if made.kind == "jets" else "hits"
    if fresh < config.n:
        say(f"{config.n - fresh:,} {made.kind} were there from before; the others:")
    say(
        f"{fresh:,} {made.kind}, {generator.points:,} {points}; {generator.hit_maximum:,} {made.kind} reached the "
        f"maximum of {generator.max_length} {points} and were ended there"
    )
    if isinstance(made, ShowerRecords):
        say(f"{made.merged:,} hits were merged into another of their cell, {made.below:,} left out below the threshold")
    sys.stdout.write(f"{config.out}\n")
