"""Stores made fast: the files that a `ShardWriter` leaves, written in one go and not synced, for benchmarks with thousands of shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from campaign.fields import Field
from campaign.store.chunk_codec import codec_of
from campaign.store.csr import pointers
from campaign.store.layout import ArraySpec, Chunking, field_array, group_document, group_names, meta_arrays, root_document
from campaign.store.targets import encode_document


def write_plain_store(
    folder: Path, fields: Sequence[Field], n_atoms: NDArray[np.int64], columns: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]
) -> None:
    """Write a store with the bytes that `write_store` gives it; `folder` must not be there."""
    chunking = Chunking.of_shards()
    meta = {
        "meta/atoms_mask": np.ones(int(n_atoms.sum()), dtype=bool),
        "meta/edges_mask": np.zeros(0, dtype=bool),
        "meta/edges_ptr": np.zeros(len(n_atoms) + 1, dtype=np.int64),
        "meta/atoms_ptr": pointers(n_atoms),
        "meta/samples_mask": np.ones(len(n_atoms), dtype=bool),
    }
    folder.mkdir(parents=True)
    for name in group_names(fields):
        (folder / name).mkdir()
        (folder / name / "zarr.json").write_bytes(encode_document(group_document()))
    for spec in meta_arrays(chunking):
        _write_array(folder, spec, meta[spec.path])
    for field in fields:
        _write_array(folder, field_array(field, chunking), columns[field.name])
    (folder / "zarr.json").write_bytes(encode_document(root_document(fields, len(n_atoms), attributes)))


def _write_array(folder: Path, spec: ArraySpec, rows: NDArray[Any]) -> None:
    codec = codec_of(spec)
    (folder / spec.path).mkdir()
    (folder / spec.path / "zarr.json").write_bytes(encode_document(spec.document(len(rows))))
    chunks = codec.encode_all(rows)
    for number, start in enumerate(range(0, len(chunks), spec.chunks_per_file)):
        path = folder / spec.chunk_key(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(codec.join(chunks[start : start + spec.chunks_per_file]))
