from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from arrow_source import ArrowSource, write_records
from hypothesis import given
from hypothesis import strategies as st

from hepfm.core.errors import HepfmError
from hepfm.core.records import schema
from hepfm.ingest.build import BuildOptions, build
from hepfm.ingest.jobs import REJECTED
from hepfm.ingest.plausible import faults, possible_records
from hepfm.ingest.verify import verify

JETS = 240
JET_SCHEMA = schema(
    "jets",
    ("pt", "deta", "dphi", "energy", "d0err", "dzerr", "puppi_weight"),
    ("pt", "pt_constituents", "eta", "phi", "mass", "softdrop_mass"),
)
SHOWER_SCHEMA = schema("showers", ("x", "energy"), ("incident_energy",))
Arrays = dict[str, np.ndarray]


def jets() -> Arrays:
    """Plain jets as flat arrays: 6 constituents each."""
    draws = np.random.default_rng(1)
    pt = np.sort(draws.uniform(1, 100, (JETS, 6)), axis=1)[:, ::-1]
    eta, deta = draws.uniform(-2, 2, JETS), draws.normal(0, 0.1, JETS * 6)
    return {
        "lengths": np.full(JETS, 6),
        "points.pt": pt.reshape(-1),
        "points.deta": deta,
        "points.dphi": draws.normal(0, 0.1, JETS * 6),
        "points.energy": 1.1 * pt.reshape(-1) * np.cosh(np.repeat(eta, 6) + deta),
        "points.d0err": draws.uniform(0, 1, JETS * 6),
        "points.dzerr": draws.uniform(0, 1, JETS * 6),
        "points.puppi_weight": draws.uniform(0, 1, JETS * 6),
        "pt": pt.sum(axis=1),
        "pt_constituents": pt.sum(axis=1),
        "eta": eta,
        "phi": draws.uniform(-3, 3, JETS),
        "mass": draws.uniform(10, 90, JETS),
        "softdrop_mass": draws.uniform(10, 90, JETS),
    }


def showers() -> Arrays:
    """Plain showers: 4 points each, half of the incident energy deposited."""
    energy = np.full(JETS, 50.0)
    return {
        "lengths": np.full(JETS, 4),
        "points.x": np.zeros(JETS * 4),
        "points.energy": np.repeat(energy * 1000 / 8, 4),
        "incident_energy": energy,
    }


def batch_of(arrays: Arrays, shape: pa.Schema) -> pa.RecordBatch:
    item = shape.field(0).type
    points = pa.StructArray.from_arrays(
        [pa.array(arrays[f"points.{field.name}"], field.type) for field in item.value_type],
        fields=list(item.value_type),
    )
    offsets = np.concatenate([[0], np.cumsum(arrays["lengths"])]).astype(np.int32)
    columns = [pa.ListArray.from_arrays(pa.array(offsets), points, type=item)]
    for field in shape.remove(0):
        default = np.arange(len(arrays["lengths"])) if field.name == "source_entry" else np.zeros(JETS)
        columns.append(pa.array(arrays.get(field.name, default).astype(field.type.to_pandas_dtype())))
    return pa.RecordBatch.from_arrays(columns, schema=shape)


def set_at(name: str, at: int, value: float) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[name][at] = value

    return change


def constituents(count: int) -> Callable[[Arrays], None]:
    """Jet 17 has this many constituents, of 1 GeV in sum."""

    def change(arrays: Arrays) -> None:
        first = 17 * 6
        for name in [name for name in arrays if name.startswith("points.")]:
            new = np.zeros(count)
            if name in ("points.pt", "points.energy"):
                new += (1 if name == "points.pt" else np.cosh(arrays["eta"][17])) / max(1, count)
            arrays[name] = np.concatenate([arrays[name][:first], new, arrays[name][first + 6 :]])
        arrays["lengths"][17] = count

    return change


def scaled(names: tuple[str, ...], factor: float) -> Callable[[Arrays], None]:
    """Jet or shower 17 in another unit."""

    def change(arrays: Arrays) -> None:
        width = 6 if "points.pt" in arrays else 4
        for name in names:
            chosen = slice(17 * width, 18 * width) if name.startswith("points.") else 17
            arrays[name][chosen] *= factor

    return change


