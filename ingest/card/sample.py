"""A quantity of a card, and its values in one block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from hepfm.core.records import ORIGIN, values_of
from hepfm.ingest.card.axes import Form
from hepfm.ingest.schema_json import quantities

# Numbers that name kinds of things, and those that name single things and have no distribution worth a picture.
CODES = ("particle",)
IDENTIFIERS = {"label", "event_id", "jet_index", "run", "lumi", "event", *(quantity.name for quantity in ORIGIN)}


@dataclass(frozen=True)
class Sample:
    """Values of one quantity in a block.

    Attributes:
        values: (N,) float64, finite.
        owner: (N,) record of each.
        nulls: how many are missing or not finite.
        weights: (N,) of a profile.
        names: of the values, for a dictionary's indices.
    """

    values: np.ndarray
    owner: np.ndarray
    nulls: int = 0
    weights: np.ndarray | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Quantity:
    """Something that has one panel.

    Attributes:
        name: dotted name.
        section: the list column it is of, or the empty name for what a record has once; a section is one picture.
        unit: its unit, empty for plain numbers.
        form: number, integer, names (of a dictionary), codes (numbers that name something), or profile (weights summed
            by value, per record).
        take: its values in a block.
    """

    name: str
    section: str
    unit: str
    form: Form
    take: Callable[[pa.RecordBatch], Sample]


def stored(schema: pa.Schema) -> list[Quantity]:
    """Every stored quantity but identifiers, and for a list column how many values a record has."""
    found = []
    for field in schema:
        if pa.types.is_list(field.type):
            found.append(Quantity(field.name, "", "", "integer", _lengths(field.name)))
    for name, field in quantities(schema):
        plain_list = pa.types.is_list(field.type)
        shown = f"{name}.item" if plain_list else name  # as in the manifest's statistics
        if name not in IDENTIFIERS:
            section = shown.rpartition(".")[0]
            form: Form = "codes" if name in CODES else _form(field.type)
            found.append(Quantity(shown, section, _unit(field), form, _values(name)))
    return found


def _unit(field: pa.Field) -> str:
    unit = (field.metadata or {}).get(b"unit", b"").decode()
    return "" if unit == "1" else unit


def _form(arrow_type: pa.DataType) -> Form:
    while pa.types.is_list(arrow_type):
        arrow_type = arrow_type.value_type
    if pa.types.is_dictionary(arrow_type):
        return "names"
    return "integer" if pa.types.is_integer(arrow_type) else "number"


def _lengths(name: str) -> Callable[[pa.RecordBatch], Sample]:
    def take(batch: pa.RecordBatch) -> Sample:
        lengths = batch.column(name).value_lengths().to_numpy(zero_copy_only=False)
        return Sample(lengths.astype(np.float64), np.arange(len(batch)))

    return take


def _values(name: str) -> Callable[[pa.RecordBatch], Sample]:
    column, _, child = name.partition(".")

    def take(batch: pa.RecordBatch) -> Sample:
        array, owner = batch.column(column), np.arange(len(batch))
        while pa.types.is_list(array.type):
            owner = np.repeat(owner, array.value_lengths().to_numpy(zero_copy_only=False))
            array = array.flatten()
        if child:
            array = array.field(array.type.get_field_index(child))
        names = tuple(array.dictionary.to_pylist()) if pa.types.is_dictionary(array.type) else ()
        valid = array.is_valid().to_numpy(zero_copy_only=False)
        values = values_of(array).astype(np.float64)
        valid &= np.isfinite(values)
        if valid.all():
            return Sample(values, owner, names=names)
        return Sample(values[valid], owner[valid], int((~valid).sum()), names=names)

    return take
