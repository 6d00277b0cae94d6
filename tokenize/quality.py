"""How well a tokenizer's reconstructed jets agree with the original ones, and how much of its codebook it uses."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from hepfm.core.observables import Constituents, jet_mass, jet_pt
from hepfm.core.progress import progress
from hepfm.core.records import POINTS_COLUMN, offsets_of, points_of
from hepfm.core.statistics import wasserstein_1
from hepfm.ingest.corpus import Split
from hepfm.tokenize.registry import Tokenizer

MAX_RECORDS = 10_000


def measure(tokenizer: Tokenizer, split: Split, max_records: int = MAX_RECORDS) -> dict[str, float]:
    """Quality on the first records of a split.

    Returns:
        ``codebook_use`` (share of the codes that occur) and ``codebook_perplexity``; ``NAME_error``, the mean absolute
        error of each quantity of a point in its unit, for pt relative; for jets ``jet_mass_w1_gev`` and
        ``jet_pt_w1_gev``, the Wasserstein distance between original and reconstructed, and ``..._residual_gev``, the
        standard deviation of the difference; ``records`` and ``points`` looked at.
    """
    counts = np.zeros(tokenizer.codes, dtype=np.int64)
    errors = dict.fromkeys(tokenizer.contract.names, 0.0)
    jets: list[tuple[np.ndarray, ...]] = []
    records = 0
    with progress("measuring", min(max_records, split.records), "jets") as task:
        for records_read in _first(split, max_records):
            batch = tokenizer.contract.prepared(records_read, split.corpus.manifest.axis)
            column = batch.column(POINTS_COLUMN[tokenizer.contract.kind])
            offsets = offsets_of(column)
            ids = tokenizer.encode(batch).flatten().to_numpy()
            decoded = tokenizer.decode(ids, offsets)
            original = {name: points_of(batch, name) for name in tokenizer.contract.names}
            counts += np.bincount(ids, minlength=tokenizer.codes)
            for name, value in original.items():
                scale = value.astype(np.float64) if name == "pt" else 1.0
                errors[name] += float(np.abs((decoded[name].astype(np.float64) - value) / scale).sum())
            if {"pt", "deta", "dphi"} <= set(errors):
                jets.append((*_jets(original, offsets), *_jets(decoded, offsets)))
            records += len(batch)
            task.advance(len(batch))
    points = int(counts.sum())
    figures: dict[str, float] = {
        "records": records,
        "points": points,
        "codebook_use": float((counts > 0).mean()),
        "codebook_perplexity": perplexity(counts),
        **{f"{name}_error": total / max(points, 1) for name, total in errors.items()},
    }
    if jets:
        mass, pt, new_mass, new_pt = (np.concatenate(column) for column in zip(*jets, strict=True))
        for name, old, new in (("jet_mass", mass, new_mass), ("jet_pt", pt, new_pt)):
            figures[f"{name}_w1_gev"] = float(wasserstein_1(old, new))
            figures[f"{name}_residual_gev"] = float(np.std(new - old))
    return figures


def perplexity(counts: np.ndarray) -> float:
    """exp(entropy) of how often each code occurs: the number of codes that would do at equal frequencies."""
    share = counts[counts > 0] / max(1, counts.sum())
    return float(np.exp(-(share * np.log(share)).sum()))


def _first(split: Split, records: int) -> Iterator[pa.RecordBatch]:
    for batch in split:
        yield batch.slice(0, records)
        records -= len(batch)
        if records <= 0:
            return


def _jets(points: dict[str, np.ndarray], offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    jets = Constituents(points["pt"], points["deta"], points["dphi"], offsets)
    return jet_mass(jets), jet_pt(jets)
