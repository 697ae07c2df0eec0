"""Tables in terminals of any width, in pipes, and with names that look like markup."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
from rich.console import Console
from rich.table import Table

from fg_depth_ros.cli import app, bags

NAME = "recording [/red] :smile: of_the_long_way_home_2026_11_29"


@pytest.fixture
def table() -> Table:
    made = Table("bag", title="bags")
    for heading in ("pairs", "largest gap", "left", "right", "brightness"):
        made.add_column(heading, justify="right")
    made.add_row(NAME, "12", "0.25", "1", "2", "3.5")
    made.add_row("", "13", "-", "1", "2", "3.5")
    return made


def shown(table: Table, monkeypatch: pytest.MonkeyPatch, width: int, terminal: bool) -> str:
    stream = io.StringIO()
    made = Console(file=stream, width=width, force_terminal=terminal, color_system=None, markup=False, emoji=False)
    monkeypatch.setattr(app, "console", made)
    monkeypatch.setattr("sys.stdout", stream)
    app.show(table)
    return stream.getvalue()


def test_a_pipe_gets_a_line_per_row_whatever_the_width(table, monkeypatch):
    lines = shown(table, monkeypatch, 80, terminal=False).splitlines()
    (line,) = [line for line in lines if NAME in line]
    assert line.split(NAME)[1].replace("\u2502", "").split() == ["12", "0.25", "1", "2", "3.5"]


def test_a_narrow_terminal_gets_a_paragraph_per_row_without_broken_words(table, monkeypatch):
    text = shown(table, monkeypatch, 80, terminal=True)
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    assert f"{NAME}, pairs 12, largest gap 0.25, left 1, right 2, brightness 3.5" in words
    assert f"{NAME}, pairs 13, left 1, right 2, brightness 3.5" in words


def test_a_table_that_fits_is_a_table(table, monkeypatch):
    text = shown(table, monkeypatch, 200, terminal=True)
    assert any(NAME in line and "0.25" in line for line in text.splitlines())


@pytest.mark.parametrize("terminal", [True, False])
def test_checked_bags_fit_into_80_columns_below_their_names(monkeypatch, terminal):
    rig, exposure = {"width": 1920, "height": 1080}, {"dark": 0.123, "bright": 0.456, "ratio": 1.234}
    topic = "/a_robot/front_stereo_camera/left/image_rect_color/compressed"
    bag = {
        "name": f"{NAME}/{'x' * 90}", "path": "/there/bag", "usable": True, "pairs": 123456, "seconds": 12345.6,
        "rate": 29.97, "largest_gap": 123.45, "unpaired": [1234, 5678], "slack": 0.0123, "exposure": exposure,
        "rig": rig, "encodings": ["rgb8; jpeg compressed bgr8", ""],
        "problems": [{"severity": "warn", "text": f"/there/bag: {'words of a long text ' * 9}{topic} {topic}"}],
    }  # fmt: skip
    empty = {**bag, "name": "empty", "usable": False, "pairs": 0, "rig": None, "exposure": None, "problems": []}
    stream = io.StringIO()
    made = Console(file=stream, width=80, force_terminal=terminal, color_system=None, markup=False, emoji=False)
    for module in (app, bags):
        monkeypatch.setattr(module, "console", made)
    bags.show_bags([bag, empty, {**bag, "name": "short", "rate": None, "largest_gap": None, "exposure": None}])
    lines = stream.getvalue().splitlines()
    assert lines[0] == "2 of 3 bags can be used"
    assert [line for line in lines[1:] if line and not line.startswith(" ")] == [bag["name"], "empty", "short"]
    assert all(len(line) <= 80 for line in lines if line != bag["name"])
    words = " ".join(stream.getvalue().split())
    assert "123456 pairs in 12345.6 s, 30.0 Hz, largest gap 123.45 s, 1920x1080 rgb8; jpeg compressed bgr8" in words
    assert "unpaired 1234 left 5678 right, stamps within 12.3 ms 12 % dark, 46 % bright, brightness left/right" in words
    assert "warn: words of" in words and words.count(topic) == 4 and "empty no pairs short" in words


@pytest.mark.parametrize(("variable", "box"), [("C", "+|-"), ("C.UTF-8", "\u2502\u2500")])
def test_the_lines_of_a_table_are_what_the_locale_can_show(variable, box):
    code = (
        "from rich.table import Table; from fg_depth_ros import cli; from fg_depth_ros.cli.app import show\n"
        "cli._use_locale(); table = Table('bag'); table.add_row('h\\u00f6me'); show(table)"
    )
    environment = {**os.environ, "LC_ALL": variable}
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout
    text = shown.decode("ascii" if variable == "C" else "utf-8")
    assert all(line in text for line in box)
    assert ("h\\xf6me" if variable == "C" else "h\u00f6me") in text
