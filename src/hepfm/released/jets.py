"""Jets and showers as users have them (awkward, NumPy, vector, Arrow, corpora), as records that models read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal, TypeAlias, get_args

import awkward as ak
import numpy as np
import pyarrow as pa

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.ingest.corpus import Corpus, Split, remote_url
from hepfm.ingest.formats.arrays import pt_order
from hepfm.ingest.formats.batches import TRACK_QUANTITIES, jet_batch
from hepfm.ingest.formats.four_vectors import FourVectors, unpadded
from hepfm.ingest.manifest import Manifest
from hepfm.ingest.plausible import faults
from hepfm.ingest.summary import Summary, summarise

Records: TypeAlias = "str | Path | Corpus | Split | ak.Array | np.ndarray | pa.RecordBatch | pa.Table"
"""What :meth:`Model.tag <hepfm.released.model.Model.tag>` and its fellows take:

* a corpus, as a path, an address, a :class:`~hepfm.ingest.corpus.Corpus` or one of its splits;
* awkward records of jets, as :meth:`generate` gives them: ``constituents`` (lists of records with ``pt`` [GeV],
  ``deta``, ``dphi`` [rad], ``energy`` [GeV], ... by the names of :mod:`hepfm.core.records`) beside ``pt``, ``eta``,
  ``phi``, ``mass``, ...;
* awkward lists of four-vectors, one list a jet, in any coordinates that ``vector`` knows (``px py pz E``, ``pt eta phi
  mass``, ...; GeV), with ``charge``, ``species``, ``d0`` [mm], ... beside them where a model reads these;
* NumPy: (jets, particles, 4) px, py, pz, energy [GeV], or a structured or ``vector`` array (jets, particles); particles
  of energy 0 are padding;
* Arrow record batches or tables of jets, with the columns of a corpus.
"""

Axis: TypeAlias = Literal["stored", "constituent_sum"]

WHERE = "jets"
_POINTS = {quantity.name: quantity for quantity in records.CONSTITUENT}
_JETS = {quantity.name: quantity for quantity in records.JET if quantity.name != "label"}
_VECTOR = ("px", "py", "pz", "E")
# Coordinates of vector's own arrays -> what they are of a momentum.
_GENERIC = {"x": "px", "y": "py", "z": "pz", "t": "E", "rho": "pt", "tau": "mass"}
_KINEMATIC = {"px", "py", "pz", "pt", "eta", "theta", "phi", "E", "e", "energy", "M", "m", "mass", *_GENERIC}


@dataclass(frozen=True)
class Given:
    """Records that a model is given.

    Attributes:
        corpus: what they are; one without splits where they are in memory.
        count: how many there are.
        split: that they are, of a corpus on disk.
        batch: they themselves, in memory.
    """

    corpus: Corpus
    count: int
    split: Split | None = None
    batch: pa.RecordBatch | None = None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """The blocks of a split one by one, as every command reads them; what is in memory at once."""
        return iter(self.split) if self.split is not None else iter([self.batch] if self.count else [])

    @property
    def axis(self) -> str:
        """What deta and dphi refer to."""
        return self.corpus.manifest.axis


def given(jets: Records, split: str = "test", axis: Axis | None = None) -> Given:
    """Records from anything that holds jets.

    Four-vectors become jets that are the sums of their constituents, by falling pt.

    Args:
        jets: see :data:`Records`.
        split: which one, of a corpus; that of a :class:`Split` is its own.
        axis: what deta and dphi refer to; by default ``stored`` for awkward and Arrow records, ``constituent_sum`` for
            four-vectors. A corpus has its own.

    Raises:
        HepfmError: they are no jets, or a quantity has a wrong shape or value; says which.
    """
    if axis not in (None, *get_args(Axis)):
        raise HepfmError(f"there is no axis '{axis}'", "axis", f"take {' or '.join(get_args(Axis))}")
    if isinstance(jets, (str, Path)):
        if remote_url(jets) is None and not Path(jets).is_dir():
            raise HepfmError("no such corpus", jets, "give a corpus, or arrays of jets")
        jets = Corpus.open(jets)
    if isinstance(jets, Corpus):
        jets = jets.split(split)
    if isinstance(jets, Split):
        return Given(jets.corpus, jets.records, split=jets)
    if isinstance(jets, pa.Table):
        jets = _one_batch(jets)
    if isinstance(jets, pa.RecordBatch):
        return _in_memory(jets, axis or "stored")
    if isinstance(jets, np.ndarray):
        return _in_memory(_checked(_from_numpy(jets)), axis or "constituent_sum")
    if isinstance(jets, ak.Array):
        if "constituents" in jets.fields:
            return _in_memory(_checked(_from_records(jets)), axis or "stored")
        if "points" in jets.fields:
            raise HepfmError("are showers in memory", WHERE, "give a corpus of showers")
        return _in_memory(_checked(_from_vectors(jets)), axis or "constituent_sum")
    raise HepfmError(f"are of type {type(jets).__name__}", WHERE, "give an awkward or NumPy array, a table or a corpus")


def _checked(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The records, if each keeps the rules that the records of every corpus keep."""
    for fault, broken in faults(batch):
        raise HepfmError(f"record {broken[0]}: {fault}", WHERE, "leave such jets out")
    return batch


