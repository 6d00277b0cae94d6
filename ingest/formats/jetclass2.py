"""The Parquet format of JetClass-II (jet-universe/jetclass2, arXiv:2405.12972): 54 columns, and its writer.

Conventions of the files: GeV, mm, rad; ``part_deta`` is multiplied by the sign of ``jet_eta`` while ``part_dphi`` is
not; impact parameters are exactly 0 for neutrals; the class is the index ``jet_label``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.core.files import atomic_path
from hepfm.ingest.formats.jetclass import jet_branches, jet_column, part_branches
from hepfm.ingest.shards import reblock

ROW_GROUP_ENTRIES = 4_096

# Class names, in the order of the index ``jet_label`` and of the data set's own configuration JetClassII_full.yaml.
LABELS = tuple(
    """
    X_bb X_cc X_ss X_qq X_bc X_cs X_bq X_cq X_sq X_gg X_ee X_mm X_tauhtaue X_tauhtaum X_tauhtauh X_YY_bbbb X_YY_bbcc
    X_YY_bbss X_YY_bbqq X_YY_bbgg X_YY_bbee X_YY_bbmm X_YY_bbtauhtaue X_YY_bbtauhtaum X_YY_bbtauhtauh X_YY_bbb
    X_YY_bbc X_YY_bbs X_YY_bbq X_YY_bbg X_YY_bbe X_YY_bbm X_YY_cccc X_YY_ccss X_YY_ccqq X_YY_ccgg X_YY_ccee X_YY_ccmm
    X_YY_cctauhtaue X_YY_cctauhtaum X_YY_cctauhtauh X_YY_ccb X_YY_ccc X_YY_ccs X_YY_ccq X_YY_ccg X_YY_cce X_YY_ccm
    X_YY_ssss X_YY_ssqq X_YY_ssgg X_YY_ssee X_YY_ssmm X_YY_sstauhtaue X_YY_sstauhtaum X_YY_sstauhtauh X_YY_ssb
    X_YY_ssc X_YY_sss X_YY_ssq X_YY_ssg X_YY_sse X_YY_ssm X_YY_qqqq X_YY_qqgg X_YY_qqee X_YY_qqmm X_YY_qqtauhtaue
    X_YY_qqtauhtaum X_YY_qqtauhtauh X_YY_qqb X_YY_qqc X_YY_qqs X_YY_qqq X_YY_qqg X_YY_qqe X_YY_qqm X_YY_gggg X_YY_ggee
    X_YY_ggmm X_YY_ggtauhtaue X_YY_ggtauhtaum X_YY_ggtauhtauh X_YY_ggb X_YY_ggc X_YY_ggs X_YY_ggq X_YY_ggg X_YY_gge
    X_YY_ggm X_YY_bee X_YY_cee X_YY_see X_YY_qee X_YY_gee X_YY_bmm X_YY_cmm X_YY_smm X_YY_qmm X_YY_gmm X_YY_btauhtaue
    X_YY_ctauhtaue X_YY_stauhtaue X_YY_qtauhtaue X_YY_gtauhtaue X_YY_btauhtaum X_YY_ctauhtaum X_YY_stauhtaum
    X_YY_qtauhtaum X_YY_gtauhtaum X_YY_btauhtauh X_YY_ctauhtauh X_YY_stauhtauh X_YY_qtauhtauh X_YY_gtauhtauh X_YY_qqqb
    X_YY_qqqc X_YY_qqqs X_YY_bbcq X_YY_ccbs X_YY_ccbq X_YY_ccsq X_YY_sscq X_YY_qqbc X_YY_qqbs X_YY_qqcs X_YY_bcsq
    X_YY_bcs X_YY_bcq X_YY_bsq X_YY_csq X_YY_bcev X_YY_csev X_YY_bqev X_YY_cqev X_YY_sqev X_YY_qqev X_YY_bcmv
    X_YY_csmv X_YY_bqmv X_YY_cqmv X_YY_sqmv X_YY_qqmv X_YY_bctauev X_YY_cstauev X_YY_bqtauev X_YY_cqtauev X_YY_sqtauev
    X_YY_qqtauev X_YY_bctaumv X_YY_cstaumv X_YY_bqtaumv X_YY_cqtaumv X_YY_sqtaumv X_YY_qqtaumv X_YY_bctauhv
    X_YY_cstauhv X_YY_bqtauhv X_YY_cqtauhv X_YY_sqtauhv X_YY_qqtauhv QCD_bbccss QCD_bbccs QCD_bbcc QCD_bbcss QCD_bbcs
    QCD_bbc QCD_bbss QCD_bbs QCD_bb QCD_bccss QCD_bccs QCD_bcc QCD_bcss QCD_bcs QCD_bc QCD_bss QCD_bs QCD_b QCD_ccss
    QCD_ccs QCD_cc QCD_css QCD_cs QCD_c QCD_ss QCD_s QCD_light
    """.split()  # noqa: SIM905
)

# Column of each species flag.
FLAGS = {
    "part_isElectron": "electron",
    "part_isMuon": "muon",
    "part_isPhoton": "photon",
    "part_isChargedHadron": "charged_hadron",
    "part_isNeutralHadron": "neutral_hadron",
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
)
PART_COLUMNS = (*PART_FLOATS, "part_charge", *FLAGS)
JET_COLUMNS = (
    "jet_pt",
    "jet_eta",
    "jet_phi",
    "jet_energy",
    "jet_sdmass",
    "jet_nparticles",
    "jet_tau1",
    "jet_tau2",
    "jet_tau3",
    "jet_tau4",
    "jet_label",
)
GENPART_COLUMNS = (
    *(f"genpart_{name}" for name in ("px", "py", "pz", "energy", "jet_deta", "jet_dphi", "x", "y", "z", "t")),
    "genpart_pid",
)
GENJET_COLUMNS = tuple(f"genjet_{name}" for name in ("pt", "eta", "phi", "energy", "sdmass", "nparticles"))
AUX_FLAGS = tuple(f"aux_genpart_is{name}" for name in ("ResX", "ResY", "ResDecayProd", "TauDecayProd", "QcdParton"))
AUX_VALUES = tuple(f"aux_genpart_{name}" for name in ("pt", "eta", "phi", "mass", "pid"))
AUX_COLUMNS = (*AUX_VALUES, *AUX_FLAGS)
COLUMNS = (*PART_COLUMNS, *JET_COLUMNS, *GENPART_COLUMNS, *GENJET_COLUMNS, *AUX_COLUMNS)

_INTEGERS = {"part_charge", "jet_nparticles", "jet_label", "genpart_pid", "genjet_nparticles", "aux_genpart_pid"}
_SCALARS = {*JET_COLUMNS, *GENJET_COLUMNS}


def _field(name: str) -> pa.Field:
    number = pa.int32() if name in _INTEGERS else pa.bool_() if name in (*FLAGS, *AUX_FLAGS) else pa.float32()
    kind = number if name in _SCALARS else pa.list_(pa.field("item", number, nullable=False))
    return pa.field(name, kind, nullable=False)


# Names, order and types of the 54 columns of a file.
FILE_SCHEMA = pa.schema([_field(name) for name in COLUMNS])

# What records need of a file, and what those with generator-level quantities need besides.
NEEDED_COLUMNS = (*PART_COLUMNS, *JET_COLUMNS)
RESONANCE_COLUMNS = (*AUX_VALUES, "aux_genpart_isResX", "aux_genpart_isResY")
GENERATOR_COLUMNS = (*GENJET_COLUMNS[:-1], *RESONANCE_COLUMNS)

_POINTS = ("pt", "deta", "dphi", "energy", "d0", "d0err", "dz", "dzerr", "charge", "species")
_TAUS = ("tau1", "tau2", "tau3", "tau4")
_JETS = ("pt", "pt_constituents", "eta", "phi", "mass", "softdrop_mass", *_TAUS, "label")
# Names that records have for the resonances of a jet.
RESONANCES = ("x", "y1", "y2")
_GENERATOR = tuple(q.name for q in records.JET if q.name.startswith(("generator_jet_", "resonance_")))

# What records from these files provide, without and with generator-level quantities.
SCHEMA = records.schema("jets", _POINTS, _JETS)
GENERATOR_SCHEMA = records.schema("jets", _POINTS, (*_JETS, *_GENERATOR))


def mass_of(pt: np.ndarray, eta: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """Mass (n,) float64 [GeV] of four-vectors given by transverse momentum [GeV], pseudorapidity and energy [GeV]."""
    energy, momentum = energy.astype(np.float64), pt.astype(np.float64) * np.cosh(eta.astype(np.float64))
    return np.sqrt(np.maximum((energy - momentum) * (energy + momentum), 0))


def write_jetclass2(path: Path, batches: Iterable[pa.RecordBatch]) -> int:
    """Write jet records as a JetClass-II Parquet file: the 54 columns, ZSTD, row groups of 4,096, page checksums.

    Equal records give equal bytes. The file appears when it is complete. deta and dphi must be about the jet's own eta
    and phi (axis ``stored``). What the records lack, or have as null, is written as 0, and energies and masses that
    they lack are made as :func:`hepfm.ingest.formats.jetclass.write_jetclass` makes them. ``genjet_*`` are 0 unless
    the records have the generated jet (0 is read back as null); ``aux_genpart_*`` list the resonances X and Y that the
    records have, no other particles; the lists ``genpart_*``, which records do not carry, are empty.

    Args:
        path: the file; replaced if it exists.
        batches: jet records, read one batch at a time.

    Returns:
        Number of jets written.

    Raises:
        HepfmError: no jets; constituents without pt, deta or dphi; a jet without a label, or with one that JetClass-II
            does not have.
    """
    written = 0
    with atomic_path(path) as partial:
        writer = pq.ParquetWriter(
            partial, FILE_SCHEMA, compression="zstd", use_dictionary=False, write_page_checksum=True
        )
        with writer:
            for batch in reblock(batches, ROW_GROUP_ENTRIES):
                writer.write_batch(_file_batch(batch, path))
                written += len(batch)
        if not written:
            raise HepfmError("no jets to write", path)
    return written


def _file_batch(batch: pa.RecordBatch, path: Path) -> pa.RecordBatch:
    column = batch.column(records.POINTS_COLUMN["jets"])
    points = column.flatten()
    for name in ("pt", "deta", "dphi"):
        if points.type.get_field_index(name) < 0:
            raise HepfmError(f"the records have no constituent {name}", path)
    offsets = records.offsets_of(column)
    eta, phi = jet_column(batch, "eta"), jet_column(batch, "phi")
    parts = part_branches(points, offsets, eta, phi)
    values = {
        **parts,
        **jet_branches(batch, offsets, parts, eta, phi),
        **_genjet(batch),
        "jet_label": _label_indices(batch, path),
    }
    particles, particle_offsets = _resonances(batch)
    values |= particles
    arrays = [_array(field, values, particle_offsets if field.name in particles else offsets) for field in FILE_SCHEMA]
    return pa.RecordBatch.from_arrays(arrays, schema=FILE_SCHEMA)


def _array(field: pa.Field, values: dict[str, np.ndarray], offsets: np.ndarray) -> pa.Array:
    if not pa.types.is_list(field.type):
        return pa.array(values[field.name].astype(field.type.to_pandas_dtype()), field.type)
    number = field.type.value_type
    if field.name not in values:
        offsets = np.zeros_like(offsets)
    flat = pa.array(values.get(field.name, np.zeros(0)).astype(number.to_pandas_dtype()), number)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat, type=field.type)


def _resonances(batch: pa.RecordBatch) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns ``aux_genpart_*`` (N,) of the resonances that each jet has (up to three), and their offsets (n + 1,)."""
    known = np.zeros((len(batch), len(RESONANCES)), dtype=bool)
    for place, name in enumerate(RESONANCES):
        if f"resonance_{name}_pdg_id" in batch.schema.names:
            known[:, place] = batch.column(f"resonance_{name}_pdg_id").is_valid().to_numpy(zero_copy_only=False)
    columns = {}
    for column, quantity in zip(AUX_VALUES, ("pt", "eta", "phi", "mass", "pdg_id"), strict=True):
        values = [jet_column(batch, f"resonance_{name}_{quantity}") for name in RESONANCES]
        columns[column] = np.stack(values, axis=1)[known]
    is_x = np.nonzero(known)[1] == RESONANCES.index("x")
    flags = {**dict.fromkeys(AUX_FLAGS, np.zeros(len(is_x))), "aux_genpart_isResX": is_x, "aux_genpart_isResY": ~is_x}
    return columns | flags, np.concatenate([[0], np.cumsum(known.sum(axis=1))])


