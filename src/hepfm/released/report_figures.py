"""The figures of a report that belong beside a model: numbers by name, with ``NAME_uncertainty`` and ``NAME_floor``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hepfm.core.errors import HepfmError
from hepfm.core.files import read_json

REPORT = "report.json"
JET_QUANTITIES = ("jet_mass", "jet_pt", "multiplicity", "tau21", "tau32", "d2")
SHOWER_GROUPS = {"means": "separation_power_", "distances": ""}


def figures_of(report: Path) -> dict[str, float]:
    """What a report of ``hepfm evaluate tagging | jets | showers`` measured of its first sample.

    Raises:
        HepfmError: there is no report, or one of something else.
    """
    data = read_json(report / REPORT)
    if "rejections" in data:
        found = _tagging(data)
    elif "observables" in data:
        found = _jets(data)
    elif "showers" in data:
        found = _showers(data)
    else:
        raise HepfmError("is a report of something else than tagging, jets or showers", report / REPORT)
    return dict(found)


def _tagging(data: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    yield "judged_jets", data["jets"]
    for name in ("accuracy", "auc", "calibration_error"):
        yield from _estimate(name, data[name])
    for item in data["rejections"]:
        name = f"rejection_of_{item['background']}_at_{item['efficiency'] * 100:g}_percent_of_{item['signal']}"
        if item["value"] is None:  # no jet of the background passed
            yield f"{name}_lower_limit", item["lower_limit"]
        else:
            yield from _estimate(name, item)


def _jets(data: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    sample = next(name for name in data["jets"] if name != "reference")
    yield "judged_jets", data["jets"][sample]
    for quantity in JET_QUANTITIES:
        item = data["observables"].get(quantity)
        found = item and item["samples"][sample]
        if found and found["wasserstein_1"]:
            unit = {"GeV": "_gev"}.get(item["unit"], "")
            yield from _estimate(f"{quantity}_w1{unit}", found["wasserstein_1"], found["floor"])


def _showers(data: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    sample, scores = next(iter(data["scores"].items()))
    yield "judged_showers", data["showers"][sample]
    for group, prefix in SHOWER_GROUPS.items():
        for name, outcome in scores[group].items():
            if outcome and outcome["value"]:
                plain = prefix + "_".join(name.lower().replace("-", " ").split())
                yield from _estimate(plain, outcome["value"], outcome["floor"])
    for name, told in ((data["classifiers"] or {}).get("scores") or {}).items():
        if told["auc"][sample] and told["auc"][sample]["value"]:
            yield from _estimate(f"classifier_{name.replace('-', '_')}_auc", told["auc"][sample]["value"])
    for bin_ in scores["response"] or ():
        energies = f"{bin_['low']:.0f}_to_{bin_['high']:.0f}_gev"
        for quantity in ("response", "resolution"):
            if ratio := bin_[f"{quantity}_ratio"]:
                yield from _estimate(f"{quantity}_ratio_{energies}", ratio)


def _estimate(
    name: str, estimate: Mapping[str, Any], floor: Mapping[str, Any] | None = None
) -> Iterator[tuple[str, float]]:
    yield name, estimate["value"]
    if estimate["error"] is not None:
        yield f"{name}_uncertainty", estimate["error"]
    if floor is not None:
        yield f"{name}_floor", floor["value"]
