"""``hepfm generate``: jets from a backbone, decoded by its tokenizer, in a format that others read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from tyro.conf import Positional

from hepfm.core import records
from hepfm.core.engine import launch
from hepfm.core.errors import HepfmError
from hepfm.core.files import atomic_path
from hepfm.core.observables import Constituents, jet_mass, jet_pt
from hepfm.core.progress import progress, say
from hepfm.finetune.sampler import Drawing, generate
from hepfm.ingest.formats.batches import jet_batch
from hepfm.ingest.formats.jetclass import write_jetclass
from hepfm.pretrain.backbone import load_generator
from hepfm.tokenize.registry import load_tokenizer

CHUNK_JETS = 16_384
SCHEMA = records.schema("jets", ("pt", "deta", "dphi"), ("pt", "pt_constituents", "eta", "phi", "mass"))


@dataclass(frozen=True)
class GenerateConfig:
    """Generate jets with a backbone. The same seed gives the same jets, whatever --batch is.

    Jets lie at eta = phi = 0: deta and dphi are about that axis, and constituents are massless. Every jet has at least
    one constituent.
    """

    model: Annotated[Positional[str], tyro.conf.arg(metavar="MODEL")]
    """Backbone: a run, an artifact folder, a hub id or a URL."""
    out: Path
    """File to write."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1000
    """Number of jets."""
    format: Literal["jetclass", "parquet"] = "jetclass"
    """jetclass: ROOT file in the layout of JetClass; parquet: jet records in GeV and rad."""
    seed: int = 0
    """Another seed, other jets."""
    batch: int = 256
    """Jets generated at a time."""
    temperature: float = 1.0
    """Logits are divided by it; 0 takes the most probable token."""
    top_k: int | None = None
    """Draw from the k most probable tokens only."""
    top_p: float | None = None
    """Draw from the most probable tokens that together have this probability only."""


def main(config: GenerateConfig) -> None:
    """Generate, decode, write; tell the counts."""
    for name in ("n", "batch"):
        if getattr(config, name) < 1:
            raise HepfmError(f"must be at least 1, is {getattr(config, name)}", f"--{name}")
    if config.out.exists():
        raise HepfmError("exists already", config.out, "name another --out, or remove it")
    drawing = Drawing(config.temperature, config.top_k, config.top_p)
    jets = Jets(config.model)
    WRITERS[config.format](config.out, jets.batches(config.n, config.seed, config.batch, drawing))
    say(
        f"{config.n:,} jets, {jets.constituents:,} constituents; {jets.hit_maximum:,} jets reached the maximum of "
        f"{jets.max_length} constituents and were ended there"
    )
    sys.stdout.write(f"{config.out}\n")


class Jets:
    """Jets from a backbone and the tokenizer it carries.

    Args:
        model: backbone, as a run, an artifact folder, a hub id or a URL.

    Attributes:
        max_length: largest number of constituents.
        constituents: how many have been generated.
        hit_maximum: how many jets were ended by ``max_length``.
    """

    def __init__(self, model: str | Path) -> None:
        backbone, artifact = load_generator(model)
        self.backbone = backbone.to(launch.device())
        self.tokenizer = load_tokenizer(artifact.inner("tokenizer"))
        self.max_length = int(artifact.contract["max_length"])
        self.constituents = self.hit_maximum = 0

    def constituents_of(self, tokens: np.ndarray, offsets: np.ndarray) -> Constituents:
        """Decoded constituents, each jet's ordered by falling pt."""
        decoded = self.tokenizer.decode(tokens, offsets)
        jet = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        order = np.lexsort((-decoded["pt"], jet))
        pt, deta, dphi = (decoded[name][order] for name in ("pt", "deta", "dphi"))
        return Constituents(pt, deta, dphi, offsets)

    def batches(self, n: int, seed: int, batch: int, drawing: Drawing) -> Iterator[pa.RecordBatch]:
        """``n`` jets as records, a bounded number at a time."""
        with progress("generate", n, "jets") as task:
            for first in range(0, n, CHUNK_JETS):
                count = min(CHUNK_JETS, n - first)
                sampled = generate(
                    self.backbone,
                    count,
                    seed,
                    max_length=self.max_length,
                    batch=batch,
                    drawing=drawing,
                    first=first,
                    task=task,
                )
                self.constituents += len(sampled.tokens)
                self.hit_maximum += sampled.hit_maximum
                yield to_records(self.constituents_of(sampled.tokens, sampled.offsets), first)


def to_records(jets: Constituents, first: int) -> pa.RecordBatch:
    """Jet records at eta = phi = 0; ``source_entry`` counts the jets from ``first``."""
    pt = jet_pt(jets)
    columns = {
        "pt": pt,
        "pt_constituents": pt,
        "eta": np.zeros(len(jets)),
        "phi": np.zeros(len(jets)),
        "mass": jet_mass(jets),
        "source_file": np.zeros(len(jets)),
        "source_entry": first + np.arange(len(jets)),
    }
    points = {"pt": jets.pt, "deta": jets.deta, "dphi": jets.dphi}
    return jet_batch(SCHEMA, (), jets.offsets, points, columns)


def write_parquet(path: Path, batches: Iterator[pa.RecordBatch]) -> None:
    """Write jet records, units in the schema's metadata; the file appears when it is complete."""
    with atomic_path(path) as partial, pq.ParquetWriter(partial, SCHEMA) as writer:
        for batch in batches:
            writer.write_batch(batch)


WRITERS: dict[str, Callable[[Path, Iterator[pa.RecordBatch]], object]] = {
    "jetclass": write_jetclass,
    "parquet": write_parquet,
}
