"""Plots of a report as PNG files in memory: figures over time, histograms of errors, latency."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fg_depth_ros.evaluation.reports.report import heading_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OVER_TIME = ("abs_rel", "epe", "rmse", "d1", "photometric", "left_right", "seen_by_both", "density", "latency_ms")
_HEADINGS = {"latency_ms": "latency, ms"}
_NAMED_SETS = 12  # more names than these would cover one another
_MARKED = 300  # pairs; dots of more are one band
_FAR_APART = 20.0  # methods whose medians differ by more do not fit one linear axis
_SIZE, _DPI = (7.2, 2.6), 100
# Okabe and Ito's colours without yellow, which those who do not see red or green tell apart; in grey the kinds of lines
# are told apart.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
_KINDS = ("-", "--", "-.", ":")
_MARKERS = ("", "o", "s", "^", "x")


class Plot(NamedTuple):
    """A plot, a PNG file's bytes, under a heading that several share."""

    heading: str
    caption: str
    png: bytes


def line_style(number: int) -> dict[str, Any]:
    """Return matplotlib's options of a line: of 28 numbers in a row none has the colour and the kind of another."""
    return {"color": _COLOURS[number % len(_COLOURS)], "linestyle": _KINDS[number % len(_KINDS)]}


def styles_of(entries: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the style of the line of every method of rows and series, the same in all plots."""
    return {method: line_style(number) for number, method in enumerate(dict.fromkeys(map(_method, entries)))}


def over_time(series: Sequence[Mapping[str, Any]], styles: Mapping[str, Mapping[str, Any]]) -> list[Plot]:
    """Plot every known measure in ``series`` (as ``Report.series``), a line per method.

    Over seconds if there is one set; several sets follow one another, pair by pair.
    """
    sets = list(dict.fromkeys(str(entry.get("set", "")) for entry in series))
    places = _places(series, sets)
    plots = []
    for name in _OVER_TIME:
        lines = _lines(series, name)
        if lines:
            figure, axes = _figure()
            for method, entries in lines.items():
                x, y = np.array([(places[id(e)], _number(e.get(name))) for e in entries], float).T
                breaks = np.flatnonzero([a.get("set") != b.get("set") for a, b in itertools.pairwise(entries)]) + 1
                x, y = np.insert(x, breaks, np.nan), np.insert(y, breaks, np.nan)  # no line from one set to the next
                marker = "." if len(entries) <= _MARKED else ""
                axes.plot(x, y, label=plain(method), **styles[method], linewidth=1, marker=marker, markersize=3)
            lost = [places[id(entry)] for entry in series if entry.get("dropped")] if name == "latency_ms" else []
            if lost:
                axes.plot(lost, np.zeros(len(lost)), "x", color="red", markersize=4, label="dropped")
            _dress(axes, _HEADINGS.get(name) or heading_of(name), "time, s" if len(sets) == 1 else "pair")
            _stretch(axes, lines, name, list(places.values()))
            _name_sets(axes, series, sets, places)
            plots.append(Plot("Over time", "", _png(figure)))
    return plots


def histograms(rows: Sequence[Mapping[str, Any]], styles: Mapping[str, Mapping[str, Any]]) -> list[Plot]:
    """Plot every measure that rows of the first set have a ``histogram`` of; each curve is a share of 100 %."""
    found = [row for row in rows if row.get("histogram") and sum(row["histogram"]["counts"])]
    found = [row for row in found if row["set"] == found[0]["set"]]
    plots = []
    for measure in dict.fromkeys(row["histogram"]["measure"] for row in found):
        figure, axes = _figure()
        for row in (row for row in found if row["histogram"]["measure"] == measure):
            edges, counts = (np.asarray(row["histogram"][name], float) for name in ("edges", "counts"))
            share = 100 * counts / counts.sum()
            axes.stairs(share, edges, label=plain(row["method"]), **styles[_method(row)])
        axes.set_xscale("log")
        _dress(axes, "pixels, %", measure)
        plots.append(Plot("Errors", f"{found[0]['set']}; what lies beyond an end is in its last bin", _png(figure)))
    return plots


def latencies(series: Sequence[Mapping[str, Any]], styles: Mapping[str, Mapping[str, Any]]) -> list[Plot]:
    """Plot the share of pairs that were processed within a time, a line per method; empty without ``latency_ms``."""
    lines = _lines(series, "latency_ms")
    if not lines:
        return []
    figure, axes = _figure()
    for method, entries in lines.items():
        values = np.sort([value for e in entries if math.isfinite(value := _number(e.get("latency_ms")))])
        share = 100 * np.arange(1, len(values) + 1) / len(values)
        axes.step(values, share, where="post", label=plain(method), **styles[method])
    _dress(axes, "pairs processed, %", "latency, ms")
    return [Plot("Latency", "", _png(figure))]


def reliability(coverage: Mapping[str, np.ndarray], factors: np.ndarray) -> bytes:
    """Plot shares of errors within multiples of sigma, a line per data set, as a PNG; a Laplace error as reference."""
    figure, axes = _figure()
    for number, (name, shares) in enumerate(coverage.items()):
        axes.plot(factors, 100 * shares, label=plain(name), linewidth=1, **line_style(number))
    axes.plot(
        factors, 100 * (1 - np.exp(-math.sqrt(2) * factors)), "k", label="as it should be", linewidth=2, alpha=0.4
    )
    _dress(axes, "errors within, %", "multiple of sigma")
    return _png(figure)


def sparsification(curves: Mapping[str, Mapping[str, np.ndarray]], fractions: np.ndarray) -> bytes:
    """Plot the mean error, px, that is left when a share of the pixels is removed, as a PNG.

    ``curves``: by data set, which has a colour and a marker, and by method, which has a kind of line.
    """
    figure, axes = _figure()
    for number, (name, methods) in enumerate(curves.items()):
        marker, colour = _MARKERS[number % len(_MARKERS)], _COLOURS[number % len(_COLOURS)]
        for kind, (method, errors) in zip(itertools.cycle(_KINDS), methods.items()):
            axes.plot(100 * fractions, errors, kind, color=colour, marker=marker, markersize=3, markevery=0.1,
                      label=plain(f"{name}, {method}"), linewidth=1)  # fmt: skip
    _dress(axes, "mean error left, px", "removed, %")
    return _png(figure)


def _lines(series: Sequence[Mapping[str, Any]], name: str) -> dict[str, list[Mapping[str, Any]]]:
    """Return the entries that have this measure at least once, by method."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for entry in series:
        if name in entry:
            found.setdefault(_method(entry), []).append(entry)
    return {
        method: entries for method, entries in found.items() if any(math.isfinite(_number(e[name])) for e in entries)
    }


def _places(series: Sequence[Mapping[str, Any]], sets: list[str]) -> dict[int, float]:
    """Return where every entry (by its id) stands on the axis of time."""
    if len(sets) == 1:
        stamps = [_number(entry.get("stamp")) for entry in series]
        first = min((stamp for stamp in stamps if math.isfinite(stamp)), default=0.0)
        return {id(entry): stamp - first for entry, stamp in zip(series, stamps, strict=True)}
    numbers: dict[tuple[str, str], int] = {}
    for entry in series:
        numbers.setdefault((str(entry.get("set", "")), str(entry.get("name", entry.get("stamp")))), len(numbers))
    return {
        id(entry): float(numbers[str(entry.get("set", "")), str(entry.get("name", entry.get("stamp")))])
        for entry in series
    }


def _name_sets(axes: Axes, series: Sequence[Mapping[str, Any]], sets: list[str], places: dict[int, float]) -> None:
    if len(sets) < 2:
        return
    for name in sets:
        begin = min(places[id(entry)] for entry in series if str(entry.get("set", "")) == name) - 0.5
        axes.axvline(begin, color="#bbb", linewidth=0.8)
        if len(sets) <= _NAMED_SETS:
            axes.text(begin, 1.01, f" {plain(name)}", transform=axes.get_xaxis_transform(), fontsize=7, color="#555")


def plain(text: str) -> str:
    """Return a text for matplotlib that is shown as it is: a dollar sign in a file's name begins no formula."""
    return text.replace("$", r"\$")


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _method(entry: Mapping[str, Any]) -> str:
    return str(entry.get("label") or entry.get("method") or "prediction")


def _stretch(axes: Axes, lines: Mapping[str, Sequence[Mapping[str, Any]]], name: str, places: Sequence[float]) -> None:
    """Show the same time in every plot; a logarithmic axis where methods are too far apart for a linear one."""
    known = [place for place in places if math.isfinite(place)]
    begin, end = min(known, default=0.0), max(known, default=0.0)
    margin = 0.01 * (end - begin) if end > begin else 0.5
    axes.set_xlim(begin - margin, end + margin)
    medians = [float(np.nanmedian([_number(entry.get(name)) for entry in entries])) for entries in lines.values()]
    if min(medians) > 0 and max(medians) > _FAR_APART * min(medians):
        axes.set_yscale("log")


def _figure() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    return figure, figure.subplots()


def _dress(axes: Axes, what: str, along: str) -> None:
    axes.set_xlabel(along, fontsize=8)
    axes.set_ylabel(what, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.margins(x=0.01)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return stream.getvalue()