def _in_memory(batch: pa.RecordBatch, axis: Axis) -> Given:
    kind = (batch.schema.metadata or {}).get(b"kind", b"").decode()
    if kind not in records.POINTS_COLUMN:
        raise HepfmError("are Arrow records of no known kind", WHERE, "take those of a corpus, with their schema")
    summaries: dict[str, Summary] = {}
    summarise(batch, summaries)
    manifest = Manifest(
        kind=kind,
        schema=batch.schema,
        labels=(),
        axis=axis if kind == "jets" else "",
        block_records=max(1, len(batch)),
        splits={},
        # Who reads a value that is not finite refuses it, naming its record.
        statistics={name: summary.figures() for name, summary in summaries.items() if np.isfinite(summary.mean)},
        provenance={},
        blocks_sha256="",
    )
    return Given(Corpus(Path(WHERE), manifest, {}), len(batch), batch=batch)


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    table = table.combine_chunks()
    batches = table.to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def _from_numpy(array: np.ndarray) -> pa.RecordBatch:
    names = array.dtype.names
    if names is None and (array.ndim != 3 or array.shape[2] != 4):
        raise HepfmError(f"have shape {array.shape}", WHERE, "give (jets, particles, 4): px, py, pz, energy [GeV]")
    if names is not None and array.ndim != 2:
        raise HepfmError(f"have shape {array.shape}", WHERE, "give a structured array (jets, particles)")
    if names is None:
        columns = {name: np.asarray(array[..., at], dtype=np.float64) for at, name in enumerate(_VECTOR)}
        further: dict[str, np.ndarray] = {}
    else:
        known = {name: np.asarray(array[name], dtype=np.float64) for name in names if name in _KINEMATIC}
        momenta = _momenta(known, hasattr(array, "px"))
        columns = {name: np.asarray(getattr(momenta, name)) for name in _VECTOR}
        further = {name: np.asarray(array[name]) for name in names if name in _POINTS and name not in _KINEMATIC}
    stacked = np.stack(list(columns.values()), axis=-1)
    filled = stacked[..., 3] != 0
    flat, offsets = unpadded(stacked, filled)
    return _jets(flat, offsets, {name: values[filled] for name, values in further.items()})


def _from_vectors(array: ak.Array) -> pa.RecordBatch:
    if array.ndim != 2 or not set(array.fields) & _KINEMATIC:
        found = shorten(str(ak.type(array).content), 80, placeholder=" ...")
        raise HepfmError(f"are an awkward array of type {found}", WHERE, "give lists of four-vectors, or jets")
    counts = ak.to_numpy(ak.num(array, axis=1))
    flat = ak.flatten(array, axis=1)
    momenta = _momenta(
        {name: _numbers(flat[name], name) for name in array.fields if name in _KINEMATIC}, hasattr(array, "px")
    )
    stacked = np.stack([np.asarray(getattr(momenta, name)) for name in _VECTOR], axis=-1)
    further = {name: _values(flat[name], name) for name in array.fields if name in _POINTS and name not in _KINEMATIC}
    return _jets(stacked, np.concatenate([[0], np.cumsum(counts)]), further)


def _momenta(columns: Mapping[str, np.ndarray], momenta_already: bool) -> Any:
    """``vector``'s momenta of coordinates of any kind.

    Args:
        columns: coordinates by name.
        momenta_already: they are those of an array of momenta, which calls px ``x``.

    Raises:
        HepfmError: they are not the four coordinates of a momentum.
    """
    if momenta_already:
        columns = {_GENERIC.get(name, name): values for name, values in columns.items()}
    try:
        import vector  # with sympy, which takes most of a second to import

        momenta = vector.array(dict(columns))
    except TypeError as error:
        raise HepfmError(f"have coordinates {', '.join(columns)}: {error}", WHERE, "see the vector package") from error
    if np.any(columns.get("pt", np.zeros(0)) < 0):
        raise HepfmError("have a negative pt", WHERE, "leave such jets out")
    if not (hasattr(momenta, "px") and hasattr(momenta, "E")):
        what = f"have only {', '.join(columns)}, which are no four-momenta"
        raise HepfmError(what, WHERE, "add energy or mass, 0 for massless particles")
    return momenta


