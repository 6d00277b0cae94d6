"""The Python interface of every model, whatever it is and wherever it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import awkward as ak
import numpy as np
import pyarrow as pa

from hepfm.core.artifacts import CARD, Artifact
from hepfm.core.errors import HepfmError
from hepfm.core.records import ORIGIN
from hepfm.released.jets import Axis, Records

Range = float | tuple[float, float]
Names = str | Sequence[str]


class Model:
    """A model loaded by :func:`hepfm.load`. What it cannot do is refused in one line that says what it is.

    Attributes:
        artifact: its folder, architecture, contract and provenance.
        does: the names of the methods that work with it.
    """

    does: tuple[str, ...] = ()

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact

    def __repr__(self) -> str:
        return f"<{self.what} {self.artifact.hash[:12]}: {', '.join(self.does) or 'no methods'}>"

    @property
    def what(self) -> str:
        """What it is, in words."""
        return self.artifact.kind

    @property
    def contract(self) -> dict[str, Any]:
        """The features that it reads: names, units, order, transforms, ranges."""
        return self.artifact.contract

    @property
    def provenance(self) -> dict[str, Any]:
        """What it was made from: corpora, settings, seeds, versions; source and licence of an imported one."""
        return self.artifact.provenance

    @property
    def metrics(self) -> dict[str, Any]:
        """Measured results."""
        return self.artifact.metrics()

    @property
    def card(self) -> str:
        """Its model card, Markdown."""
        return (self.artifact.path / CARD).read_text()

    @property
    def labels(self) -> tuple[str, ...]:
        """Classes that it tells apart, or that it can be asked to generate; none if it knows none."""
        return ()

    def generate(
        self,
        n: int,
        *,
        label: Names = (),
        data_set: Names = (),
        particle: int | Sequence[int] | Names = (),
        jet_pt: Range | None = None,
        jet_mass: Range | None = None,
        jet_eta: Range | None = None,
        jet_softdrop_mass: Range | None = None,
        incident_energy: Range | None = None,
        direction: tuple[float, float, float] | None = None,
        seed: int = 0,
        batch: int = 256,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_length: int = 1,
        max_length: int | None = None,
    ) -> ak.Array:
        """``n`` jets or showers, the same as ``hepfm generate`` gives with these settings.

        Args:
            n: how many.
            label: class, one or several (:attr:`labels` has those that it knows).
            data_set: of a backbone of several data sets, one or several.
            particle: PDG id of the incident particle, one or several.
            jet_pt, jet_mass, jet_softdrop_mass, incident_energy: [GeV], a number or (least, largest).
            jet_eta: a number or (least, largest).
            direction: unit vector of the incident particle.
            seed: another seed, other records.
            batch: records generated at a time; changes nothing in them.
            temperature, top_k, top_p: see ``hepfm generate --help``.
            min_length, max_length: points of a record.

        Returns:
            Records of jets: ``constituents`` (``pt`` [GeV], ``deta``, ``dphi`` [rad]; massless, by falling pt), ``pt``,
            ``pt_constituents``, ``mass`` [GeV], ``eta``, ``phi`` [rad], ``label`` where it is told one. Of showers:
            ``points`` (``cell_a``, ``cell_b``, ``layer`` or ``x``, ``y``, ``z`` [mm]; ``energy`` [MeV]) and what the
            incident particle is (``incident_energy`` [GeV], ...). The units stand in ``ak.parameters(result)["units"]``
            too.

        Raises:
            HepfmError: it does not generate, or was not told in training what is asked for.
        """
        self._cannot("generate")

    def tag(self, jets: Records, *, split: str = "test", axis: Axis | None = None) -> ak.Array:
        """Probabilities of the classes: one record a jet with a float32 field for each class, which sum to 1.

        Args:
            jets: see :data:`hepfm.released.jets.Records`.
            split: of a corpus.
            axis: what deta and dphi refer to: ``stored`` or ``constituent_sum``; by default ``stored`` for awkward and
                Arrow records and ``constituent_sum`` for four-vectors. ``stored`` for four-vectors says that the sum
                of the constituents is the jet's own axis, so that a tokenizer that was fitted on ``stored`` takes them.

        Raises:
            HepfmError: it is no tagger, or the jets lack something that it reads.
        """
        self._cannot("tag")

    def estimate(self, jets: Records, *, split: str = "test", axis: Axis | None = None) -> np.ndarray:
        """Estimates (n,) float64 of the quantity that a regressor was trained on, in its unit (``contract["target"]``).

        Args:
            jets, split, axis: as in :meth:`tag`.

        Raises:
            HepfmError: it is no regressor, or the jets lack something that it reads.
        """
        self._cannot("estimate")

    def embed(self, jets: Records, *, split: str = "test", axis: Axis | None = None) -> np.ndarray:
        """Features (n, width) float32 of jets or showers, without units.

        Of a tagger: what its last layers read. Of a backbone: the mean over the tokens of a record of what its last
        block gives, as a linear probe reads it (nothing is told of the record).

        Args:
            jets, split, axis: as in :meth:`tag`; showers as a corpus. Backbones of tokens take token corpora of their
                own tokenizer too.

        Raises:
            HepfmError: it has no such features, or the jets lack something that it reads.
        """
        self._cannot("embed")

    def encode(self, jets: Records, *, split: str = "test", axis: Axis | None = None) -> ak.Array:
        """Token ids of jets or showers: records with ``tokens`` (lists of ids; ``tokens_NAME`` of several streams) and,
        where the tokenizer leaves a number of each point, ``continuous``.

        Args:
            jets, split, axis: as in :meth:`embed`.

        Raises:
            HepfmError: it has no tokenizer, or the records are not what it takes.
        """
        self._cannot("encode")

    def decode(self, tokens: ak.Array, conditions: Mapping[str, np.ndarray] | None = None) -> ak.Array:
        """Points of what :meth:`encode` gave, or of lists of ids: lists of records with ``pt`` [GeV], ``deta``,
        ``dphi`` [rad], ... (of showers cells or positions [mm], and ``energy`` [MeV]).

        Args:
            tokens: as :meth:`encode` gives them, or lists of ids.
            conditions: (n,) by name, where the tokenizer decodes with quantities of the record.

        Raises:
            HepfmError: it has no tokenizer, or an id is none of its own.
        """
        self._cannot("decode")

    def _cannot(self, method: str) -> NoReturn:
        can = f"it can {', '.join(self.does)}" if self.does else "load another model"
        raise HepfmError(f"is a {self.what}, which cannot {method}", self.artifact.path, can)


def as_awkward(table: pa.Table) -> ak.Array:
    """Records of an Arrow table without the place they come from; names as strings, units as a parameter."""
    table = table.drop_columns([quantity.name for quantity in ORIGIN if quantity.name in table.column_names])
    units: dict[str, Any] = {}
    for at, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(at, field.name, table.column(at).cast(pa.string()))
        if pa.types.is_list(field.type) and pa.types.is_struct(field.type.value_type):
            units[field.name] = {inner.name: unit_of(inner) for inner in field.type.value_type}
        else:
            units[field.name] = unit_of(field)
    array = ak.from_arrow(_without_options(table))
    return ak.with_parameter(array, "units", units)


def _without_options(table: pa.Table) -> pa.Table:
    """The table with columns declared to have no nulls where they have none: awkward makes options of the others."""
    fields = [_declared(field, table.column(field.name).combine_chunks()) for field in table.schema]
    return table.cast(pa.schema(fields))


def _declared(field: pa.Field, values: pa.Array) -> pa.Field:
    kind = field.type
    if pa.types.is_list(kind):
        flat = values.flatten()
        kind = pa.list_(_declared(kind.value_field, flat))
    elif pa.types.is_struct(kind):
        kind = pa.struct([_declared(inner, values.field(at)) for at, inner in enumerate(kind)])
    return pa.field(field.name, kind, nullable=values.null_count > 0)


def unit_of(field: pa.Field) -> str:
    """Unit of a column; empty or ``1`` where it has none."""
    return (field.metadata or {}).get(b"unit", b"").decode()
