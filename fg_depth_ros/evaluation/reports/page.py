"""A report as one HTML page that needs nothing beside it: tables, plots, pictures, and where the numbers come from."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from fg_depth_ros.evaluation.reports import plots as page_plots
from fg_depth_ros.evaluation.reports.report import Report, formatted, heading_of
from fg_depth_ros.files import atomic_write

_QUALITY = 85
# In the settings of a report; everything else there is provenance.
_LEFT_OUT, _DAMAGED = "left_out", "damaged"
_HEADINGS = {"accuracy": "Accuracy", "timing": "Timing", "": "Measures"}
_STYLE = """
body { font: 15px/1.45 sans-serif; color: #222; background: #fff; margin: 2em auto; max-width: 1200px; padding: 0 1em }
h1 { font-size: 1.5em } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ccc }
table { border-collapse: collapse; margin: .6em 0; font-size: .9em } .wide { overflow-x: auto }
th, td { padding: .2em .6em; border-bottom: 1px solid #e4e4e4; text-align: left; vertical-align: top }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
tr.first td { border-top: 2px solid #999 }
img { max-width: 100% } figure { display: inline-block; margin: .3em; vertical-align: top }
figcaption { font-size: .8em; color: #555 }
pre { font-size: .8em; background: #f6f6f6; padding: .8em; overflow-x: auto }
"""


class Picture(NamedTuple):
    """A row of images under one title. ``tiles``: (caption, uint8 RGB H x W x 3, or a JPEG file's bytes)."""

    title: str
    tiles: Sequence[tuple[str, np.ndarray | bytes]]


def jpeg(image: np.ndarray) -> bytes:
    """A picture, uint8 RGB H x W x 3 or grey H x W, as a JPEG file."""
    bgr = image[:, :, ::-1] if image.ndim == 3 else image
    return bytes(cv2.imencode(".jpg", np.ascontiguousarray(bgr), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1])


def write_page(
    path: str | Path,
    report: Report,
    series: Sequence[Mapping[str, Any]] | None = None,
    pictures: Iterable[Picture] = (),
    title: str = "",
) -> None:
    """Write the page; it appears under its name only when it is whole. What is empty is left out of it.

    Args:
        path: the .html file; its folder is made if missing.
        report: its rows become tables by their ``kind``; ``histogram`` of a row (measure, edges, counts) is plotted;
            of its settings, ``left_out`` and ``damaged`` (lists of mappings) are tables, the rest stands at the end.
        series: entries as in ``Report.series`` (default: the report's own), plotted over time.
        pictures: such as those of the worst pairs.
        title: of the page; default: the report's command.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    series = report.series if series is None else series
    parts = [*_head(report, title or report.command), *_tables(report)]
    colours = page_plots.colours_of([*report.rows, *series])
    plots = page_plots.over_time(series, colours)
    plots += [*page_plots.histograms(report.rows, colours), *page_plots.latencies(series, colours)]
    for heading in dict.fromkeys(plot.heading for plot in plots):
        parts.append(f"<h2>{_text(heading)}</h2>")
        parts += [_figure(plot.png, "png", plot.caption) for plot in plots if plot.heading == heading]
    parts += _pictures(pictures)
    for name, heading in ((_LEFT_OUT, "Left out"), (_DAMAGED, "Pairs that could not be used")):
        parts += _list(heading, report.settings.get(name) or [])
    parts += _provenance(report)
    body = "\n".join(parts)
    content = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{_text(title or report.command)}'
        f"</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
    with atomic_write(path) as unfinished:
        unfinished.write_text(content, encoding="utf-8")


def _head(report: Report, title: str) -> list[str]:
    facts = [report.created or "", *(f"{name} {value}" for name, value in report.model.items() if value)]
    return [f"<h1>{_text(title)}</h1>", f"<p>{_text(', '.join(fact for fact in facts if fact))}</p>"]


def _tables(report: Report) -> list[str]:
    kinds = list(dict.fromkeys(str(row.get("kind", "")) for row in report.rows))
    parts = []
    for kind in kinds:
        rows = [row for row in report.rows if str(row.get("kind", "")) == kind]
        parts.append(f"<h2>{_text(_HEADINGS.get(kind, kind.capitalize()))}</h2>")
        for block in _blocks(rows):
            parts.append(_measures(Report(report.command, rows=block)))
    return parts


def _blocks(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows that have the same measures, together: a table of all would be mostly empty."""
    blocks: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        blocks.setdefault(tuple(sorted(row["metrics"])), []).append(row)
    return list(blocks.values())


def _measures(report: Report) -> str:
    details = [name for name in ("against", "pairs", "drops") if any(row.get(name) for row in report.rows)]
    names = report.measures()
    heads = "".join(f"<th>{_text(head)}</th>" for head in ("set", "method", *details))
    lines = ["<tr>" + heads + "".join(f'<th class="number">{_text(heading_of(name))}</th>' for name in names)]
    previous = None
    for row in report.rows:
        first = row["set"] != previous
        texts = [str(row["set"]) if first else "", str(row["method"]), *(_shown(row.get(name)) for name in details)]
        cells = "".join(f"<td>{_text(text)}</td>" for text in texts)
        numbers = (formatted(name, row["metrics"].get(name)) for name in names)
        cells += "".join(f'<td class="number">{_text(number)}</td>' for number in numbers)
        lines.append(('<tr class="first">' if first else "<tr>") + cells)
        previous = row["set"]
    return _wide("</tr>\n".join(lines) + "</tr>")


def _wide(rows: str) -> str:
    return f'<div class="wide"><table>\n{rows}\n</table></div>'


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {count}" for name, count in value.items())
    return "" if value is None else str(value)


def _pictures(pictures: Iterable[Picture]) -> list[str]:
    parts = []
    for picture in pictures:
        tiles = [
            _figure(image if isinstance(image, bytes) else jpeg(image), "jpeg", caption)
            for caption, image in picture.tiles
        ]
        parts.append(f"<h3>{_text(picture.title)}</h3>\n<div>{''.join(tiles)}</div>")
    return ["<h2>Worst pairs</h2>", *parts] if parts else []


def _figure(content: bytes, kind: str, caption: str) -> str:
    data = base64.b64encode(content).decode("ascii")
    below = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="data:image/{kind};base64,{data}" alt="{_text(caption)}">{below}</figure>'


def _list(heading: str, entries: Sequence[Mapping[str, Any]]) -> list[str]:
    if not entries:
        return []
    names = list(dict.fromkeys(name for entry in entries for name in entry))
    lines = ["".join(f"<th>{_text(name)}</th>" for name in names)]
    lines += ["".join(f"<td>{_text(_shown(entry.get(name)))}</td>" for name in names) for entry in entries]
    rows = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return [f"<h2>{_text(heading)}</h2>", _wide(rows)]


def _provenance(report: Report) -> list[str]:
    settings = {name: value for name, value in report.settings.items() if name not in (_LEFT_OUT, _DAMAGED)}
    parts = ["<h2>Where the numbers come from</h2>"]
    # What is a list of things with the same facts reads better as a table.
    for name, value in list(settings.items()):
        if isinstance(value, list) and value and all(isinstance(entry, Mapping) for entry in value):
            parts += [part.replace("h2>", "h3>") for part in _list(name, settings.pop(name))]
    known = {"model": report.model, "settings": settings, "software": report.software}
    return [*parts, f"<pre>{_text(json.dumps(known, indent=2, default=str))}</pre>"]


def _text(value: str) -> str:
    return html.escape(value)
