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

from fg_depth_ros.files import atomic_write

SCHEMA = "fg_depth_report/1"
_PACKAGES = ("fg_depth_ros", "numpy", "torch", "opencv-python-headless", "opencv-python", "ros-rclpy")
# How a measure is written in a table: heading, number format. What is not named here is shown as it is
# called.
_COLUMNS: dict[str, tuple[str, str]] = {
    "epe": ("EPE px", ".2f"),
    "bad_0.5": ("bad-0.5 %", ".1f"),
    "bad_1": ("bad-1 %", ".1f"),
    "bad_2": ("bad-2 %", ".1f"),
    "bad_3": ("bad-3 %", ".1f"),
    "bad_4": ("bad-4 %", ".1f"),
    "d1": ("D1 %", ".1f"),
    "density": ("density %", ".1f"),
    "abs_rel": ("AbsRel", ".4f"),
    "sq_rel": ("SqRel", ".4f"),
    "rmse": ("RMSE m", ".3f"),
    "rmse_log": ("RMSE log", ".4f"),
    "delta_1": ("delta<1.25", ".4f"),
    "delta_2": ("delta<1.25^2", ".4f"),
    "delta_3": ("delta<1.25^3", ".4f"),
    "depth_density": ("depth density %", ".1f"),
    "seconds": ("s/pair", ".3f"),
}
# Short, so that a table of flow fits a terminal: what has no name there is an end-point error in px.
_FLOW_COLUMNS: dict[str, tuple[str, str]] = {
    "epe_noc": ("noc", ".2f"),
    "epe_occ": ("occ", ".2f"),
    "epe_below_10": ("<10", ".2f"),
    "epe_10_40": ("10-40", ".2f"),
    "epe_above_40": (">40", ".2f"),
    "fl_all": ("Fl %", ".1f"),
    "angular": ("AE °", ".2f"),
}
# Depth by true distance in metres.
_DEPTH_COLUMNS: dict[str, tuple[str, str]] = {
    "abs_rel_0_10": ("AbsRel <10", ".4f"),
    "abs_rel_10_20": ("10-20", ".4f"),
    "abs_rel_20_40": ("20-40", ".4f"),
    "abs_rel_40_80": ("40-80", ".4f"),
    "rmse_0_10": ("RMSE m <10", ".3f"),
    "rmse_10_20": ("10-20", ".3f"),
    "rmse_20_40": ("20-40", ".3f"),
    "rmse_40_80": ("40-80", ".3f"),
    "scale": ("scale", ".3f"),
}
# Without truth.
_AGREEMENT_COLUMNS: dict[str, tuple[str, str]] = {
    "seen_by_both": ("seen by both %", ".1f"),
    "photometric": ("photometric", ".2f"),
    "left_right": ("left-right %", ".1f"),
    "label_valid": ("valid %", ".1f"),
    "label_out_of_range": ("out of range %", ".1f"),
    "label_left_right_mismatch": ("mismatch %", ".1f"),
    "label_leaves_image": ("leaves image %", ".1f"),
    "label_vertical_flow": ("vertical %", ".1f"),
    "label_low_confidence": ("unsure %", ".1f"),
    "label_filled_from_mono": ("filled %", ".1f"),
}
_SPEED_COLUMNS: dict[str, tuple[str, str]] = {
    "latency_p50_ms": ("ms/pair", ".1f"),
    "latency_p95_ms": ("95 %", ".1f"),
    "throughput_hz": ("pairs/s", ".1f"),
    "memory_mib": ("MiB", ".0f"),
    "device_memory_mib": ("device MiB", ".0f"),
    "pairs_sent": ("sent", ".0f"),
    "pairs_delivered": ("delivered", ".0f"),
    "pairs_unaccounted": ("unaccounted", ".0f"),
    "published_p50_ms": ("stamp to depth ms", ".1f"),
    "inference_p50_ms": ("model ms", ".1f"),
    "inference_p95_ms": ("model 95 % ms", ".1f"),
    "inference_p99_ms": ("model 99 % ms", ".1f"),
    "overhead_p50_ms": ("overhead ms", ".1f"),
}


