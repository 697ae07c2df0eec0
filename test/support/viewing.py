"""Reads what a view logged from the file that it was saved to."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Logged(NamedTuple):
    """One log call: its place on the timelines (pair number, stamp in ns; empty for static) and its components."""

    at: dict[str, int]
    values: dict[str, Any]


def read_view(path: Path) -> dict[str, list[Logged]]:
    """Entity path -> log calls in their order, of a .rrd file."""
    from rerun.chunk import RrdReader

    rows: dict[str, list[tuple[bytes, Logged]]] = {}
    for chunk in RrdReader(path).stream():
        batch, timelines = chunk.to_record_batch(), chunk.timeline_names
        for index in range(batch.num_rows):
            row = {name: batch.column(name)[index] for name in batch.schema.names}
            at = {name: int(row[name].cast("int64").as_py()) for name in timelines if row[name].is_valid}
            values = {
                name.partition(":")[2]: cell.as_py()
                for name, cell in row.items()
                if ":" in name and cell.is_valid and name != "RecordingInfo:start_time"
            }
            identifier = row["rerun.controls.RowId"].as_py()
            rows.setdefault(str(chunk.entity_path), []).append((identifier, Logged(at, values)))
    return {entity: [logged for _, logged in sorted(found, key=lambda each: each[0])] for entity, found in rows.items()}


def image_of(logged: Logged, dtype: type) -> np.ndarray:
    """Pixels of a logged depth image or segmentation image."""
    (form,), (buffer,) = logged.values["format"], logged.values["buffer"]
    return np.array(buffer, np.uint8).view(dtype).reshape(form["height"], form["width"])
