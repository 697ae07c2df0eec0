"""One report for every command that measures: one JSON schema (docs/report_schema.md), one table."""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.table import Table

from fg_depth_ros.files import read_bytes, write_json

SCHEMA = "fg_depth_report/1"
_PACKAGES = (
    "fg_depth_ros", "numpy", "torch", "opencv-python-headless", "opencv-python", "openvino", "onnxruntime",
    "ros-rclpy",
)  # fmt: skip
# Headings of measures, in the order of a table's columns; what has none is called as it is. Those of flow are short, so
# that its table fits a terminal: what has no name there is an end-point error in px.
_HEADINGS = {
    "epe": "EPE px", "bad_0.5": "bad-0.5 %", "bad_1": "bad-1 %", "bad_2": "bad-2 %", "bad_2_noc": "noc",
    "bad_3": "bad-3 %", "bad_4": "bad-4 %", "d1": "D1 %", "density": "density %",
    "abs_rel": "AbsRel", "sq_rel": "SqRel", "rmse": "RMSE m", "rmse_log": "RMSE log", "delta_1": "delta<1.25",
    "delta_2": "delta<1.25^2", "delta_3": "delta<1.25^3", "depth_density": "depth density %", "seconds": "s/pair",
    "abs_rel_0_10": "AbsRel <10", "abs_rel_10_20": "10-20", "abs_rel_20_40": "20-40", "abs_rel_40_80": "40-80",
    "rmse_0_10": "RMSE m <10", "rmse_10_20": "10-20", "rmse_20_40": "20-40", "rmse_40_80": "40-80", "scale": "scale",
    "epe_noc": "noc", "epe_occ": "occ", "epe_below_10": "<10", "epe_10_40": "10-40", "epe_above_40": ">40",
    "fl_all": "Fl %", "angular": "AE °",
    "seen_by_both": "seen by both %", "photometric": "photometric", "left_right": "left-right %",
    "label_valid": "valid %", "label_out_of_range": "out of range %", "label_left_right_mismatch": "mismatch %",
    "label_leaves_image": "leaves image %", "label_vertical_flow": "vertical %", "label_low_confidence": "unsure %",
    "label_filled_from_mono": "filled %", "label_unsupported": "unsupported %",
    "within_1_sigma": "within 1 sigma %", "within_2_sigma": "within 2 sigma %", "ause": "AUSE",
}  # fmt: skip
_SPEED_HEADINGS = {
    "latency_p50_ms": "ms/pair", "latency_p95_ms": "95 %", "throughput_hz": "pairs/s", "energy_j": "J/pair",
    "memory_mib": "MiB",
    "epe_float32": "EPE to float32 px", "abs_rel_float32": "AbsRel to float32", "compile_s": "compile s",
    "compile_cached_s": "cached s", "device_memory_mib": "device MiB", "pairs_sent": "sent",
    "pairs_delivered": "delivered",
    "pairs_unaccounted": "unaccounted", "published_p50_ms": "stamp to depth ms", "inference_p50_ms": "model ms",
    "inference_p95_ms": "model 95 % ms", "inference_p99_ms": "model 99 % ms", "overhead_p50_ms": "overhead ms",
}  # fmt: skip
# How numbers are written, by how the measure's name begins: the first that fits, else with one decimal.
_FORMATS = (
    (("epe_float32", "abs_rel_float32"), ".4f"),
    (("ause",), ".3f"),
    (("abs_rel", "sq_rel", "rmse_log", "delta"), ".4f"),
    (("rmse", "scale", "seconds"), ".3f"),
    (("epe", "angular", "photometric", "energy"), ".2f"),
    (("memory", "device_memory", "pairs"), ".0f"),
)


