"""The ROOT format of JetClass: one tree, 41 branches, one entry a jet (Zenodo 6619768), and its writer.

Conventions of the files: GeV, mm, rad; ``part_deta`` is multiplied by the sign of ``jet_eta`` while ``part_dphi`` is
not; impact parameters are exactly 0 for neutrals; the ten labels come in three types.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow as pa
import uproot

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.core.files import atomic_path
from hepfm.ingest.formats.arrays import segment_sums
from hepfm.ingest.shards import reblock

TREE = "tree"

# Class names in the order of the data set's own configuration; types of their branches.
LABELS = ("QCD", "Hbb", "Hcc", "Hgg", "H4q", "Hqql", "Zqq", "Wqq", "Tbqq", "Tbl")
_LABEL_DTYPES = ("float32", *("bool",) * 5, *("int32",) * 4)

# Branch of each species flag, in the order of the files.
FLAGS = {
    "part_isChargedHadron": "charged_hadron",
    "part_isNeutralHadron": "neutral_hadron",
    "part_isPhoton": "photon",
    "part_isElectron": "electron",
    "part_isMuon": "muon",
}
PART_FLOATS = (
    "part_px",
    "part_py",
    "part_pz",
    "part_energy",
    "part_deta",
    "part_dphi",
    "part_d0val",
    "part_d0err",
    "part_dzval",
    "part_dzerr",
    "part_charge",
)
LABEL_BRANCHES = tuple(f"label_{label}" for label in LABELS)
JET_BRANCHES = (
    "jet_pt",
    "jet_eta",
    "jet_phi",
    "jet_energy",
    "jet_nparticles",
    "jet_sdmass",
    "jet_tau1",
    "jet_tau2",
    "jet_tau3",
    "jet_tau4",
)
AUX_BRANCHES = (
    "aux_genpart_eta",
    "aux_genpart_phi",
    "aux_genpart_pid",
    "aux_genpart_pt",
    "aux_truth_match",
)

PART_DTYPES = {**dict.fromkeys(PART_FLOATS, "float32"), **dict.fromkeys(FLAGS, "int32")}
SCALAR_DTYPES = {
    **dict(zip(LABEL_BRANCHES, _LABEL_DTYPES, strict=True)),
    **dict.fromkeys(JET_BRANCHES, "float32"),
    **dict.fromkeys(AUX_BRANCHES, "float32"),
}
BRANCHES = (*PART_DTYPES, *SCALAR_DTYPES)

# What records from these files provide.
SCHEMA = records.schema(
    "jets",
    ("pt", "deta", "dphi", "energy", "d0", "d0err", "dz", "dzerr", "charge", "species"),
    (
        "pt",
        "pt_constituents",
        "eta",
        "phi",
        "mass",
        "softdrop_mass",
        "tau1",
        "tau2",
        "tau3",
        "tau4",
        "label",
    ),
)

# The one further branch that a file of ours has: ROOT's counter of the part_* arrays.
COUNTER = "npart"
BASKET_ENTRIES = 2_000
_PREFIX = "part_"
_BASKETS = 100
_FILE_ID = uuid.UUID(int=0)
_FIXED_TIME_CODE = (1 << 21) | (1 << 16)  # 1 January 1995, where ROOT's clock starts


def eta_sign(jet_eta: np.ndarray) -> np.ndarray:
    """Factor (n,) +1 or -1 between deta and the files' ``part_deta``."""
    return np.where(jet_eta > 0, np.float32(1), np.float32(-1))


