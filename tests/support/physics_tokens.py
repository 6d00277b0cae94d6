"""Small corpora of jets and showers with labels and the like, and their tokens by tokenizers that fit at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from hepfm.core import records
from hepfm.core.config import parse
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.formats.batches import jet_batch
from hepfm.ingest.formats.shower_batches import shower_batch
from hepfm.ingest.geometry import Bins, Geometry, Layer
from hepfm.ingest.jobs import write_corpus
from hepfm.ingest.plan import Job, Plan
from hepfm.tokenize.apply import apply
from hepfm.tokenize.fit import fit_config
from hepfm.tokenize.fit import main as fit

LABELS = ("QCD", "Tbqq")
LAYERS, CELLS = 4, 6


def jets(count: int, seed: int, labels: tuple[str, ...] = LABELS, longest: int = 8) -> pa.RecordBatch:
    """Jets whose number of constituents tells the class (QCD: 1 to 3, Tbqq: 5 to 8), pt-ordered, massless."""
    draws = np.random.default_rng(seed)
    label = draws.integers(0, 2, count)
    lengths = np.where(label == 0, draws.integers(1, 4, count), draws.integers(5, 9, count)).clip(max=longest)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    jet = np.repeat(np.arange(count), lengths)
    jet_pt = draws.uniform(500, 1000, count)
    share = draws.uniform(0.1, 1, len(jet))
    pt = jet_pt[jet] * share / np.bincount(jet, share)[jet]
    order = np.lexsort((-pt, jet))
    angles = draws.normal(0, 0.2, (2, len(jet)))
    points = {"pt": pt[order], "deta": angles[0], "dphi": angles[1]}
    columns = {
        "pt": jet_pt,
        "mass": draws.uniform(0, 200, count),
        "eta": draws.uniform(-2, 2, count),
        "source_file": np.zeros(count),
        "source_entry": np.arange(count),
    }
    names = ("pt", "eta", "mass", "label") if labels else ("pt", "eta", "mass")
    schema = records.schema("jets", ("pt", "deta", "dphi"), names)
    return jet_batch(schema, labels, offsets, points, columns | ({"label": label} if labels else {}))


def jet_corpus(
    folder: Path, count: int = 400, seed: int = 1, labels: tuple[str, ...] = LABELS, longest: int = 8
) -> Corpus:
    """A corpus of such jets with a train and a val split."""
    schema = jets(1, 0, labels).schema
    jobs = (Job("train", 0, None, size=count), Job("val", 0, None, size=count // 4))
    plan = Plan({"seed": seed}, jobs, "jets", schema, labels, "stored", 64, {})
    return write_corpus(folder, plan, lambda job: [jets(job.size, seed + len(job.split), labels, longest)])


def showers(count: int, seed: int) -> pa.RecordBatch:
    """Photon showers: more hits and more energy with the incident energy; no cell twice."""
    draws = np.random.default_rng(seed)
    incident = draws.uniform(10, 100, count)
    lengths = (incident / 8).astype(np.int64) + 1
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    cells = np.concatenate([draws.permutation(LAYERS * CELLS * CELLS)[:length] for length in lengths])
    layer, rest = np.divmod(cells, CELLS * CELLS)
    cell_a, cell_b = np.divmod(rest, CELLS)
    points = {"layer": layer, "cell_a": cell_a, "cell_b": cell_b, "energy": np.exp(draws.normal(0, 1, len(cells)))}
    columns = {
        "incident_energy": incident,
        "direction_x": np.zeros(count),
        "direction_y": np.zeros(count),
        "direction_z": np.ones(count),
        "particle": np.full(count, 22),
        "source_entry": np.arange(count),
    }
    told = ("incident_energy", "direction_x", "direction_y", "direction_z", "particle")
    schema = records.schema("showers", ("cell_a", "cell_b", "layer", "energy"), told)
    return shower_batch(schema, offsets, points, columns)


def shower_corpus(folder: Path, count: int = 200, seed: int = 1, cylinder: bool = False, pitch: float = 10.0) -> Corpus:
    """A corpus of such showers with a train and a val split; their cells of ``pitch`` mm are squares, or rings and
    sectors."""
    bins = Bins(CELLS, -3 * pitch, pitch)
    both = (Bins(CELLS, 0.0, pitch), Bins.sectors(CELLS)) if cylinder else (bins, bins)
    layers = tuple(Layer(number, *both, position=5.0 * number, thickness=5.0) for number in range(LAYERS))
    jobs = (Job("train", 0, None, size=count), Job("val", 0, None, size=count // 4))
    plan = Plan(
        {"seed": seed},
        jobs,
        "showers",
        showers(1, 0).schema,
        (),
        "",
        64,
        {},
        geometry=Geometry(name="toy", kind="cylinder" if cylinder else "grid", layers=layers, threshold=0.01).to_data(),
    )
    return write_corpus(folder, plan, lambda job: [showers(job.size, seed + len(job.split))])


def tokens_of(corpus: Corpus, folder: Path, *options: str) -> Path:
    """The token corpus of a corpus, by a tokenizer of its own (k-means unless the options say otherwise)."""
    arguments = [str(corpus.path), "--out", str(folder / "tokenizer")]
    arguments += list(options) or ["--tokenizer=kmeans", "--codes=32", "--steps=2"]
    fit(parse(fit_config(arguments), arguments, "fit"))
    return apply(folder / "tokenizer", corpus.path, folder / f"{corpus.path.name}-tokens").path
