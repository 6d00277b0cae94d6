"""A comparison of jets as data (report.json) and as one page that opens without a network (index.html)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from hepfm.benchmarks.jets import OBSERVABLES, Comparison, Measured, measure
from hepfm.core.files import write_json, write_text
from hepfm.core.observables import Constituents
from hepfm.core.plots import Curve, Theme, ratio_plot, to_svg
from hepfm.core.statistics import REPLICAS, Estimate
from hepfm.core.versions import versions

# Errors below this are written with a power of ten.
TINY = 1e-5
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Request:
    """A required improvement over the baseline, shown with its verdict.

    Attributes:
        observable: name of an observable.
        times: how many times nearer to the reference than the baseline the sample has to be.
    """

    observable: str
    times: float


def evaluate_jets(
    reference: Constituents,
    samples: Mapping[str, Constituents],
    out: Path,
    *,
    provenance: Mapping[str, Any],
    floor_reference: Constituents | None = None,
    baseline: str | None = None,
    requests: Sequence[Request] = (),
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
        title: headline of the page.
        seed: of bootstrap replicas and splits.
        replicas: bootstrap replicas per distance, and splits per floor.

    Returns:
        Path of the page.
    """
    measured = measure(reference, samples, floor_reference, seed=seed, replicas=replicas)
    verdicts = [_verdict(request, measured, next(iter(samples)), baseline) for request in requests if baseline]
    data = {
        "title": title,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "jets": {"reference": len(reference), **{name: len(jets) for name, jets in samples.items()}},
        "further_real_jets": 0 if floor_reference is None else len(floor_reference),
        "baseline": baseline,
        "verdicts": verdicts,
        "observables": {item.observable.name: _as_data(item, baseline) for item in measured},
        "provenance": dict(provenance),
        "versions": versions(),
        "seed": seed,
        "replicas": replicas,
    }
    write_json(out / "report.json", data)
    write_text(out / "index.html", _page(data, measured))
    return out / "index.html"


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


def _page(data: dict[str, Any], measured: Sequence[Measured]) -> str:
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    rows = [
        {
            "title": item.observable.title,
            "unit": item.observable.unit,
            "floor": _floor(next(iter(item.samples.values()))),
            "cells": [_cell(item, name, data["baseline"]) for name in item.samples],
        }
        for item in measured
    ]
    return environment.get_template("jets.html.j2").render(
        data=data,
        rows=rows,
        names=list(measured[0].samples),
        plots=[
            {"title": item.observable.title, "light": _plot(item, "light"), "dark": _plot(item, "dark")}
            for item in measured
        ],
        definitions=[(observable.title, observable.definition) for observable in OBSERVABLES],
    )


def _cell(item: Measured, name: str, baseline: str | None) -> dict[str, Any]:
    comparison = item.samples[name]
    times = item.times_better(name, baseline) if baseline not in (None, name) else None
    return {
        "distance": number(comparison.distance),
        "compatible": comparison.compatible,
        "times": "" if times is None else f"{times.value:.1f}x nearer",
        "note": comparison.note,
    }


def _floor(comparison: Comparison) -> str:
    floor = comparison.floor
    return "not computed" if floor is None else number(Estimate(floor.value, floor.error))


def number(estimate: Estimate | None) -> str:
    """A value and its error, to two digits of the error."""
    if estimate is None:
        return "not computed"
    if estimate.error <= 1e-9 * abs(estimate.value):  # as of the median of values from a table
        return f"{estimate.value:.3g} ± 0"
    if estimate.error < TINY:
        return f"{estimate.value:.1e} ± {estimate.error:.0e}"
    digits = 0 if estimate.error >= 10 else 1 if estimate.error >= 1 else len(f"{1 / max(estimate.error, 1e-9):.0f}")
    digits = digits if estimate.error >= 1 else digits + 1
    return f"{estimate.value:.{digits}f} ± {estimate.error:.{digits}f}"


def _plot(item: Measured, theme: Any) -> str:
    observable = item.observable
    figure = ratio_plot(
        Curve("real", item.reference),
        [Curve(name, comparison.histogram) for name, comparison in item.samples.items()],
        xlabel=observable.axis,
        ylabel=f"share of {observable.per}s",
        log_x=observable.spacing == "log10",
        theme=theme,
    )
    return inline_svg(figure, f"{observable.name}-{theme}-")


def sections(
    title: str,
    date: str,
    parts: Sequence[Mapping[str, Any]],
    definitions: Sequence[tuple[str, str]],
    provenance: Mapping[str, Any],
) -> str:
    """A page of parts, each with ``title``, ``text``, ``notes``, ``tables``, and pictures ``wide`` and ``plots``."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("sections.html.j2").render(
        title=title, date=date, parts=parts, definitions=definitions, provenance=provenance
    )


def themed(title: str, name: str, figures: Mapping[Theme, Figure]) -> dict[str, str]:
    """A picture of a page of parts, for light and dark."""
    drawn: dict[str, str] = {theme: inline_svg(figure, f"{name}-{theme}-") for theme, figure in figures.items()}
    return {"title": title, **drawn}


def inline_svg(figure: Figure, prefix: str) -> str:
    """A figure for a page: identifiers are local to a picture, but the page holds many, so they get a prefix."""
    svg = to_svg(figure).decode()
    svg = svg[svg.index("<svg") :].replace('id="', f'id="{prefix}').replace('href="#', f'href="#{prefix}')
    return svg.replace("url(#", f"url(#{prefix}")