def _jets(vectors: np.ndarray, offsets: np.ndarray, further: Mapping[str, np.ndarray]) -> pa.RecordBatch:
    """Jets that are the sums of four-vectors (N, 4)."""
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        record = int(np.searchsorted(offsets, np.argmin(finite), side="right")) - 1
        raise HepfmError(f"a four-vector of record {record} is not finite", WHERE, "leave such jets out")
    px, py, pz, energy = np.moveaxis(vectors, -1, 0)
    points, jets = FourVectors(px, py, pz, energy, offsets).quantities()
    return _batch({**points, **further}, jets, offsets)


def _from_records(array: ak.Array) -> pa.RecordBatch:
    constituents = array["constituents"]
    known = [name for name in constituents.fields if name in _POINTS]
    if constituents.ndim != 2 or not known:
        raise HepfmError("have no lists of constituents with quantities by their names", WHERE, "see docs/models.md")
    flat = ak.flatten(constituents, axis=1)
    offsets = np.concatenate([[0], np.cumsum(ak.to_numpy(ak.num(constituents, axis=1)))])
    points = {name: _values(flat[name], name) for name in known}
    jets = {name: _numbers(array[name], name) for name in array.fields if name in _JETS}
    return _batch(points, jets, offsets)


def _batch(points: dict[str, np.ndarray], jets: dict[str, np.ndarray], offsets: np.ndarray) -> pa.RecordBatch:
    n = len(offsets) - 1
    order = pt_order(points["pt"], offsets) if "pt" in points else None
    if order is not None:  # as in every corpus
        points = {name: values[order] for name, values in points.items()}
    if "charge" in points and not np.isfinite(points["charge"]).all():
        raise HepfmError("have constituents without charge", WHERE, "leave them out: 0 is neutral")
    if "charge" in points and np.any(points["charge"] != np.rint(points["charge"])):
        raise HepfmError("have a charge that is no whole number", WHERE)
    for name in TRACK_QUANTITIES:
        if np.isinf(points.get(name, np.zeros(0))).any():
            raise HepfmError(f"have a {name} that is infinite", WHERE, "NaN stands for a particle without a track")
    schema = records.schema("jets", tuple(points), tuple(jets))
    tracked = None
    tracks = [points[name] for name in TRACK_QUANTITIES if name in points]
    if tracks:
        tracked = np.isfinite(np.stack(tracks)).all(axis=0)
    known = {name: np.isfinite(values) for name, values in jets.items() if not np.isfinite(values).all()}
    origin = {"source_file": np.zeros(n), "source_entry": np.arange(n)}
    jets = {name: np.nan_to_num(values) if name in known else values for name, values in jets.items()}
    return jet_batch(schema, (), offsets, points, {**jets, **origin}, known, tracked)


def _numbers(array: ak.Array, name: str) -> np.ndarray:
    """A flat array as float64; what is missing is NaN."""
    try:
        return np.asarray(ak.to_numpy(ak.fill_none(array, np.nan)), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise HepfmError(f"'{name}' holds no numbers: {ak.type(array)}", WHERE, "give one number each") from error


def _values(array: ak.Array, name: str) -> np.ndarray:
    """Values of a constituent's quantity; species as indices in :data:`hepfm.core.records.SPECIES`."""
    if name != "species":
        return _numbers(array, name)
    place = {species: index for index, species in enumerate(records.SPECIES)}
    known = ", ".join(records.SPECIES)
    named = ak.to_arrow(array, extensionarray=False)
    if pa.types.is_dictionary(named.type):
        named = named.cast(named.type.value_type)
    if pa.types.is_integer(named.type):
        numbers = records.values_of(named)
        if not ((numbers >= 0) & (numbers < len(place))).all():
            raise HepfmError(f"have a species that is none of 0 to {len(place) - 1}", WHERE, f"these are {known}")
        return numbers
    coded = named.dictionary_encode()
    names = coded.dictionary.to_pylist()
    if unknown := [each for each in names if each not in place]:
        raise HepfmError(f"has the species '{unknown[0]}'", WHERE, f"known: {known}")
    table = np.array([*(place[each] for each in names), -1], dtype=np.int64)
    return table[records.values_of(coded)]