def _genjet(batch: pa.RecordBatch) -> dict[str, np.ndarray]:
    pt, eta, mass = (jet_column(batch, f"generator_jet_{name}") for name in ("pt", "eta", "mass"))
    return {
        "genjet_pt": pt,
        "genjet_eta": eta,
        "genjet_phi": jet_column(batch, "generator_jet_phi"),
        "genjet_energy": np.hypot(pt * np.cosh(eta), mass),
        "genjet_sdmass": jet_column(batch, "generator_jet_softdrop_mass"),
        "genjet_nparticles": np.zeros(len(batch)),
    }


def _label_indices(batch: pa.RecordBatch, path: Path) -> np.ndarray:
    if "label" not in batch.schema.names or batch.column("label").null_count:
        raise HepfmError("a jet has no label", path, "JetClass-II has a label for each: select jets that have one")
    column = batch.column("label")
    index = {label: number for number, label in enumerate(LABELS)}
    numbers = np.array([index.get(name, -1) for name in column.dictionary.to_pylist()], dtype=np.int32)
    found = numbers[column.indices.to_numpy()]
    if (found < 0).any():
        foreign = column[int(np.argmax(found < 0))].as_py()
        raise HepfmError(f"JetClass-II has no label '{foreign}'", path, "select jets with its 188 labels")
    return found
