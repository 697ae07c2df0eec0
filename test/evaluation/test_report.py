"""The report: its schema, what it does with numbers that are none, and its tables."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from rich.console import Console

from fg_depth_ros.evaluation.metrics import DepthMetrics, StereoMetrics
from fg_depth_ros.evaluation.reports.report import _HEADINGS, SCHEMA, Report, read_report


def example() -> Report:
    report = Report("evaluate stereo", model={"name": "flownet_stereo", "sha256": "ab12"})
    report.add_row("street", "learned", {"epe": 1.234, "bad_2": 9.87, "note": 5.0}, images=3)
    report.add_row("street", "SGBM unfilled", {"epe": float("nan"), "density": np.float32(80.5)})
    report.add_row("indoor", "learned", {"epe": np.float64(2.0)})
    return report


def test_json_has_the_documented_fields_and_no_invented_numbers(tmp_path):
    example().write_json(tmp_path / "out/report.json")
    values = json.loads((tmp_path / "out/report.json").read_text())
    assert sorted(values) == ["command", "created", "model", "rows", "schema", "settings", "software"]
    assert values["schema"] == SCHEMA == "fg_depth_report/1"
    assert values["command"] == "evaluate stereo"
    assert values["model"] == {"name": "flownet_stereo", "sha256": "ab12"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", values["created"])
    assert {"python", "platform", "numpy"} <= set(values["software"])
    assert values["rows"][0] == {
        "set": "street",
        "method": "learned",
        "images": 3,
        "metrics": {"epe": 1.234, "bad_2": 9.87, "note": 5.0},
    }
    assert values["rows"][1]["metrics"] == {"epe": None, "density": 80.5}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.json"]


def test_a_classical_method_has_no_hash():
    assert Report("bench").to_dict()["model"] == {"name": None, "sha256": None}


def test_reading_back_gives_the_same_report(tmp_path):
    example().write_json(tmp_path / "a.json")
    read_report(tmp_path / "a.json").write_json(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()


def test_a_series_is_written_where_there_is_one_and_the_date_may_be_left_out(tmp_path):
    report = Report("replay", series=[{"set": "a", "stamp": 1.5, "epe": float("nan")}], created=None)
    report.write_json(tmp_path / "a.json")
    values = json.loads((tmp_path / "a.json").read_text())
    assert values["series"] == [{"set": "a", "stamp": 1.5, "epe": None}]
    assert "created" not in values
    again = read_report(tmp_path / "a.json")
    assert again.created is None and again.series == values["series"]


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": "other/3"}', None])
def test_files_that_are_no_report_are_named(tmp_path, text):
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=r"a\.json: (not a readable report|schema is .*expected 'fg_depth_rep)"):
        read_report(path)


def test_table_and_markdown_show_every_measure_once():
    console = Console(width=160, record=True, file=None, quiet=True)
    console.quiet = False
    with console.capture() as captured:
        console.print(example().table())
    text = captured.get()
    for word in ("EPE px", "bad-2 %", "density %", "note", "street", "SGBM unfilled", "1.23", "9.9", "80.5"):
        assert word in text
    assert text.count("street") == 1
    lines = example().markdown(["epe", "density"]).splitlines()
    assert lines[0] == "| set | method | EPE px | density % |"
    assert lines[3] == "| street | SGBM unfilled | - | 80.5 |"


def test_tables_show_the_number_of_pairs_where_rows_have_it():
    report = example()
    report.rows[1]["pairs"] = 12
    lines = report.markdown(["epe"]).splitlines()
    assert lines[0] == "| set | method | pairs | EPE px |"
    assert [line.split(" | ")[2] for line in lines[2:4]] == ["", "12"]
    assert [str(column.header) for column in report.table(["epe"]).columns] == ["set", "method", "pairs", "EPE px"]


def test_every_measure_of_the_tallies_has_a_heading_and_stands_in_the_document(repository):
    names = {*StereoMetrics().compute(), *DepthMetrics().compute(), "seconds"}
    assert names <= set(_HEADINGS)
    document = (repository / "docs/report_schema.md").read_text()
    for name in names:
        assert f"`{name}`" in document, name
    for field in Report("x").to_dict():
        assert f"`{field}`" in document, field
