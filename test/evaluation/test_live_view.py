"""What the viewer logs, read back from the file that it writes."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.viewing import image_of, read_view

from fg_depth_ros.evaluation.reports import visualization
from fg_depth_ros.evaluation.reports.live_view import (
    CLOUD,
    DEPTH,
    DISPARITY,
    LARGEST_CLOUD,
    MASK,
    SIGMA,
    LiveView,
    ViewerError,
    largest_shown,
)
from fg_depth_ros.geometry import Label

NAN = np.nan
OUTPUTS = {DISPARITY, DEPTH, SIGMA, MASK, CLOUD}


@pytest.fixture
def rerun(monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("rerun", reason="rerun, the extra 'viewer', is not installed")
    # Without it, what cannot be logged is a warning only.
    monkeypatch.setattr("rerun.error_utils._strict_mode", True, raising=False)
    module.set_strict_mode(True)


def test_what_is_missing_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ViewerError, match="extra 'viewer' .*: pip install rerun-sdk"):
        LiveView("any", {"net": OUTPUTS}, "pair")


@pytest.mark.usefixtures("rerun")
def test_fields_are_logged_with_their_values_and_black_where_there_are_none(tmp_path: Path) -> None:
    view = LiveView("title", {"my net": OUTPUTS}, "pair")
    view.save(tmp_path / "view.rrd")
    depth = np.array([[1.0, 2.0, NAN], [3.0, 4.0, 5.0]], np.float32)
    view.at(pair=3, stamp=1_700_000_000_123_456_789)
    view.log_depth("my net", depth, (1.0, 5.0))
    view.log_disparity("my net", 12.0 / depth, 12.0)
    view.log_sigma("my net", depth / 100)
    view.close()
    logged = read_view(tmp_path / "view.rrd")
    (found,) = logged[r"/my\ net/depth"]
    assert found.at == {"pair": 3, "time": 1_700_000_000_123_456_789} | {
        name: value for name, value in found.at.items() if name.startswith("log_")
    }
    np.testing.assert_array_equal(image_of(found, np.float32), depth)
    assert found.values["depth_range"] == [[1.0, 5.0]]
    assert found.values["meter"] == [1.0]
    *_, nothing = logged[r"/my\ net/depth/nothing"]
    np.testing.assert_array_equal(image_of(nothing, np.uint8), [[0, 0, 1], [0, 0, 0]])
    (disparity,), (sigma,) = logged[r"/my\ net/disparity"], logged[r"/my\ net/sigma"]
    np.testing.assert_allclose(image_of(disparity, np.float32), [[12, 6, NAN], [4, 3, 2.4]])
    np.testing.assert_allclose(image_of(sigma, np.float32), [[0.01, 0.02, NAN], [0.03, 0.04, 0.05]])


@pytest.mark.usefixtures("rerun")
def test_labels_are_logged_with_names_colours_and_shares(tmp_path: Path) -> None:
    view = LiveView("title", {"net": OUTPUTS}, "pair")
    view.save(tmp_path / "view.rrd")
    first = np.array([[Label.VALID, Label.VALID], [Label.LEAVES_IMAGE, Label.VALID]], np.uint8)
    for number, labels in enumerate([first, np.full((2, 2), Label.VALID, np.uint8)]):
        view.at(pair=number)
        view.log_labels("net", labels)
    view.close()
    logged = read_view(tmp_path / "view.rrd")
    context, found, _ = logged["/net/mask"]
    np.testing.assert_array_equal(image_of(found, np.uint8), first)
    (classes,) = context.values["context"]
    names = {each["class_id"]: each["class_description"]["info"] for each in classes}
    assert names[Label.LEAVES_IMAGE]["label"] == "leaves the image"
    red, green, blue = visualization.LABEL_COLOURS[Label.LEAVES_IMAGE]
    assert names[Label.LEAVES_IMAGE]["color"] == (red << 24) + (green << 16) + (blue << 8) + 255
    shares = {name: logged[f"/net/share/{name}"] for name in ("valid", "leaves_image")}
    values = {name: [row.values["scalars"] for row in rows[1:]] for name, rows in shares.items()}
    assert values == {"valid": [[75.0], [100.0]], "leaves_image": [[25.0], [0.0]]}
    assert "/net/share/low_confidence" not in logged


@pytest.mark.usefixtures("rerun")
def test_clouds_have_their_finite_points_and_not_too_many(tmp_path: Path) -> None:
    view = LiveView("title", {"net": OUTPUTS}, "pair")
    view.save(tmp_path / "view.rrd")
    points = np.array([[[0, 0, 1], [1, NAN, 2]], [[2, 1, 3], [3, 1, 4]]], np.float32)
    colours = np.array([[[255, 0, 0], [9, 9, 9]], [[0, 255, 0], [0, 0, 255]]], np.uint8)
    view.at(pair=0)
    view.log_cloud("net", points, colours)
    view.at(pair=1)
    view.log_cloud(
        "net", np.ones((2 * LARGEST_CLOUD + 1, 3), np.float32), np.zeros((2 * LARGEST_CLOUD + 1, 3), np.uint8)
    )
    view.close()
    small, large = read_view(tmp_path / "view.rrd")["/world/net/cloud"]
    assert small.values["positions"] == [[0, 0, 1], [2, 1, 3], [3, 1, 4]]
    assert small.values["colors"] == [0xFF0000FF, 0x00FF00FF, 0x0000FFFF]
    assert LARGEST_CLOUD / 2 < len(large.values["positions"]) <= LARGEST_CLOUD


@pytest.mark.usefixtures("rerun")
def test_frames_the_image_figures_and_messages_are_logged(tmp_path: Path) -> None:
    view = LiveView("title", {"net": OUTPUTS}, "time", has_messages=True)
    view.save(tmp_path / "view.rrd")
    left = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8), (0, 0), 3)
    view.log_left(left)
    view.log_camera(np.array([[300, 0, 31], [0, 301, 23], [0, 0, 1.0]]), 64, 48, "eye")
    view.log_frame("base_link", "eye", (1.0, 2.0, 3.0), (0.0, 0.0, 0.6, 0.8), static=True)
    view.set_root("base_link", is_optical=False)
    view.log_latency("pipeline 50 %", 0.025)
    view.log_rate("output rate", 9.5)
    view.log_message("views unrelated", "WARN")
    view.close()
    logged = read_view(tmp_path / "view.rrd")
    decoded = cv2.imdecode(np.array(logged["/left"][0].values["blob"][0], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(decoded.astype(int) - left).mean() < 3
    frame = logged["/tf/eye"][0].values
    assert (frame["parent_frame"], frame["child_frame"]) == (["base_link"], ["eye"])
    assert frame["translation"] == [[1.0, 2.0, 3.0]]
    np.testing.assert_allclose(frame["quaternion"], [[0, 0, 0.6, 0.8]], atol=1e-7)
    camera = logged["/world/camera"][0].values
    assert camera["parent_frame"] == ["eye"]
    assert camera["image_from_camera"] == [[300, 0, 0, 0, 301, 0, 31, 23, 1]]  # column by column
    assert [row.values["frame"] for row in logged["/world"] if "frame" in row.values] == [["base_link"]]
    assert logged[r"/latency/pipeline\ 50\ \%"][-1].values["scalars"] == [25.0]
    assert logged[r"/rates/output\ rate"][-1].values["scalars"] == [9.5]
    assert logged["/messages"][0].values == {"text": ["views unrelated"], "level": ["WARN"]}


@pytest.mark.usefixtures("rerun")
def test_the_lines_of_a_plot_differ_in_colour_and_keep_theirs(tmp_path: Path) -> None:
    view = LiveView("title", {"net": OUTPUTS}, "pair")
    view.save(tmp_path / "view.rrd")
    names = [f"line {number}" for number in range(6)]
    for _ in range(2):
        for name in names:
            view.log_latency(name, 0.1)
    view.close()
    rows = [
        row
        for name in names
        for row in read_view(tmp_path / "view.rrd")[f"/latency/{name.replace(' ', chr(92) + ' ')}"]
    ]
    styles = [row.values["colors"][0] for row in rows if "colors" in row.values]
    assert len(styles) == len(set(styles)) == 6


def test_few_large_disparities_do_not_take_the_colours_from_the_others() -> None:
    disparity = np.full((100, 100), 20.0, np.float32)
    disparity[0, :10], disparity[1, :] = 180.0, NAN
    assert largest_shown(disparity) == 20.0
    assert largest_shown(np.full((2, 2), NAN, np.float32)) == 1.0
