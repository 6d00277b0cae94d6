"""A comparison of showers as data (report.json) and as one page that opens without a network (index.html)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hepfm.benchmarks.reports.classifying import Kinds, Wanted, classified
from hepfm.benchmarks.reports.classifying import as_data as classifiers_as_data
from hepfm.benchmarks.reports.displays import QUANTILES, showers_near
from hepfm.benchmarks.reports.inputs import remarks
from hepfm.benchmarks.reports.marks import with_verdict
from hepfm.benchmarks.reports.shower_page import ShowerReport, page
from hepfm.benchmarks.scores.classifier_inputs import Image, Inputs, Voxels, high_level
from hepfm.benchmarks.scores.classifiers import dnn
from hepfm.benchmarks.scores.outcome import Outcome
from hepfm.benchmarks.scores.resnet import resnet
from hepfm.benchmarks.scores.shower_suite import ShowerScores, ShowerSide, alike, check_showers, shower_scores
from hepfm.benchmarks.scores.showers import Hits, ShowerSample
from hepfm.benchmarks.scores.suite_parts import Seconds
from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.core.files import write_json, write_text
from hepfm.core.progress import say
from hepfm.core.statistics import REPLICAS
from hepfm.core.versions import versions
from hepfm.ingest.geometry import Geometry


def evaluate_showers(
    reference: ShowerSample,
    samples: Mapping[str, ShowerSample],
    out: Path,
    *,
    provenance: Mapping[str, Any],
    without: Sequence[str] = (),
    classifiers: Wanted | None = None,
    title: str = "Showers compared",
    seed: int = 0,
    replicas: int = REPLICAS,
) -> Path:
    """Compare samples of showers with real ones and write the report. All are read in chunks, several times.

    Args:
        reference: real showers.
        samples: showers to judge, by name; in the cells of the reference.
        out: folder of the report.
        provenance: where everything came from, by name; values are plain data.
        without: groups of metrics that are left out.
        classifiers: which are trained, if any.
        title: headline of the page.
        seed: of bootstrap replicas, splits and classifiers.
        replicas: bootstrap replicas behind each error, and splits behind each floor.

    Returns:
        Path of the page.

    Raises:
        HepfmError: samples that cannot be compared with the reference; nothing is written then.
    """
    data, found = measure(reference, samples, without, classifiers, seed=seed, replicas=replicas)
    data = {"title": title, **data, "provenance": dict(provenance)}
    content = page(data, found)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "report.json", data)
    write_text(out / "index.html", content)
    return out / "index.html"


def measure(
    reference: ShowerSample,
    samples: Mapping[str, ShowerSample],
    without: Sequence[str] = (),
    classifiers: Wanted | None = None,
    *,
    seed: int = 0,
    replicas: int = REPLICAS,
) -> tuple[dict[str, Any], ShowerReport]:
    """What a report tells, as plain data and as what its page is drawn from; arguments as for a report."""
    if not samples:
        raise HepfmError("no sample to compare with the reference", "evaluate showers", "name one or several samples")
    real, seconds = ShowerSide(reference, seed), Seconds()
    sides = {name: alike(reference, sample, seed) for name, sample in samples.items()}
    with seconds.of("features"):
        for name, side in sides.items():  # all are looked at before the long work begins
            check_showers(real.features, side.features, name)
    scores = {
        name: shower_scores(real, side, seed=seed, replicas=replicas, without=without, seconds=seconds)
        for name, side in sides.items()
    }
    trained = None
    if classifiers is not None:
        with seconds.of("classifiers"):
            trained = classified(real, halves_of(real, seed), sides, _kinds(reference.geometry), classifiers)
    energies = np.quantile(real.features.incident, QUANTILES)
    shown = {
        name: showers_near(side.sample, side.features.incident, energies)
        for name, side in {"reference": real, **sides}.items()
    }
    found = ShowerReport(real, sides, scores, trained, shown)
    told = remarks(_values(real), {name: _values(side) for name, side in sides.items()})
    for remark in told:
        say(remark)
    data = {
        "remarks": told,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "showers": {"reference": len(real.features), **{name: len(side.features) for name, side in sides.items()}},
        "geometry": {"name": reference.geometry.name, "voxels": reference.geometry.voxels},
        "scores": {name: _scores(part) for name, part in scores.items()},
        "classifiers": None if trained is None else classifiers_as_data(trained),
        "versions": versions(),
        "seed": seed,
        "replicas": replicas,
        "seconds": seconds.parts,
    }
    return data, found


def _values(side: ShowerSide) -> tuple[np.ndarray, ...]:
    return (side.inputs,)


def _scores(scores: ShowerScores) -> dict[str, Any]:
    """As :meth:`ShowerScores.to_data`, every outcome with its verdict."""
    data = scores.to_data()
    data["separation"] = {part.observable.name: with_verdict(part.outcome) for part in scores.separation}
    data["correlation"] = with_verdict(scores.correlation)
    for group in ("means", "distances", "manifolds", "ild"):
        outcomes: dict[str, Outcome] = getattr(scores, group)
        data[group] = {name: with_verdict(outcome, judged=group != "manifolds") for name, outcome in outcomes.items()}
    return data


def halves_of(side: ShowerSide, seed: int) -> tuple[ShowerSide, ShowerSide]:
    """Two random halves of a sample, read in chunks like the whole."""
    first = generator("classifier halves", seed).permutation(side.sample.showers) < side.sample.showers // 2
    return ShowerSide(_chosen(side.sample, first), seed), ShowerSide(_chosen(side.sample, ~first), seed)


def _chosen(sample: ShowerSample, keep: np.ndarray) -> ShowerSample:
    """The showers where ``keep`` (n,) is true."""

    def read() -> Any:
        start = 0
        for hits in sample.read():
            here = keep[start : start + len(hits)]
            start += len(hits)
            kept = here[hits.shower]
            place = np.cumsum(here) - 1
            yield Hits(hits.incident[here], place[hits.shower[kept]], hits.voxel[kept], hits.energy[kept])

    return ShowerSample(f"half of {sample.name}", sample.geometry, int(keep.sum()), read, sample.origin)


def _kinds(geometry: Geometry) -> Kinds:
    """Every classifier of showers: its inputs and its network."""

    def picture(width: int, outputs: int = 1) -> Any:
        return resnet(Image.of(geometry))(width, outputs)

    def voxels(side: ShowerSide, normed: bool = False) -> Inputs:
        return Voxels(side.sample, normed)

    return {
        "low": (voxels, dnn),
        "low-normed": (partial(voxels, normed=True), dnn),
        "high": (lambda side: high_level(side.features), dnn),
        "resnet": (voxels, picture),
        "posterior": (voxels, dnn),
    }