def write_jetclass(path: Path, batches: Iterable[pa.RecordBatch], basket_entries: int = BASKET_ENTRIES) -> int:
    """Write jet records as a JetClass ROOT file: tree ``tree``, LZ4 level 4, equal records in equal bytes.

    The 41 branches have JetClass's names and element types. JetClass keeps its constituents as ``std::vector``; here
    they are variable-length arrays, which need one counter branch more, ``npart`` (int32, also the number of
    constituents): uproot (5.7) writes no vectors into a tree, and its RNTuples are no trees to JetClass's readers.
    Readers that go by branch name (uproot, weaver-core) see no difference; compiled ROOT code that binds
    ``std::vector`` addresses to the branches does. The file appears when it is complete.

    deta and dphi must be about the jet's own eta and phi (axis ``stored``). What the records lack, or have as null,
    is written as 0: impact parameters of neutrals (as in JetClass), and for generated jets charge, species, impact
    parameters, soft-drop mass, tau1 to tau4, eta and phi. A missing constituent energy is that of a massless one; a
    missing jet pt or mass is that of the constituents' sum. A jet without a label has 0 in all ten label branches.
    The ``aux_*`` branches (generator particle), which records do not carry, are NaN.

    Args:
        path: the file; replaced if it exists.
        batches: jet records, read one batch at a time.
        basket_entries: jets that share a basket, ROOT's unit of compression.

    Returns:
        Number of jets written.

    Raises:
        HepfmError: no jets, constituents without pt, deta or dphi, or a label that JetClass does not have.
    """
    written = 0
    with atomic_path(path) as partial, _fixed_time():
        # Given a stream, uproot leaves the (temporary) name out of the file.
        with (
            partial.open("w+b") as stream,
            uproot.recreate(stream, compression=uproot.LZ4(4), uuid_function=lambda: _FILE_ID) as file,
        ):
            fields = ", ".join(f"{name.removeprefix(_PREFIX)}: {dtype}" for name, dtype in PART_DTYPES.items())
            tree = file.mktree(
                TREE,
                {"part": f"var * {{{fields}}}", **SCALAR_DTYPES},
                counter_name=lambda _: COUNTER,
                field_name=lambda _, field: _PREFIX + field,
                initial_basket_capacity=_BASKETS,
            )
            for table in reblock(batches, basket_entries):
                tree.extend(_branches(table, path))
                written += len(table)
        if not written:
            raise HepfmError("no jets to write", path)
    return written


@contextmanager
def _fixed_time() -> Iterator[None]:
    # ROOT files carry the time of writing; equal records shall give equal bytes. uproot has no option for it.
    original = getattr(uproot._util, "datetime_to_code", None)
    if original is None:
        yield
        return
    uproot._util.datetime_to_code = lambda _: _FIXED_TIME_CODE
    try:
        yield
    finally:
        uproot._util.datetime_to_code = original


def _branches(batch: pa.RecordBatch, path: Path) -> dict[str, ak.Array | np.ndarray]:
    column = batch.column(records.POINTS_COLUMN["jets"])
    points = column.flatten()
    for name in ("pt", "deta", "dphi"):
        if points.type.get_field_index(name) < 0:
            raise HepfmError(f"the records have no constituent {name}", path)
    offsets = records.offsets_of(column)
    jet_eta, jet_phi = (jet_column(batch, name) for name in ("eta", "phi"))
    parts = part_branches(points, offsets, jet_eta, jet_phi)
    contents = [ak.contents.NumpyArray(parts[name].astype(dtype)) for name, dtype in PART_DTYPES.items()]
    fields = [name.removeprefix(_PREFIX) for name in PART_DTYPES]
    lists = ak.contents.ListOffsetArray(ak.index.Index64(offsets), ak.contents.RecordArray(contents, fields))
    scalars = {
        **_label_branches(batch, path),
        **jet_branches(batch, offsets, parts, jet_eta, jet_phi),
        **dict.fromkeys(AUX_BRANCHES, np.full(len(batch), np.nan)),
    }
    return {"part": ak.Array(lists), **{name: scalars[name].astype(dtype) for name, dtype in SCALAR_DTYPES.items()}}


