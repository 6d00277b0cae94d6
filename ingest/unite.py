"""Records of several corpora under one schema: quantities united or intersected, label names under one list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.core.records import CONSTITUENT, JET, ORIGIN, POINT, SHOWER
from hepfm.ingest.columns import relabel
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.schema_json import points_column, quantities
from hepfm.ingest.summary import flat_columns

_RANK = {
    "constituents": {quantity.name: rank for rank, quantity in enumerate(CONSTITUENT)},
    "points": {quantity.name: rank for rank, quantity in enumerate(POINT)},
    "jets": {quantity.name: rank for rank, quantity in enumerate((*JET, *ORIGIN))},
    "showers": {quantity.name: rank for rank, quantity in enumerate((*SHOWER, *ORIGIN))},
}
_RANK["tokens"] = {**_RANK["showers"], **_RANK["jets"]}


def united_schema(corpora: Sequence[Corpus], common: bool) -> pa.Schema:
    """The schema of records of all these corpora (of one kind), in canonical order.

    Args:
        corpora: what is united.
        common: only the quantities that all have; otherwise every quantity that any has, null where it is lacking.

    Raises:
        HepfmError: a quantity has another type or unit in another corpus.
    """
    schemas = [corpus.manifest.schema for corpus in corpora]
    where = ", ".join(str(corpus.path) for corpus in corpora)
    points = _points([schema.field(points_column(schema)) for schema in schemas], common, where)
    others = [[field for field in schema if field.name != points.name] for schema in schemas]
    columns = _united(others, common, _RANK[corpora[0].manifest.kind], "", where)
    return pa.schema([points, *columns], metadata=schemas[0].metadata)


def _points(fields: Sequence[pa.Field], common: bool, where: str) -> pa.Field:
    """The united list column of the points."""
    first = fields[0]
    item = first.type.value_field
    if not pa.types.is_struct(item.type):
        return _united([[field] for field in fields], common, {}, "", where)[0]
    children = _united(
        [list(field.type.value_type) for field in fields], common, _RANK[first.name], f"{first.name}.", where
    )
    if not children:
        raise HepfmError("have no quantity of points in common", where)
    return first.with_type(pa.list_(item.with_type(pa.struct(children))))


def _united(
    groups: Sequence[Sequence[pa.Field]], common: bool, rank: dict[str, int], prefix: str, where: str
) -> list[pa.Field]:
    found: dict[str, list[pa.Field]] = {}
    for fields in groups:
        for field in fields:
            found.setdefault(field.name, []).append(field)
    united = []
    for name, fields in found.items():
        told = {f"{field.type} [{(field.metadata or {}).get(b'unit', b'').decode()}]": None for field in fields}
        if len(told) > 1:
            raise HepfmError(f"{prefix}{name} is {' in one corpus, '.join(told)} in another", where)
        if len(fields) == len(groups):
            united.append(fields[0].with_nullable(any(field.nullable for field in fields)))
        elif not common:
            united.append(fields[0].with_nullable(True))
    return sorted(united, key=lambda field: rank.get(field.name, -1))


def lacking(corpus: Corpus, schema: pa.Schema) -> list[str]:
    """Quantities of the schema that the corpus does not have."""
    return [name for name, _ in quantities(schema) if name not in corpus.manifest.provides]


def united_names(corpora: Sequence[Corpus]) -> dict[str, tuple[str, ...]]:
    """The names that each dictionary quantity (species, by dotted name) stands for; ``label``'s are united in order.

    Raises:
        HepfmError: other than labels they have to be the same in all corpora.
    """
    names: dict[str, tuple[str, ...]] = {}
    for corpus in corpora:
        for name, array in flat_columns(corpus.split(corpus.splits()[0]).read(0)):
            if pa.types.is_dictionary(array.type) and name != "label":
                found = tuple(array.dictionary.to_pylist())
                if names.setdefault(name, found) != found:
                    raise HepfmError(f"{name} stands for other names than in {corpora[0].path}", corpus.path)
    labels = dict.fromkeys(name for corpus in corpora for name in corpus.manifest.labels)
    return {**names, "label": tuple(labels)}


@dataclass(frozen=True)
class Fit:
    """Brings the records of a corpus under a united schema.

    Attributes:
        schema: the united schema.
        names: what dictionary quantities stand for, by dotted name.
        first_file: what is added to the index of the source file.
    """

    schema: pa.Schema
    names: dict[str, tuple[str, ...]]
    first_file: int

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The same records: quantities they lack are null, those that the schema lacks are left out."""
        batch = relabel(batch, self.names["label"])
        columns = [self._column(batch, field) for field in self.schema]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _column(self, batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
        if field.name not in batch.schema.names:
            return self._nulls(field.name, field.type, len(batch))
        column = batch.column(field.name)
        if field.name == "source_file":
            return pa.array(column.to_numpy() + np.int32(self.first_file))
        if column.type.equals(field.type) or not pa.types.is_list(field.type):
            return column
        values, inner = column.values, field.type.value_type
        children = [
            values.field(child.name)
            if values.type.get_field_index(child.name) >= 0
            else self._nulls(f"{field.name}.{child.name}", child.type, len(values))
            for child in inner
        ]
        points = pa.StructArray.from_arrays(children, fields=list(inner))
        return pa.ListArray.from_arrays(column.offsets, points, type=field.type)

    def _nulls(self, name: str, kind: pa.DataType, count: int) -> pa.Array:
        if not pa.types.is_dictionary(kind):
            return pa.nulls(count, kind)
        names = pa.array(self.names[name], kind.value_type)
        return pa.DictionaryArray.from_arrays(pa.nulls(count, kind.index_type), names)
