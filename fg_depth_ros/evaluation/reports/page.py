"""A report as one self-contained HTML page: tables, plots, pictures, and where the numbers come from."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from fg_depth_ros.evaluation.reports import plots as page_plots
from fg_depth_ros.evaluation.reports.report import Report, formatted, heading_of
from fg_depth_ros.files import atomic_write

_QUALITY = 85
_HEADINGS = {"accuracy": "Accuracy", "timing": "Timing", "": "Measures"}
# Settings of a report that are tables; the rest is provenance.
_LISTS = {"left_out": "Left out", "damaged": "Pairs that could not be used", "warnings": "Warnings"}


class Picture(NamedTuple):
    """A row of images under one title. ``tiles``: (caption, uint8 RGB H x W x 3, or a JPEG file's bytes)."""

    title: str
    tiles: Sequence[tuple[str, np.ndarray | bytes]]


def jpeg(image: np.ndarray) -> bytes:
    """Encode a picture, uint8 RGB H x W x 3 or grey H x W, as a JPEG file."""
    bgr = image[:, :, ::-1] if image.ndim == 3 else image
    return bytes(cv2.imencode(".jpg", np.ascontiguousarray(bgr), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1])


def write_page(
    path: str | Path, report: Report, series: Sequence[Mapping[str, Any]] | None = None,
    pictures: Iterable[Picture] = (), title: str = "",
) -> None:  # fmt: skip
    """Write the page; it appears under its name only when it is whole. What is empty is left out of it.

    Rows of the report become tables by their ``kind``; ``histogram`` of a row (measure, edges, counts) is plotted; of
    the settings, ``left_out``, ``damaged`` and ``warnings`` (lists of mappings) are tables, the rest stands at the end.
    ``series`` (default: the report's own) is plotted over time; ``title``: default: the report's command. Raises
    OSError: the file cannot be written.
    """
    series = report.series if series is None else series
    styles = page_plots.styles_of([*report.rows, *series])
    settings = dict(report.settings)
    lists = {heading: settings.pop(name, None) for name, heading in _LISTS.items()}
    # A list of things with the same facts reads better as a table.
    facts_lists = {
        name: settings.pop(name)
        for name, value in list(settings.items())
        if isinstance(value, list) and value and all(isinstance(entry, Mapping) for entry in value)
    }
    facts = [report.created, *(f"{name} {value}" for name, value in report.model.items() if value)]
    known = {"model": report.model, "settings": settings, "software": report.software}
    content = _template().render(
        title=title or report.command,
        facts=", ".join(fact for fact in facts if fact),
        measures=_measures(report),
        plots=[
            *page_plots.over_time(series, styles),
            *page_plots.histograms(report.rows, styles),
            *page_plots.latencies(series, styles),
        ],
        pictures=list(pictures),
        lists=lists,
        facts_lists=facts_lists,
        provenance=json.dumps(known, indent=2, default=str),
    )
    with atomic_write(path) as unfinished:
        unfinished.write_text(content, encoding="utf-8")


def _measures(report: Report) -> dict[str, list[dict[str, Any]]]:
    """Make tables by the heading of their kind; rows with the same measures together, else most cells are empty."""
    found: dict[str, dict[tuple[str, ...], list[dict[str, Any]]]] = {}
    for row in report.rows:
        kind = str(row.get("kind", ""))
        tables = found.setdefault(_HEADINGS.get(kind, kind.capitalize()), {})
        tables.setdefault(tuple(sorted(row["metrics"])), []).append(row)
    return {
        heading: [
            {
                "rows": rows,
                "names": Report(report.command, rows=rows).measures(),
                "details": [name for name in ("against", "pairs", "drops") if any(row.get(name) for row in rows)],
            }
            for rows in tables.values()
        ]
        for heading, tables in found.items()
    }


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=False
    )
    environment.filters.update(
        b64=lambda content: base64.b64encode(content).decode("ascii"),
        cell=_cell,
        heading=heading_of,
        jpeg=lambda image: image if isinstance(image, bytes) else jpeg(image),
        keys=lambda entries: list(dict.fromkeys(name for entry in entries for name in entry)),
        number=lambda value, name: formatted(name, value),
    )
    return environment.get_template("page.html.j2")


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {count}" for name, count in value.items())
    return "" if value is None else str(value)
