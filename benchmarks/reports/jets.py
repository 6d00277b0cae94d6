"""A comparison of jets as data (report.json) and as one page that opens without a network (index.html)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from hepfm.benchmarks.jets import OBSERVABLES, SUBSTRUCTURE, Measured, measure
from hepfm.benchmarks.reports.classifying import Wanted, classified
from hepfm.benchmarks.reports.classifying import as_data as classifiers_as_data
from hepfm.benchmarks.reports.inputs import remarks
from hepfm.benchmarks.reports.jets_page import JetReport, page
from hepfm.benchmarks.reports.marks import with_verdict
from hepfm.benchmarks.scores.classifier_inputs import Table as Inputs
from hepfm.benchmarks.scores.classifiers import dnn
from hepfm.benchmarks.scores.jet_suite import JetScores, check_jets, jet_scores
from hepfm.benchmarks.scores.jet_values import JetSide, jet_inputs
from hepfm.benchmarks.scores.suite_parts import Seconds
from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.core.files import write_json, write_text
from hepfm.core.observables import Constituents
from hepfm.core.progress import say
from hepfm.core.statistics import REPLICAS
from hepfm.core.versions import versions


@dataclass(frozen=True)
class Request:
    """A required improvement over the baseline, shown with its verdict.

    Attributes:
        observable: name of an observable.
        times: how many times nearer to the reference than the baseline the sample has to be.
    """

    observable: str
    times: float


@dataclass(frozen=True)
class Suite:
    """The metrics beside one-dimensional distances.

    Attributes:
        protocol: of W1M, W1P, W1EFP.
        without: groups of metrics that are left out.
        classifiers: trained if wanted.
        published: key of published tables of the same jets (``g``, ``q``, ``t`` of JetNet), if they are such.
    """

    protocol: str = "jetnet"
    without: tuple[str, ...] = ()
    classifiers: Wanted | None = None
    published: str | None = None


def evaluate_jets(
    reference: Constituents,
    samples: Mapping[str, Constituents],
    out: Path,
    *,
    provenance: Mapping[str, Any],
    floor_reference: Constituents | None = None,
    baseline: str | None = None,
    requests: Sequence[Request] = (),
    suite: Suite | None = None,
    title: str = "Jets compared",
    seed: int = 0,
    replicas: int = REPLICAS,
) -> Path:
    """Compare samples of jets with real ones and write the report.

    Args:
        reference: real jets.
        samples: jets to judge, by name, the one of interest first.
        out: folder of the report.
        provenance: where everything came from, by name; values are plain data.
        floor_reference: further real jets, disjoint from ``reference``, for the floor.
        baseline: name of the sample that the others should beat.
        requests: improvements over the baseline that are asked of the first sample.
        suite: further metrics; none by default, which takes seconds.
        title: headline of the page.
        seed: of bootstrap replicas and splits.
        replicas: bootstrap replicas per distance, and splits per floor.

    Returns:
        Path of the page.
    """
    real, sides = JetSide(reference), {name: JetSide(jets) for name, jets in samples.items()}
    observables = OBSERVABLES if suite is None else (*OBSERVABLES, *SUBSTRUCTURE)
    measured = measure(real, sides, floor_reference, observables, seed=seed, replicas=replicas)
    seconds = Seconds()
    found = JetReport(measured)
    if suite is not None:
        found = _further(measured, real, sides, suite, seconds, seed, replicas)
    told = remarks(_values(reference), {name: _values(jets) for name, jets in samples.items()})
    for remark in told:
        say(remark)
    verdicts = [_verdict(request, measured, next(iter(samples)), baseline) for request in requests if baseline]
    data = {
        "title": title,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "jets": {"reference": len(reference), **{name: len(jets) for name, jets in samples.items()}},
        "further_real_jets": 0 if floor_reference is None else len(floor_reference),
        "remarks": told,
        "baseline": baseline,
        "verdicts": verdicts,
        "observables": {item.observable.name: _as_data(item, baseline) for item in measured},
        "scores": {name: _scores(scores) for name, scores in found.scores.items()},
        "classifiers": None if found.classifiers is None else classifiers_as_data(found.classifiers),
        "provenance": dict(provenance),
        "versions": versions(),
        "seed": seed,
        "replicas": replicas,
        "seconds": seconds.parts,
    }
    content = page(data, found, real, sides)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "report.json", data)
    write_text(out / "index.html", content)
    return out / "index.html"


def _values(jets: Constituents) -> tuple[np.ndarray, ...]:
    return jets.pt, jets.deta, jets.dphi, np.diff(jets.offsets)


def _further(
    measured: list[Measured],
    real: JetSide,
    sides: Mapping[str, JetSide],
    suite: Suite,
    seconds: Seconds,
    seed: int,
    replicas: int,
) -> JetReport:
    without = {"wasserstein", *suite.without}  # W1 of each quantity is measured already
    scores = {
        name: jet_scores(real, side, suite.protocol, seed=seed, replicas=replicas, without=without, seconds=seconds)
        for name, side in sides.items()
    }
    trained = None
    if suite.classifiers is not None:
        with seconds.of("classifiers"):
            trained = classified(real, _halves(real, seed), sides, JET_CLASSIFIERS, suite.classifiers)
    return JetReport(measured, scores, trained, suite.published)


def check_all(reference: Constituents, samples: Mapping[str, Constituents]) -> None:
    """See that samples can be compared with the reference, before anything is computed.

    Raises:
        HepfmError: as for :func:`hepfm.benchmarks.scores.jet_suite.jet_scores`; names the sample.
    """
    for name, jets in samples.items():
        try:
            check_jets(reference, jets)
        except HepfmError as error:
            where = f"sample '{name}'" if error.where == "sample" else error.where
            raise HepfmError(error.what, where, error.mend) from error


def _inputs(side: JetSide) -> Inputs:
    return Inputs(jet_inputs(side.quantities), "classifier of jets")


JET_CLASSIFIERS: dict[str, Any] = {"high": (_inputs, dnn), "posterior": (_inputs, dnn)}


def _halves(real: JetSide, seed: int) -> tuple[JetSide, JetSide]:
    first = generator("classifier halves", seed).permutation(len(real)) < len(real) // 2
    return JetSide(real.jets.select(first)), JetSide(real.jets.select(~first))


def _scores(scores: JetScores) -> dict[str, Any]:
    groups = {
        name: {key: with_verdict(outcome, key == "coverage", name != "manifolds") for key, outcome in group.items()}
        for name, group in vars(scores).items()
        if isinstance(group, dict) and name != "wasserstein"
    }
    return {**groups, "correlation": with_verdict(scores.correlation), "protocol": scores.protocol}


def _verdict(request: Request, measured: Sequence[Measured], sample: str, baseline: str | None) -> dict[str, Any]:
    item = next(item for item in measured if item.observable.name == request.observable)
    times = item.times_better(sample, baseline) if baseline else None
    return {
        "observable": request.observable,
        "title": item.observable.title,
        "asked_times": request.times,
        "times": None if times is None else asdict(times),
        "met": times is not None and times.value >= request.times,
    }


def _as_data(item: Measured, baseline: str | None) -> dict[str, Any]:
    samples = {}
    for name, comparison in item.samples.items():
        times = item.times_better(name, baseline) if baseline not in (None, name) else None
        samples[name] = {
            "wasserstein_1": None if comparison.distance is None else asdict(comparison.distance),
            "floor": None if comparison.floor is None else asdict(comparison.floor),
            "compatible": comparison.compatible,
            "times_better_than_baseline": None if times is None else asdict(times),
            "undefined": comparison.undefined,
            "note": comparison.note,
        }
    return {
        "unit": item.observable.unit,
        "definition": item.observable.definition,
        "undefined": item.undefined,
        "samples": samples,
    }
