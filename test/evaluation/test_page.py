"""The HTML page: complete in itself, everything in it, nothing but what it was given."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from fg_depth_ros.evaluation.reports.page import Picture, jpeg, write_page
from fg_depth_ros.evaluation.reports.plots import histograms, latencies, over_time, styles_of
from fg_depth_ros.evaluation.reports.report import Report


class Reader(HTMLParser):
    """Collects headings, cells and images; fails on tags that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.images, self.attributes = [], {}, [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, *each) for each in attributes]
        if tag == "img":
            self.images.append(dict(attributes)["src"])
        elif tag != "meta":
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts[self.open[-1]][-1] += data

    def decoded(self):
        heads = [image.partition(",") for image in self.images]
        assert {head for head, _, _ in heads} <= {"data:image/png;base64", "data:image/jpeg;base64"}
        return [cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), 1) for _, _, data in heads]


def example(pairs=4):
    report = Report("replay", model={"name": "net", "sha256": "ab12"}, settings={"every": 1})
    histogram = {"measure": "error", "edges": [0.01, 0.1, 1.0], "counts": [3, 1]}
    report.add_row("all", "net <b>", {"abs_rel": 0.125, "density": 99.5}, kind="accuracy", pairs=4, histogram=histogram)
    report.add_row("drive", "net <b>", {"abs_rel": float("nan")}, kind="accuracy", pairs=4)
    report.add_row("all", "net <b>", {"inference_p50_ms": 12.5}, kind="timing", drops={"too late": 2})
    report.settings["left_out"] = [{"name": "b", "reason": "cut & damaged"}]
    report.settings["bags"] = [{"name": "drive", "sha256": "77aa"}]
    report.series = [
        {"set": "drive", "method": "net <b>", "name": str(k), "stamp": 5.0 + k, "abs_rel": 0.1 * k, "latency_ms": 10.0}
        for k in range(pairs)
    ]
    return report


def page_of(path, *arguments, **options):
    write_page(path, *arguments, **options)
    text = path.read_text(encoding="utf-8")
    return text, Reader(text)


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        write_page(tmp_path / "file" / "page.html", example())
    (tmp_path / "page.html").mkdir()
    with pytest.raises(OSError):
        write_page(tmp_path / "page.html", example())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "page.html"]


def test_the_page_needs_nothing_beside_it_and_holds_everything(tmp_path):
    tile = np.zeros((20, 30, 3), np.uint8)
    tile[..., 0] = 255
    pictures = [Picture("pair 7", (("left", tile), ("answer", jpeg(tile))))]
    text, page = page_of(tmp_path / "out" / "page.html", example(), pictures=pictures, title="A replay")
    assert page.texts["title"] == page.texts["h1"] == ["A replay"]
    assert page.texts["h2"] == [
        "Accuracy", "Timing", "Over time", "Errors", "Latency", "Worst pairs", "Left out",
        "Where the numbers come from",
    ]  # fmt: skip
    assert not re.search(r"https?:|<script|<link|url\(|src=\"(?!data:)", text)
    cells = page.texts["td"]
    for cell in ("net <b>", "0.1250", "99.5", "-", "12.5", "too late: 2", "cut & damaged", "77aa"):
        assert cell in cells
    assert '"sha256": "ab12"' in page.texts["pre"][0]
    images = page.decoded()
    assert len(images) == 2 + 1 + 1 + 2  # two measures over time, a histogram, latency, two tiles
    assert all(image.std() > 5 for image in images[:4])
    for image in images[4:]:
        assert image.shape == (20, 30, 3)
        np.testing.assert_allclose(image.reshape(-1, 3).mean(0), (0, 0, 255), atol=4)  # red, in OpenCV's order
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["page.html"]


def test_any_part_may_be_empty(tmp_path):
    _, page = page_of(tmp_path / "a.html", Report("bench"))
    assert page.texts["h2"] == ["Where the numbers come from"] and not page.images
    _, page = page_of(tmp_path / "b.html", example(), [])
    assert page.texts["h2"][:4] == ["Accuracy", "Timing", "Errors", "Left out"]
    # As a live report has them: no method, nothing judged yet, dropped pairs.
    live = [{"stamp": 1.0, "latency_ms": None}, {"stamp": 2.0, "latency_ms": 20.0, "dropped": False}, {"stamp": 3.0}]
    _, page = page_of(tmp_path / "c.html", Report("live", rows=[{"set": "s", "method": "m", "metrics": {}}]), live)
    assert page.texts["h2"] == ["Measures", "Over time", "Latency", "Where the numbers come from"]
    _, page = page_of(tmp_path / "d.html", Report("live"), [{"stamp": None, "epe": 3.0}, {"epe": None, "stamp": 1.0}])
    assert "Over time" in page.texts["h2"]