POINT = 17 * 6 + 2
ALL = ("points.pt", "points.energy", "pt", "pt_constituents", "mass")
BAD_JETS = {
    "NaN in a constituent": (set_at("points.pt", POINT, np.nan), "constituents.pt is not finite"),
    "infinite energy": (set_at("points.energy", POINT, np.inf), "constituents.energy is not finite"),
    "NaN in a jet": (set_at("mass", 17, np.nan), "mass is not finite"),
    "negative energy": (set_at("points.energy", POINT, -1.0), "constituents.energy is negative"),
    "negative mass": (set_at("mass", 17, -5.0), "mass is negative"),
    "negative soft-drop mass": (set_at("softdrop_mass", 17, -1.0), "softdrop_mass is negative"),
    "negative error of d0": (set_at("points.d0err", POINT, -1.0), "constituents.d0err is negative"),
    "negative error of dz": (set_at("points.dzerr", POINT, -1.0), "constituents.dzerr is negative"),
    "negative PUPPI weight": (set_at("points.puppi_weight", POINT, -0.1), "constituents.puppi_weight is negative"),
    "PUPPI weight above 1": (set_at("points.puppi_weight", POINT, 1.5), "constituents.puppi_weight is above 1"),
    "eta of a jet": (set_at("eta", 17, -10.5), "eta is beyond 10"),
    "deta": (set_at("points.deta", POINT, -5.5), "constituents.deta is beyond 5"),
    "phi in degrees": (set_at("phi", 17, -130.0), "phi is no angle in rad (degrees?)"),
    "dphi in degrees": (set_at("points.dphi", POINT, 11.0), "constituents.dphi is no angle in rad (degrees?)"),
    "energy below momentum": (scaled(("points.energy",), 0.8), "a constituent's energy is below its momentum"),
    "no constituents": (constituents(0), "a jet without constituents"),
    "10,000 constituents": (constituents(10_000), "a jet with more than 5,000 constituents"),
    "TeV for GeV": (scaled(ALL, 1e-3), "jet pt is not in 5 to 100,000 GeV (is the unit GeV?)"),
    "MeV for GeV": (scaled(ALL, 1e3), "jet pt is not in 5 to 100,000 GeV (is the unit GeV?)"),
    "constituents in TeV": (
        scaled(("points.pt", "points.energy", "pt_constituents"), 1e-3),
        "constituents sum to less than 0.01 or more than 100 times the jet pt (units?)",
    ),
}
BAD_SHOWERS = {
    "negative deposit": (set_at("points.energy", 17 * 4, -0.1), "points.energy is negative"),
    "incident MeV": (scaled(("incident_energy",), 1e4), "incident energy is not in 0.001 to 100,000 GeV (units?)"),
    "deposits in keV": (scaled(("points.energy",), 1e3), "deposits above 5 times the incident energy (units?)"),
}
CASES = [
    *((jets, JET_SCHEMA, change, told, name) for name, (change, told) in BAD_JETS.items()),
    *((showers, SHOWER_SCHEMA, change, told, name) for name, (change, told) in BAD_SHOWERS.items()),
]


@pytest.mark.parametrize(("make", "shape", "change", "told"), [case[:4] for case in CASES], ids=[c[4] for c in CASES])
def test_what_cannot_be_stops_or_is_left_out_and_listed(
    make: Callable[[], Arrays], shape: pa.Schema, change: Callable[[Arrays], None], told: str, tmp_path: Path
) -> None:
    arrays = make()
    change(arrays)
    files = [write_records(tmp_path / "raw.arrow", batch_of(arrays, shape))]
    source, options = ArrowSource.of(files), {"run_entries": 40, "block_records": 16, "shard_entries": 80}
    with pytest.raises(HepfmError) as error:
        build(source, files, tmp_path / "stopped", BuildOptions(**options))
    assert error.value.what == told
    assert error.value.where == f"{files[0]}, entry 17"
    corpus = build(source, files, tmp_path / "skipped", BuildOptions(on_bad="skip", **options))
    flow = dict(corpus.manifest.provenance["cut_flow"])
    assert (flow["read"], flow[f"rejected: {told}"], flow["possible"]) == (JETS, 1, JETS - 1)
    listed = [json.loads(line) for line in (corpus.path / REJECTED).read_text().splitlines()]
    assert listed == [{"file": "raw.arrow", "entry": 17, "what": told}]
    entries = [e for name in corpus.splits() for block in corpus.split(name) for e in block["source_entry"].to_pylist()]
    assert sorted(entries) == [entry for entry in range(JETS) if entry != 17]
    assert verify(corpus.path) == []


def test_a_whole_file_in_another_unit_leaves_nothing_and_says_why(tmp_path: Path) -> None:
    arrays = jets()
    for name in ALL:
        arrays[name] *= 1e-3
    files = [write_records(tmp_path / "raw.arrow", batch_of(arrays, JET_SCHEMA))]
    with pytest.raises(HepfmError, match=r"no record is left.*is the unit GeV\?\): 240, possible: 0"):
        build(ArrowSource.of(files), files, tmp_path / "c", BuildOptions(on_bad="skip"))


def test_good_records_keep_every_rule() -> None:
    assert possible_records(batch_of(jets(), JET_SCHEMA)) == (pytest.approx(np.ones(JETS)), "")
    assert list(faults(batch_of(showers(), SHOWER_SCHEMA))) == []


@given(st.dictionaries(st.integers(0, JETS - 1), st.sampled_from([np.nan, -3.0, 0.5, 1e7, 400.0]), max_size=20))
def test_exactly_the_bad_records_are_found(changes: dict[int, float]) -> None:
    arrays: dict[str, Any] = jets()
    for jet, value in changes.items():
        arrays["pt"][jet] = arrays["pt_constituents"][jet] = value
    possible, fault = possible_records(batch_of(arrays, JET_SCHEMA))
    expected = {jet for jet, value in changes.items() if value != 400.0}
    assert set(np.flatnonzero(~possible).tolist()) == expected
    assert bool(fault) == bool(expected)
