"""Toy jets as records, and a source of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hepfm.core import records
from hepfm.core.draws import generator
from hepfm.ingest.formats.batches import jet_batch
from hepfm.ingest.sources.base import Source
from hepfm.ingest.sources.contents import Contents
from hepfm.ingest.tally import Tally

LABELS = ("QCD", "Tbqq")
JET = ("pt", "mass", "label")


def jets(count: int, seed: int = 0, classes: int = 2) -> dict[str, np.ndarray]:
    """Jets with one (QCD) or three (Tbqq) cores of softer and wider particles: pt, deta, dphi, offsets, label."""
    draw = generator("toy jets", seed)
    lengths = draw.integers(1, 60, count)
    label = np.arange(count) % classes
    of = np.repeat(np.arange(count), lengths)
    core = draw.normal(0, 0.2, (count, 3, 2)) * label[:, None, None]
    share = draw.pareto(1.2, lengths.sum()) + 0.01
    pt = 700 * share / np.bincount(of, share)[of]
    angle = core[of, draw.integers(0, 3, len(of))] + draw.normal(0, 0.1, (len(of), 2)) / (1 + pt[:, None] / 20)
    order = np.lexsort((-pt, of))
    return {
        "pt": pt[order].astype(np.float32),
        "deta": angle[order, 0].astype(np.float32),
        "dphi": angle[order, 1].astype(np.float32),
        "offsets": np.concatenate([[0], np.cumsum(lengths)]),
        "label": label,
    }


def batch_of(data: dict[str, np.ndarray], points: tuple[str, ...] = ("pt", "deta", "dphi")) -> pa.RecordBatch:
    """Those jets as records."""
    schema = records.schema("jets", points, JET)
    item = schema.field("constituents").type
    count = len(data["offsets"]) - 1
    inner = pa.StructArray.from_arrays([pa.array(data[name]) for name in points], fields=list(item.value_type))
    columns = [
        pa.ListArray.from_arrays(pa.array(data["offsets"].astype(np.int32)), inner, type=item),
        pa.array(np.full(count, 700, np.float32)),
        pa.array(np.arange(count, dtype=np.float32)),
        pa.DictionaryArray.from_arrays(pa.array(data["label"].astype(np.int16)), pa.array(LABELS)),
        pa.array(np.zeros(count, np.int32)),
        pa.array(np.arange(count)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


FULL = ("pt", "deta", "dphi", "d0", "d0err", "dz", "dzerr", "charge", "species")


def full_jets(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Those jets with charge, species and impact parameters (NaN for neutrals)."""
    data = jets(count, seed)
    draw = generator("toy tracks", seed)
    points = len(data["pt"])
    species = draw.choice(5, points, p=(0.5, 0.15, 0.25, 0.06, 0.04))  # charged and neutral hadrons, photons, e, mu
    charge = np.where(np.isin(species, (1, 2)), 0, draw.choice((-1, 1), points))
    tracks = {"d0": draw.standard_t(2, points) * 0.05, "dz": draw.standard_t(2, points) * 0.1}
    tracks |= {"d0err": draw.gamma(2, 0.02, points), "dzerr": draw.gamma(2, 0.03, points)}
    nulled = {name: np.where(charge == 0, np.nan, values).astype(np.float32) for name, values in tracks.items()}
    return data | nulled | {"charge": charge.astype(np.int8), "species": species.astype(np.int8)}


def full_batch(data: dict[str, np.ndarray]) -> pa.RecordBatch:
    """Those jets as records."""
    count = len(data["offsets"]) - 1
    columns = {"pt": np.full(count, 700), "mass": np.arange(count), "label": data["label"]}
    columns |= {"source_file": np.zeros(count), "source_entry": np.arange(count)}
    schema = records.schema("jets", FULL, JET)
    return jet_batch(schema, LABELS, data["offsets"], {name: data[name] for name in FULL}, columns)


@dataclass(frozen=True)
class ToyJets(Source):
    """A source whose files say how many toy jets they hold; ``pt_scale`` makes another quantity of pt."""

    pt_scale: float = 1.0
    axis: str = "stored"
    points: tuple[str, ...] = ("pt", "deta", "dphi")
    name: str = "toyjets"
    kind: records.Kind = "jets"
    labels: tuple[str, ...] = LABELS

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        return False

    @property
    def schema(self) -> pa.Schema:
        return records.schema("jets", self.points, JET)

    def settings(self) -> dict[str, Any]:
        return {"pt_scale": self.pt_scale}

    def entries(self, path: Path) -> int:
        return json.loads(path.read_text())["entries"]

    def read(self, path: Path, start: int, stop: int, tally: Tally | None = None) -> pa.RecordBatch:
        entries = json.loads(path.read_text())["entries"]
        if self.points == FULL:
            return full_batch(full_jets(entries)).slice(start, stop - start)
        data = jets(entries)
        data["pt"] = data["pt"] * np.float32(self.pt_scale)
        return batch_of(data, self.points).slice(start, stop - start)


@dataclass(frozen=True)
class RealJets(ToyJets):
    """The 500 real JetClass jets of the sample data; a file is the array of four-vectors."""

    name: str = "realjets"

    def entries(self, path: Path) -> int:
        return len(np.load(path, mmap_mode="r"))

    def read(self, path: Path, start: int, stop: int, tally: Tally | None = None) -> pa.RecordBatch:
        px, py = np.load(path)[start:stop, :2].swapaxes(0, 1)
        angles, mask = (
            np.load(path.with_name(path.name.replace("Vectors", part)))[start:stop] for part in ("Points", "Mask")
        )
        real = mask[:, 0] > 0
        data = {
            "pt": np.hypot(px, py)[real].astype(np.float32),
            "deta": angles[:, 0][real].astype(np.float32),
            "dphi": angles[:, 1][real].astype(np.float32),
            "offsets": np.concatenate([[0], np.cumsum(real.sum(axis=1))]),
            "label": np.zeros(stop - start, dtype=np.int64),
        }
        return batch_of(data)