def pixels_of(plot, colour):
    image = cv2.imdecode(np.frombuffer(plot.png, np.uint8), 1)[:, :, ::-1].astype(int)
    frame = np.flatnonzero((image.max(axis=2) < 90).sum(axis=0) > 0.5 * len(image))  # of the plot, without the legend
    rows, columns = np.nonzero(np.abs(image - np.array(colour)).max(axis=2) < 40)
    inside = (columns > frame[0] + 1) & (columns < frame[-1] - 1)
    return rows[inside], columns[inside]


BLUE, ORANGE = (0, 114, 178), (213, 94, 0)  # of the first two methods
RED = (255, 0, 0)


def test_a_line_goes_where_the_figures_say():
    series = [{"method": "a", "stamp": float(k), "epe": 0.1 * k} for k in range(11)]
    series += [{"method": "b", "stamp": float(k), "epe": 0.8} for k in range(11)]
    (plot,) = over_time(series, styles_of(series))
    rows, columns = pixels_of(plot, BLUE)
    assert np.corrcoef(rows, columns)[0, 1] < -0.99  # up to the right
    flat, _ = pixels_of(plot, ORANGE)
    assert np.ptp(flat[2:-2]) <= 5


def test_methods_are_told_apart_in_grey():
    series = [{"method": m, "stamp": float(k), "epe": v} for v, m in enumerate("abcd") for k in (0, 500)]
    series = [entry for entry in series for _ in range(200)]  # too many for dots
    (plot,) = over_time(series, styles_of(series))
    grey = cv2.imdecode(np.frombuffer(plot.png, np.uint8), 0).astype(int)
    left, right = np.flatnonzero((grey < 90).sum(axis=0) > 0.5 * len(grey))[[0, -1]]  # the frame
    inside = (grey < 215)[:, left + 20 : right - 20]
    rows = [row for row in inside if row.any() and row.mean() > 0.2]
    kinds = {round(float(row.mean()), 1) for row in rows}  # how much of its length each line covers
    assert len(kinds) >= 3
    styles = styles_of([{"method": str(k)} for k in range(28)])
    assert len({tuple(style.values()) for style in styles.values()}) == 28


def test_sets_stand_one_behind_the_other():
    series = [
        {"set": s, "method": "a", "name": str(k), "stamp": float(k), "epe": v}
        for s, v in (("x", 1), ("y", 2))
        for k in range(4)
    ]
    (plot,) = over_time(series, styles_of(series))
    rows, columns = pixels_of(plot, BLUE)
    middle = (columns.min() + columns.max()) / 2
    assert rows[columns < middle].min() > rows[columns > middle].max() + 20  # y's pairs are worse: higher up
    # No line leads from one set to the other.
    assert not np.any(np.abs(columns - middle) < 0.04 * np.ptp(columns))


def test_dropped_pairs_are_marked_where_they_were_sent():
    series = [{"method": "a", "stamp": float(k), "latency_ms": 20.0} for k in range(10) if k != 5]
    kept, _ = pixels_of(over_time(series, styles_of(series))[0], RED)
    assert not len(kept)
    series.append({"method": "a", "stamp": 5.0, "dropped": True})
    (plot,) = over_time(series, styles_of(series))
    _, line = pixels_of(plot, BLUE)
    _, cross = pixels_of(plot, RED)
    place = (cross.mean() - line.min()) / np.ptp(line)
    assert place == pytest.approx(5 / 9, abs=0.02)


def test_histograms_are_shares_of_the_first_set():
    rows = example().rows
    (plot,) = histograms(rows, styles_of(rows))
    assert plot.heading == "Errors" and plot.caption.startswith("all;")
    lines, columns = pixels_of(plot, BLUE)
    middle = (columns.min() + columns.max()) / 2
    bottom = lines.max()
    left, right = (bottom - lines[part].min() for part in (columns < middle - 5, columns > middle + 5))
    assert left == pytest.approx(3 * right, rel=0.1)  # 3 of 4 in the first bin, 1 in the second
    assert histograms([], {}) == [] and latencies([], {}) == [] and over_time([], {}) == []


def test_a_dollar_sign_in_a_name_is_no_formula(tmp_path):
    """Two of them begin and end a formula of matplotlib, and this one is none."""
    report = example()
    name = "a$\\frac{$"
    for entry in (*report.rows, *report.series):
        entry["method"] = name
        entry["set"] = name
    styles = styles_of(report.rows)
    assert all(plot.png for plot in (*over_time(report.series, styles), *histograms(report.rows, styles)))
    assert name in page_of(tmp_path / "a.html", report)[1].texts["td"]