@dataclass
class Report:
    """Result of a command that measures, with all that is needed to know where the numbers come from."""

    command: str
    """The command in words, such as "evaluate stereo"; with its arguments where the caller knows them."""
    model: dict[str, Any] = field(default_factory=dict)
    """``name`` and ``sha256`` of the weights (None for a classical method), and what else identifies it."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the measurement: what counts as wrong, how images are combined, sizes, rates."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    series: list[dict[str, Any]] = field(default_factory=list)
    """One entry per evaluated pair, in their order: ``set``, ``name``, ``stamp`` (s) and what was measured on it. Not
    in the JSON if there is none."""
    software: dict[str, str] = field(default_factory=lambda: software_versions())
    created: str | None = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    """UTC time, ISO 8601. None: not in the JSON, which is then the same byte for byte where the numbers are."""

    def add_row(self, set_name: str, method: str, metrics: Mapping[str, float], **details: Any) -> None:
        """Add a line: ``metrics`` of ``method`` on ``set_name``; ``details`` (such as images=12) go into the row."""
        self.rows.append({"set": set_name, "method": method, **details, "metrics": dict(metrics)})

    def to_dict(self) -> dict[str, Any]:
        """Return the report as the schema has it. Numbers that are not finite become None, which JSON can hold."""
        model = {"name": None, "sha256": None, **self.model}
        fields: dict[str, Any] = {"schema": SCHEMA, "command": self.command}
        if self.created is not None:
            fields["created"] = self.created
        fields |= {"software": self.software, "model": model, "settings": self.settings, "rows": self.rows}
        if self.series:
            fields["series"] = self.series
        cleaned: dict[str, Any] = json_ready(fields)
        return cleaned

    def write_json(self, path: str | Path) -> None:
        """Write the report as JSON; the file appears when it is complete."""
        write_json(path, self.to_dict())

    def table(self, columns: list[str] | None = None, title: str | None = None) -> Table:
        """Return the rows as a rich table; ``columns`` names the measures to show (default: all that occur).

        Where rows have a number of pairs, it is shown.
        """
        names = columns or self.measures()
        table = Table(title=title or self.command)
        table.add_column("set", overflow="fold")
        table.add_column("method", overflow="fold")
        for name in self._counts():
            table.add_column(name, justify="right")
        for name in names:
            table.add_column(heading_of(name), justify="right")
        previous = None
        for row in self.rows:
            if previous is not None and row["set"] != previous:
                table.add_section()
            shown = "" if row["set"] == previous else str(row["set"])
            table.add_row(shown, *self._cells(row, names))
            previous = row["set"]
        return table

    def markdown(self, columns: list[str] | None = None) -> str:
        """Return the same table as Markdown, for documents."""
        names = columns or self.measures()
        heads = ["set", "method", *self._counts(), *(heading_of(name) for name in names)]
        lines = ["| " + " | ".join(heads) + " |", "|---|---|" + "---:|" * (len(heads) - 2)]
        lines += ["| " + " | ".join([str(row["set"]), *self._cells(row, names)]) + " |" for row in self.rows]
        return "\n".join(lines) + "\n"

    def _counts(self) -> list[str]:
        return ["pairs"] if any("pairs" in row for row in self.rows) else []

    def _cells(self, row: Mapping[str, Any], names: list[str]) -> list[str]:
        """Return the cells of a row after its set."""
        counts = [str(row.get(name, "")) for name in self._counts()]
        return [str(row["method"]), *counts, *(formatted(name, row["metrics"].get(name)) for name in names)]

    def measures(self) -> list[str]:
        """Return the names of all measures that occur, in the order of the tables."""
        found = {name for row in self.rows for name in row["metrics"]}
        return [name for name in _HEADINGS if name in found] + sorted(found - set(_HEADINGS))


def read_report(path: str | Path) -> Report:
    """Read a report written by ``Report.write_json``. Raises ValueError naming the file and what is wrong."""
    path = Path(path)
    try:
        values = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a readable report ({error})") from error
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        found = values.get("schema") if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"{path}: schema is {found!r}, expected {SCHEMA!r}; write it with --json of this version")
    return Report(**{"created": None, **{name: value for name, value in values.items() if name != "schema"}})


def software_versions() -> dict[str, str]:
    """Return the versions of what a number can depend on; only what is installed."""
    versions = {"python": platform.python_version(), "platform": f"{sys.platform} {platform.machine()}"}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def heading_of(name: str) -> str:
    """Return the heading of a measure in a table."""
    return (_HEADINGS | _SPEED_HEADINGS).get(name, name)


def formatted(name: str, value: float | None) -> str:
    """Format a measure as a table has it; a dash if there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if name not in _HEADINGS | _SPEED_HEADINGS:
        return format(value, ".4g")
    return format(value, next((number for begin, number in _FORMATS if name.startswith(begin)), ".1f"))


def json_ready(value: Any) -> Any:
    """Return mappings, lists and numbers as JSON has them; numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()  # a numpy scalar
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
