"""Systems as a Parquet file: the table of `campaign.analysis`, and the fields of the store as list columns.

An atom field is a list per system, flattened row by row (positions of A atoms: 3·A numbers); a field with a shape per system, such as
cell, is a list of fixed length. Each column carries its unit and meaning as metadata.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from campaign.analysis import StoreView
from campaign.analysis.blocks import plan_blocks
from campaign.analysis.tables import frame_of
from campaign.fields import FIELDS, Field, Level

BLOCK_SYSTEMS: Final = 8192
BLOCK_ATOMS: Final = 2**18
"""Largest row group: 8,192 systems or 262,144 atoms, about 20 MB."""


def write_parquet(file: Path, view: StoreView) -> int:
    """Write the systems of a view without conditions to `file` and return how many there are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ["system_id", *view.columns] if "system_id" in view.fields else list(view.columns)
    listed = [field for name, field in sorted(view.fields.items()) if name not in columns and field.dtype != "string"]
    ptr = plan_blocks(view.source.n_atoms, BLOCK_ATOMS, BLOCK_SYSTEMS).tolist()
    writer: Any = None
    try:
        for start, stop in pairwise(ptr):
            block = view.source.block(start, stop)
            n_atoms, values = block.n_atoms(), block.read(list(view.fields.values()))
            table = pa.Table.from_pandas(frame_of(values, n_atoms, columns), preserve_index=False).replace_schema_metadata(None)
            for field in listed:
                table = table.append_column(field.name, _lists(values[field.name], field, n_atoms))
            described = [_described(column) for column in table.schema]
            table = table.cast(pa.schema(described, metadata={"format": "relax-campaign/parquet"}))
            writer = writer or pq.ParquetWriter(str(file), table.schema, compression="zstd")
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    return len(view.source)


def _lists(values: np.ndarray[Any, Any], field: Field, n_atoms: np.ndarray[Any, Any]) -> Any:
    import pyarrow as pa

    width = int(np.prod(field.trailing, dtype=np.int64))
    flat = pa.array(values.reshape(-1))
    if field.level is Level.SYSTEM:
        return pa.FixedSizeListArray.from_arrays(flat, width)
    offsets = np.concatenate([[0], np.cumsum(n_atoms)]) * width
    return pa.LargeListArray.from_arrays(pa.array(offsets, type=pa.int64()), flat)


def _described(column: Any) -> Any:
    known = FIELDS.get(column.name)
    return column if known is None else column.with_metadata({"unit": known.unit, "meaning": known.meaning})
