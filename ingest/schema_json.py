"""Arrow schemas as plain data, readable in a manifest and exact both ways."""

from __future__ import annotations

from typing import Any

import pyarrow as pa


def schema_to_data(schema: pa.Schema) -> dict[str, Any]:
    """Plain data for a schema: its metadata and its fields, units and meanings included."""
    return {"metadata": _texts(schema.metadata), "fields": [_field_to_data(field) for field in schema]}


def schema_from_data(data: dict[str, Any]) -> pa.Schema:
    """The schema that :func:`schema_to_data` described."""
    return pa.schema([_field_from_data(field) for field in data["fields"]], metadata=data["metadata"] or None)


def quantities(schema: pa.Schema) -> list[tuple[str, pa.Field]]:
    """Every flat quantity of a record as (dotted name, field): ``constituents.pt``, ``pt``, ``tokens``."""
    found = []
    for field in schema:
        inner = field.type.value_type if pa.types.is_list(field.type) else field.type
        if pa.types.is_struct(inner):
            found += [(f"{field.name}.{child.name}", child) for child in inner]
        else:
            found.append((field.name, field))
    return found


def points_column(schema: pa.Schema) -> str:
    """Name of the list column whose lengths are a record's number of points (the first list)."""
    return next(field.name for field in schema if pa.types.is_list(field.type))


def _texts(metadata: dict[bytes, bytes] | None) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in (metadata or {}).items()}


def _field_to_data(field: pa.Field) -> dict[str, Any]:
    data = {"name": field.name, "type": _type_to_data(field.type), "nullable": field.nullable}
    return {**_texts(field.metadata), **data}


def _field_from_data(data: dict[str, Any]) -> pa.Field:
    metadata = {key: value for key, value in data.items() if key not in ("name", "type", "nullable")}
    return pa.field(data["name"], _type_from_data(data["type"]), data["nullable"], metadata or None)


def _type_to_data(arrow_type: pa.DataType) -> Any:
    if pa.types.is_dictionary(arrow_type):
        return {"dictionary": [str(arrow_type.index_type), str(arrow_type.value_type)]}
    if pa.types.is_list(arrow_type):
        return {"list": _field_to_data(arrow_type.value_field)}
    if pa.types.is_struct(arrow_type):
        return {"struct": [_field_to_data(child) for child in arrow_type]}
    return str(arrow_type)


def _type_from_data(data: Any) -> pa.DataType:
    if isinstance(data, str):
        return pa.type_for_alias(data)
    if "dictionary" in data:
        index, value = data["dictionary"]
        return pa.dictionary(pa.type_for_alias(index), pa.type_for_alias(value))
    if "list" in data:
        return pa.list_(_field_from_data(data["list"]))
    return pa.struct([_field_from_data(child) for child in data["struct"]])
