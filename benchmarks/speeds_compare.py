"""What changed between two runs of the benchmarks, and what of it is beyond noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hepfm.benchmarks.tables import Cell, Table
from hepfm.benchmarks.workload import read_details
from hepfm.core.errors import HepfmError
from hepfm.core.files import read_json

VALUE = "value"


def read_results(path: Path) -> list[dict[str, Any]]:
    """Results of an earlier run, each with its details: its bench.json, or what ``hepfm bench NAME --json`` wrote.

    Raises:
        HepfmError: nothing there, or something else.
    """
    if not path.is_file():
        raise HepfmError("no such file", path, "name the bench.json of an earlier run")
    data = read_json(path)
    if isinstance(data, dict) and "results" in data:
        return detailed(data)
    if isinstance(data, dict) and {"name", "value", "ratios"} <= data.keys():
        return [{**read_details(path), **data}]
    raise HepfmError("holds no results of benchmarks", path, "name the bench.json of an earlier run")


def detailed(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The results of a run, each with its details."""
    return [{**data.get("details", {}).get(result["name"], {}), **result} for result in data["results"]]


def changes(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each value and each ratio of both runs.

    Noise is the sum of both relative spreads over repeats; a change of the logarithm by more is beyond it. Values of
    different machines or units are not compared, ratios are.

    Returns:
        For each: benchmark, what (``value`` or the name of a ratio), old, new, change (new over old - 1), noise (None
        if a run does not tell it), beyond (None likewise), note.
    """
    before = {result["name"]: result for result in old}
    found = []
    for result in new:
        other = before.pop(result["name"], None)
        if other is None:
            found.append(_one(result["name"], VALUE, None, result["value"], None, "not in the earlier run"))
            continue
        note = ""
        if other["unit"] != result["unit"]:
            note = f"was in {other['unit']}"
        elif other["machine"] != result["machine"]:
            note = f"was another machine: {other['machine']}"
        noise = _noise(_value_spread(other), _value_spread(result))
        found.append(_one(result["name"], VALUE, other["value"], result["value"], noise, note))
        for name, ratio in result["ratios"].items():
            spreads = [each.get("ratio_spread", {}).get(name) for each in (other, result)]
            there = name in other["ratios"]
            found.append(
                _one(
                    result["name"],
                    name,
                    other["ratios"][name] if there else None,
                    ratio,
                    _noise(*spreads),
                    "" if there else "not in the earlier run",
                )
            )
    found += [_one(name, VALUE, result["value"], None, None, "not in this run") for name, result in before.items()]
    return found


def _value_spread(result: dict[str, Any]) -> float | None:
    spread = result["spread"]
    if isinstance(spread, dict):  # results of earlier versions told that of each way
        spread = spread.get(result.get("value_of"))
    return None if spread is None else float(spread)


def _noise(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second


def _one(
    benchmark: str, what: str, old: float | None, new: float | None, noise: float | None, note: str
) -> dict[str, Any]:
    change = beyond = None
    if old and new and not note:
        change = new / old - 1
        beyond = None if noise is None else abs(math.log(new / old)) > noise
    return {
        "benchmark": benchmark,
        "what": what,
        "old": old,
        "new": new,
        "change": change,
        "noise": noise,
        "beyond": beyond,
        "note": note,
    }


def changes_table(found: Sequence[dict[str, Any]]) -> Table:
    """Everything that was compared; better is green, worse is red, where it is beyond noise."""
    body = []
    for each in found:
        up = bool(each["change"] and each["change"] > 0)
        told = {True: "beyond noise", False: "within noise", None: each["note"] or "noise not known"}[each["beyond"]]
        change = "-" if each["change"] is None else f"{each['change']:+.1%}"
        body.append(
            (
                Cell(each["benchmark"]),
                Cell(each["what"] if each["what"] == VALUE else f"ratio to {each['what']}"),
                _number(each["old"]),
                _number(each["new"]),
                Cell(change, missed=bool(each["beyond"]) and not up, good=bool(each["beyond"]) and up),
                Cell("-" if each["noise"] is None else f"±{each['noise']:.1%}"),
                Cell(told),
            )
        )
    note = "Noise: half the range over repeats, of both runs together. A busy machine moves ratios less."
    return Table("Changes", ("benchmark", "what", "before", "now", "change", "noise", ""), tuple(body), note)


def _number(value: float | None) -> Cell:
    return Cell("-" if value is None else f"{value:,.4g}")
