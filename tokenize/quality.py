"""How well a tokenizer's reconstructed jets agree with the original ones, and how much of its codebook it uses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.core.observables import Constituents, jet_mass, jet_pt
from hepfm.core.progress import progress
from hepfm.core.records import POINTS_COLUMN, offsets_of
from hepfm.core.statistics import Values, wasserstein_1_paired
from hepfm.ingest.corpus import Split
from hepfm.tokenize.features import FeatureSpec
from hepfm.tokenize.tokens import Stream

if TYPE_CHECKING:
    from hepfm.tokenize.registry import Tokenizer

MAX_RECORDS = 10_000
RELATIVE = ("pt", "energy")
REPLICAS = 100  # of the bootstrap


def measure(tokenizer: Tokenizer, split: Split, max_records: int = MAX_RECORDS) -> dict[str, float]:
    """Quality on the first records of a split.

    Returns:
        ``codebook_use`` (share of the codes that occur, of all streams together; ``codebook_use_NAME`` of each of
        several) and ``codebook_perplexity`` (likewise, of each of several only); ``NAME_error``, the mean absolute
        error of each quantity of a point in its unit (relative for pt and energy; where it is null in neither; of
        species and charge the share that is another one), ``null_error``, the share of points whose nulls are others;
        for jets ``jet_mass_w1_gev`` and ``jet_pt_w1_gev``, the Wasserstein distance between original and
        reconstructed, and ``..._residual_gev``, the standard deviation of the difference, both with their statistical
        errors as ``..._uncertainty``; ``records`` and ``points`` looked at.

    Raises:
        HepfmError: a token decodes to a number that is not finite.
    """
    seen = [np.zeros((0, len(tokenizer.streams)), dtype=np.uint32)]
    errors = {name: np.zeros(2) for name in tokenizer.contract.names}
    nulls = 0
    jets: list[tuple[np.ndarray, ...]] = []
    records = 0
    with progress("measuring", min(max_records, split.records), tokenizer.contract.kind) as task:
        for records_read in _first(split, max_records):
            batch = tokenizer.contract.prepared(records_read, split.corpus.manifest.axis)
            column = batch.column(POINTS_COLUMN[tokenizer.contract.kind])
            offsets = offsets_of(column)
            tokens = tokenizer.encode(batch)
            told = tokenizer.contract.conditions_of(batch)
            decoded = tokenizer.decode(tokens.ids, offsets, tokens.continuous, told)
            original = tokenizer.contract.values_of(batch)
            seen.append(tokens.ids.reshape(len(tokens.ids), -1).astype(np.uint32))
            for group in tokenizer.contract.groups:
                nulls += tokenizer.contract.null_errors(group, original, decoded)
            for feature in tokenizer.contract.features:
                _check_finite(feature, decoded[feature.name])
                errors[feature.name] += _errors(feature, original[feature.name], decoded[feature.name])
            if {"pt", "deta", "dphi"} <= set(errors):
                jets.append((*_jets(original, offsets), *_jets(decoded, offsets)))
            records += len(batch)
            task.advance(len(batch))
    # Of those that occur: a table of all codes, of which binning may have 2^32, would not fit into memory.
    counts = [np.unique(ids, return_counts=True)[1] for ids in np.concatenate(seen).T]
    points = int(counts[0].sum())
    figures: dict[str, float] = {
        "records": records,
        "points": points,
        "codebook_use": sum(map(len, counts)) / sum(stream.codes for stream in tokenizer.streams),
        **({"null_error": nulls / max(points, 1)} if tokenizer.contract.groups else {}),
        **{f"{name}_error": float(total / max(count, 1)) for name, (total, count) in errors.items()},
    }
    for stream, count in zip(tokenizer.streams, counts, strict=True):
        figures[of_stream("codebook_use", stream)] = len(count) / stream.codes
        figures[of_stream("codebook_perplexity", stream)] = perplexity(count)
    if jets:
        mass, pt, new_mass, new_pt = (np.concatenate(column) for column in zip(*jets, strict=True))
        for name, old, new in (("jet_mass", mass, new_mass), ("jet_pt", pt, new_pt)):
            values = (Values.per_record(sample) for sample in (old, new))
            distance = wasserstein_1_paired(*values, key=("quality", name), replicas=REPLICAS)
            figures[f"{name}_w1_gev"], figures[f"{name}_w1_gev_uncertainty"] = distance.value, distance.error
            width, uncertainty = _spread(new.astype(np.float64) - old)
            figures[f"{name}_residual_gev"], figures[f"{name}_residual_gev_uncertainty"] = width, uncertainty
    return figures


def of_stream(figure: str, stream: Stream) -> str:
    """Name of a figure of one id list: it has the list's name where there are several."""
    return f"{figure}_{stream.name}" if stream.name else figure


def _check_finite(feature: FeatureSpec, decoded: np.ndarray) -> None:
    good = ~np.isinf(decoded) if feature.null_with else np.isfinite(decoded)
    if not good.all():
        raise HepfmError(
            f"decodes to a {feature.name} that is not finite",
            "tokenizer",
            "its training diverged: fit another run with a lower --learning-rate",
        )


def _errors(feature: FeatureSpec, original: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Sum of the errors of a quantity, and of how many points."""
    if feature.categories:
        return np.array([np.count_nonzero(original != decoded), len(original)], dtype=np.float64)
    differences = np.abs(decoded.astype(np.float64) - original)
    if feature.name in RELATIVE:
        differences /= original
    return np.array([np.nansum(differences), np.count_nonzero(~np.isnan(differences))])


def perplexity(counts: np.ndarray) -> float:
    """exp(entropy) of how often each code occurs: the number of codes that would do at equal frequencies."""
    share = counts[counts > 0] / max(1, counts.sum())
    return float(np.exp(-(share * np.log(share)).sum()))


def _spread(differences: np.ndarray) -> tuple[float, float]:
    """Standard deviation and its statistical error, by the variance of the sample variance, of any distribution."""
    squares = np.square(differences - differences.mean())
    width = float(np.sqrt(squares.mean()))
    uncertainty = float(squares.std() / np.sqrt(len(squares)) / (2 * width)) if width else 0.0
    return width, uncertainty


def _first(split: Split, records: int) -> Iterator[pa.RecordBatch]:
    for batch in split:
        yield batch.slice(0, records)
        records -= len(batch)
        if records <= 0:
            return


def _jets(points: dict[str, np.ndarray], offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    jets = Constituents(points["pt"], points["deta"], points["dphi"], offsets)
    return jet_mass(jets), jet_pt(jets)