@dataclass
class Report:
    """Result of a command that measures, with all that is needed to know where the numbers come from."""

    command: str
    """The command in words, such as "evaluate stereo"; with its arguments where the caller knows them."""
    model: dict[str, Any] = field(default_factory=dict)
    """``name`` and ``sha256`` of the weights (None for a classical method), and what else identifies it."""
    settings: dict[str, Any] = field(default_factory=dict)
    """How was measured: what counts as wrong, how images are combined, sizes, rates."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    series: list[dict[str, Any]] = field(default_factory=list)
    """One entry per evaluated pair, in their order: ``set``, ``name``, ``stamp`` (s) and what was measured on it. Not
    in the JSON where there is none."""
    software: dict[str, str] = field(default_factory=lambda: software_versions())
    created: str | None = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    """UTC time, ISO 8601. None: not in the JSON, which is then the same byte for byte where the numbers are."""

    def add_row(self, set_name: str, method: str, metrics: Mapping[str, float], **details: Any) -> None:
        """Add a line: ``metrics`` of ``method`` on ``set_name``; ``details`` (such as images=12) stand beside them."""
        self.rows.append({"set": set_name, "method": method, **details, "metrics": dict(metrics)})

    def to_dict(self) -> dict[str, Any]:
        """Return the report as the schema has it. Numbers that are not finite become None, which JSON can hold."""
        model = {"name": None, "sha256": None, **self.model}
        fields = {
            "schema": SCHEMA,
            "command": self.command,
            "created": self.created,
            "software": self.software,
            "model": model,
            "settings": self.settings,
            "rows": self.rows,
        }
        if self.created is None:
            del fields["created"]
        if self.series:
            fields["series"] = self.series
        cleaned: dict[str, Any] = _json_ready(fields)
        return cleaned

    def write_json(self, path: str | Path) -> None:
        """Write the report as JSON; the file appears when it is complete."""
        with atomic_write(path) as unfinished:
            unfinished.write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")

    def table(self, columns: list[str] | None = None, title: str | None = None) -> Table:
        """Return the rows as a rich table; ``columns`` names the measures to show (default: all that occur)."""
        names = columns or self.measures()
        table = Table(title=title or self.command)
        table.add_column("set", overflow="fold")
        table.add_column("method", overflow="fold")
        for name in names:
            table.add_column(heading_of(name), justify="right")
        previous = None
        for row in self.rows:
            if previous is not None and row["set"] != previous:
                table.add_section()
            shown = "" if row["set"] == previous else str(row["set"])
            table.add_row(shown, str(row["method"]), *(formatted(name, row["metrics"].get(name)) for name in names))
            previous = row["set"]
        return table

    def markdown(self, columns: list[str] | None = None) -> str:
        """Return the same table as Markdown, for documents."""
        names = columns or self.measures()
        heads = ["set", "method", *(heading_of(name) for name in names)]
        lines = ["| " + " | ".join(heads) + " |", "|---|---|" + "---:|" * len(names)]
        for row in self.rows:
            cells = [formatted(name, row["metrics"].get(name)) for name in names]
            lines.append("| " + " | ".join([str(row["set"]), str(row["method"]), *cells]) + " |")
        return "\n".join(lines) + "\n"

    def measures(self) -> list[str]:
        """Return the names of all measures that occur, in the order of the tables."""
        found = {name for row in self.rows for name in row["metrics"]}
        ordered = _COLUMNS | _DEPTH_COLUMNS | _FLOW_COLUMNS | _AGREEMENT_COLUMNS
        return [name for name in ordered if name in found] + sorted(found - set(ordered))


def read_report(path: str | Path) -> Report:
    """Read a report written by ``Report.write_json``. Raises ValueError naming the file and what is wrong."""
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
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
    return _column(name)[0]


def formatted(name: str, value: float | None) -> str:
    """Format a measure as a table has it; a dash where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return format(value, _column(name)[1])


def _column(name: str) -> tuple[str, str]:
    """Return heading and number format of a measure."""
    known = _COLUMNS | _DEPTH_COLUMNS | _FLOW_COLUMNS | _AGREEMENT_COLUMNS | _SPEED_COLUMNS
    return known.get(name) or (name, ".4g")


def _json_ready(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_ready(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()  # a numpy scalar
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