def part_branches(
    points: pa.StructArray, offsets: np.ndarray, jet_eta: np.ndarray, jet_phi: np.ndarray
) -> dict[str, np.ndarray]:
    lengths = np.diff(offsets)
    pt, deta, dphi = (_point(points, name) for name in ("pt", "deta", "dphi"))
    eta, phi = np.repeat(jet_eta, lengths) + deta, np.repeat(jet_phi, lengths) + dphi
    lacks_energy = points.type.get_field_index("energy") < 0
    parts = {
        "part_px": pt * np.cos(phi),
        "part_py": pt * np.sin(phi),
        "part_pz": pt * np.sinh(eta),
        "part_energy": pt * np.cosh(eta) if lacks_energy else _point(points, "energy"),
        "part_deta": deta * np.repeat(eta_sign(jet_eta), lengths),
        "part_dphi": dphi,
    }
    for name in ("d0", "dz"):
        parts[f"part_{name}val"] = _point(points, name)
        parts[f"part_{name}err"] = _point(points, f"{name}err")
    parts["part_charge"] = _point(points, "charge")
    species = _names(points, "species")
    return {**parts, **{flag: species == name for flag, name in FLAGS.items()}}


def jet_branches(
    batch: pa.RecordBatch,
    offsets: np.ndarray,
    parts: dict[str, np.ndarray],
    jet_eta: np.ndarray,
    jet_phi: np.ndarray,
) -> dict[str, np.ndarray]:
    px, py, pz, energy = (segment_sums(parts[f"part_{name}"], offsets) for name in ("px", "py", "pz", "energy"))
    sum_mass = np.sqrt(np.maximum(energy**2 - px**2 - py**2 - pz**2, 0))
    pt = jet_column(batch, "pt", otherwise=np.hypot(px, py))
    mass = jet_column(batch, "mass", otherwise=sum_mass)
    branches = {
        "jet_pt": pt,
        "jet_eta": jet_eta,
        "jet_phi": jet_phi,
        "jet_energy": np.sqrt((pt * np.cosh(jet_eta)) ** 2 + mass**2),
        "jet_nparticles": np.diff(offsets),
        "jet_sdmass": jet_column(batch, "softdrop_mass"),
    }
    return {**branches, **{f"jet_tau{n}": jet_column(batch, f"tau{n}") for n in (1, 2, 3, 4)}}


def _label_branches(batch: pa.RecordBatch, path: Path) -> dict[str, np.ndarray]:
    if "label" not in batch.schema.names:
        return dict.fromkeys(LABEL_BRANCHES, np.zeros(len(batch)))
    column = batch.column("label")
    foreign = sorted(set(column.unique().to_pylist()) - {*LABELS, None})
    if foreign:
        raise HepfmError(
            f"JetClass has no label '{foreign[0]}'", path, f"its labels are {', '.join(LABELS)}; select these"
        )
    names = np.asarray(column.to_pylist(), dtype=object)
    return {f"label_{label}": names == label for label in LABELS}


def jet_column(batch: pa.RecordBatch, name: str, otherwise: np.ndarray | None = None) -> np.ndarray:
    fill = np.zeros(len(batch)) if otherwise is None else otherwise
    if name not in batch.schema.names:
        return fill
    column = batch.column(name)
    values = records.values_of(column).astype(np.float64)
    return np.where(column.is_null().to_numpy(zero_copy_only=False), fill, values) if column.null_count else values


def _point(points: pa.StructArray, name: str) -> np.ndarray:
    index = points.type.get_field_index(name)
    if index < 0:
        return np.zeros(len(points))
    return points.field(index).fill_null(0).to_numpy(zero_copy_only=False).astype(np.float64)


def _names(points: pa.StructArray, name: str) -> np.ndarray:
    """Values of a dictionary column as an object array; None where null or absent."""
    index = points.type.get_field_index(name)
    if index < 0:
        return np.full(len(points), None)
    column = points.field(index)
    dictionary = np.asarray([*column.dictionary.to_pylist(), None], dtype=object)
    return dictionary[records.values_of(column)]
