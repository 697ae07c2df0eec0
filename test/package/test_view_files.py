"""The RViz and Foxglove files name topics, types of panels and frames that the package publishes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="the tables of topics and parameters need rclpy")

from fg_depth_ros.geometry.depth_colour import colour_table
from fg_depth_ros.nodes.common.topics import INPUTS
from fg_depth_ros.nodes.players.parameters import STEREO_PLAYER
from fg_depth_ros.nodes.stereo_depth.outputs import TOPICS

KNOWN = {*TOPICS, *INPUTS}
RVIZ_KINDS = {"PointCloud2": "PointCloud2", "Image": "Image"}
FRAME = STEREO_PLAYER.parameters["left_frame_id"].default


def test_rviz_shows_topics_of_their_type_with_relative_names(repository: Path) -> None:
    manager = yaml.safe_load((repository / "rviz" / "stereo_depth.rviz").read_text())["Visualization Manager"]
    shown = [display for display in manager["Displays"] if "Topic" in display]
    assert {display["Topic"]["Value"] for display in shown} >= {"points2", "depth/image_rect", "left/image_rect"}
    for display in shown:
        # Relative, so that the launch file's namespace and remappings hold.
        topic, kind = display["Topic"]["Value"], display["Class"].rpartition("/")[2]
        assert topic in KNOWN, topic
        assert topic not in TOPICS or TOPICS[topic].type.__name__ == RVIZ_KINDS[kind], topic
        assert display["Topic"]["Reliability Policy"] == "Best Effort", "a reliable one would miss best-effort cameras"
    assert manager["Global Options"]["Fixed Frame"] == FRAME


def named_topics(value: Any) -> Iterator[str]:
    """Every topic that a panel of Foxglove names."""
    if isinstance(value, dict):
        for key, below in value.items():
            if key in ("imageTopic", "calibrationTopic", "topicToRender"):
                yield below
            elif key == "topics":
                yield from below
            else:
                yield from named_topics(below)


def panels(layout: Any) -> Iterator[str]:
    if isinstance(layout, str):
        yield layout
    else:
        yield from panels(layout["first"])
        yield from panels(layout["second"])


def test_foxglove_shows_topics_of_the_node(repository: Path) -> None:
    layout = json.loads((repository / "config" / "foxglove.json").read_text())
    assert sorted(panels(layout["layout"])) == sorted(layout["configById"])
    topics = list(named_topics(layout["configById"]))
    assert {"/left/image_rect", "/depth/image_rect", "/points2"} <= set(topics)
    for topic in topics:
        assert topic == "/diagnostics" or topic.removeprefix("/") in KNOWN, topic
    for name, config in layout["configById"].items():
        if name.startswith("Image!"):
            assert (
                TOPICS.get(config["imageMode"]["imageTopic"][1:], TOPICS["mask/image"]).type
                is TOPICS["mask/image"].type
            )
    assert layout["configById"]["3D!cloud"]["followTf"] == FRAME
    assert layout["configById"]["DiagnosticStatusPanel!pairs"]["selectedName"] == "stereo_depth_node: pairs"


def lightness(colours: np.ndarray) -> np.ndarray:
    """L* (CIE 1976, 0 .. 100) of linear RGB of sRGB's primaries, N x 3."""
    luminance = colours @ [0.2126, 0.7152, 0.0722]
    return np.where(luminance > 216 / 24389, 116 * np.cbrt(luminance) - 16, luminance * 24389 / 27)


def linear(colours: np.ndarray) -> np.ndarray:
    """Linear RGB of sRGB, both 0 .. 1."""
    return np.where(colours > 0.04045, ((colours + 0.055) / 1.055) ** 2.4, colours / 12.92)


def test_foxglove_shows_depth_and_sigma_in_colours_that_can_be_read_in_grey(repository: Path) -> None:
    """Foxglove's own colour maps are turbo and rainbow; a gradient goes from one colour to another."""
    configs = json.loads((repository / "config" / "foxglove.json").read_text())["configById"]
    shown = {
        config["imageMode"]["imageTopic"]: config["imageMode"] for config in configs.values() if "imageMode" in config
    }
    coloured = {topic for topic, mode in shown.items() if "colorMode" in mode}
    assert coloured == {"/depth/image_rect", "/depth/sigma"}
    table = colour_table() / 255.0
    for topic in coloured:
        mode = shown[topic]
        assert mode["colorMode"] == "gradient"
        assert mode["minValue"] < mode["maxValue"]
        ends = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5, 7)] for colour in mode["gradient"]]) / 255.0
        np.testing.assert_array_equal(ends[:, 3], 1.0)  # opaque
        np.testing.assert_allclose(ends[:, :3], table[[0, -1]], atol=2 / 255)  # as the package's own pictures
        share = np.linspace(0, 1, 64)[:, None]
        first, last = ends[:, :3]
        for ramp in ((1 - share) * linear(first) + share * linear(last), linear((1 - share) * first + share * last)):
            steps = np.diff(lightness(ramp))
            assert (steps > 0.2).all()
            assert steps.sum() > 70
