"""Pictures whose colours can be named in advance."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

from fg_depth_ros.evaluation.reports import visualization
from fg_depth_ros.geometry import Label, StereoRig, organised_points
from fg_depth_ros.geometry.depth_colour import colour_depth, colour_disparity
from fg_depth_ros.geometry.flow_colour import colour_flow

NAN = np.nan


def test_disparity_runs_from_violet_to_yellow_and_unknown_is_black():
    colours = colour_disparity(np.array([[0.0, 32.0, 64.0, 90.0, NAN]], np.float32), 64.0)
    assert colours.shape == (1, 5, 3)
    assert colours.dtype == np.uint8
    low, middle, high, beyond, unknown = colours[0].astype(int)
    assert low[2] > low[0] > low[1]
    assert middle[1] > max(middle[0], middle[2])
    assert min(high[:2]) > 200 > high[2]
    assert high.tolist() == beyond.tolist()
    assert unknown.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(colour_disparity(np.array([[0.0, 32.0, 64.0]])), colours[:, :3])  # largest


def test_disparity_and_depth_are_read_in_grey():
    near_to_far = np.linspace(0.5, 20.0, 256)[None]
    for colours in (colour_disparity(np.linspace(64.0, 0.0, 256)[None], 64.0), colour_depth(near_to_far, 0.5, 20.0)):
        lightness = cv2.cvtColor(colours.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[0, :, 0]
        assert (np.diff(lightness) < 0.5).all()  # of 100: nothing farther is brighter
        assert lightness[0] - lightness[-1] > 60


def test_labels_are_told_apart_in_grey():
    colours = np.array([[visualization.LABEL_COLOURS[label] for label in Label]], np.float32) / 255
    lightness = np.sort(cv2.cvtColor(colours, cv2.COLOR_RGB2Lab)[0, :, 0])
    assert np.diff(lightness).min() > 8  # of 100


def test_depth_is_coloured_like_its_disparity():
    depth = np.array([[0.5, 20.0, NAN, 0.0]])
    near, far, unknown, none = colour_depth(depth, 0.5, 20.0)[0].astype(int)
    np.testing.assert_array_equal(near, colour_disparity(np.array([[64.0]]), 64.0)[0, 0])
    assert far[2] > far[0] > far[1]
    assert unknown.tolist() == none.tolist() == [0, 0, 0]


def test_error_names_its_gaps():
    found = np.array([[5.0, 9.0, NAN, 5.0, 20.0]])
    truth = np.array([[5.0, 5.0, 5.0, NAN, 5.0]])
    exact, four, no_answer, no_truth, beyond = visualization.colour_error(found, truth)[0]
    assert exact.max() < 16
    assert four.min() > 100
    assert four.tolist() == beyond.tolist()
    assert no_answer.tolist() == [255, 0, 255]
    assert no_truth.tolist() == [48, 48, 48]


def test_labels_have_one_colour_each():
    colours = visualization.colour_labels(np.array([list(Label)], np.uint8))[0]
    assert len({tuple(colour) for colour in colours.tolist()}) == len(Label)
    assert colours[Label.VALID].tolist() == [255, 255, 255]


def reference_flow_colour(u: float, v: float) -> list[int]:
    """One unit-normalised vector in the published definition of the colour code, step by step."""
    wheel = []
    for count, start, change in (
        (15, (255, 0, 0), (0, 1, 0)),
        (6, (255, 255, 0), (-1, 0, 0)),
        (4, (0, 255, 0), (0, 0, 1)),
        (11, (0, 255, 255), (0, -1, 0)),
        (13, (0, 0, 255), (1, 0, 0)),
        (6, (255, 0, 255), (0, 0, -1)),
    ):
        for i in range(count):
            step = int(255 * i / count)
            wheel.append([s + c * step for s, c in zip(start, change, strict=True)])
    radius = np.hypot(u, v)
    position = (np.arctan2(-v, -u) / np.pi + 1) / 2 * (len(wheel) - 1)
    first = int(position)
    part = position - first
    result = []
    for channel in range(3):
        value = (1 - part) * wheel[first][channel] / 255 + part * wheel[(first + 1) % 55][channel] / 255
        value = 1 - radius * (1 - value) if radius <= 1 else 0.75 * value
        result.append(int(255 * value))
    return result


def test_flow_colours_are_the_published_code():
    angles = np.linspace(-3.1, 3.1, 61)
    for radius in (0.3, 0.9, 1.5):
        flow = 10 * radius * np.stack([np.cos(angles), np.sin(angles)], axis=-1)[None]
        expected = [reference_flow_colour(*vector) for vector in flow[0] / 10]
        np.testing.assert_allclose(colour_flow(flow, 10.0)[0].astype(int), expected, atol=3)


def test_flow_without_motion_is_white_and_unknown_black():
    flow = np.array([[[0, 0], [NAN, 1], [5, 0]]], np.float32)
    still, unknown, _ = colour_flow(flow)[0]
    assert still.tolist() == [255, 255, 255]
    assert unknown.tolist() == [0, 0, 0]
    assert (colour_flow(np.zeros((2, 2, 2))) == 255).all()


def test_colours_are_cheap_enough_for_a_node():
    disparity = np.random.default_rng(0).uniform(0, 64, (480, 640)).astype(np.float32)
    flow = np.dstack([-disparity, np.zeros_like(disparity)])
    for colour, values in ((colour_disparity, disparity), (colour_flow, flow)):
        colour(values, 64.0)
        durations = []
        for _ in range(5):
            start = time.thread_time()
            colour(values, 64.0)
            durations.append(time.thread_time() - start)
        assert min(durations) < 0.1, colour.__name__


def test_cloud_view_shows_near_over_far_and_survives_an_empty_cloud():
    rig = StereoRig(64, 48, 60, 60, 31.5, 23.5, 31.5, 0.1)
    depth = np.full((48, 64), 4.0, np.float32)
    depth[16:32, 24:40] = 2.0
    colours = np.zeros((48, 64, 3), np.uint8)
    colours[..., 2] = 200  # blue wall
    colours[16:32, 24:40] = (200, 0, 0)  # red box in front
    view = visualization.cloud_view(organised_points(depth, rig), colours, 160, 120, yaw_deg=0, pitch_deg=0)
    assert view.shape == (120, 160, 3)
    assert view[60, 80].tolist() == [200, 0, 0]
    blue = (view == (0, 0, 200)).all(axis=2)
    assert blue[:20].any()
    assert blue[:, :30].any()
    turned = visualization.cloud_view(organised_points(depth, rig), colours, 160, 120, yaw_deg=30)
    assert (turned != view).any()
    empty = visualization.cloud_view(np.full((4, 4, 3), NAN), np.zeros((4, 4, 3), np.uint8), 32, 24)
    assert (empty == 255).all()


def test_contact_sheet_places_the_pictures_under_their_titles():
    red, blue = np.zeros((10, 20, 3), np.uint8), np.zeros((30, 20, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    sheet = visualization.contact_sheet([[red, blue]], ["red", "blue"], tile_width=40)
    assert sheet.shape == (22 + 60 + 6, 6 + 2 * 46, 3)
    assert sheet[22 + 10, 6 + 20].tolist() == [255, 0, 0]
    assert sheet[22 + 50, 6 + 20].tolist() == [255, 255, 255]
    assert sheet[22 + 50, 6 + 46 + 20].tolist() == [0, 0, 255]
    with pytest.raises(ValueError, match="rows of 2 pictures"):
        visualization.contact_sheet([[red]], ["red", "blue"])


def test_sparse_values_become_dots_and_what_is_unknown_stays_so_up_to_the_border():
    values = np.full((20, 30), np.nan, np.float32)
    values[10, 15], values[10, 17] = 3.0, 2.0
    shown = visualization.visible(values)
    expected = np.full((20, 30), np.nan, np.float32)
    expected[8:13, 13:18] = 3.0
    expected[8:13, 15:20] = 2.0  # the nearer one wins
    np.testing.assert_array_equal(shown, expected)
    dense = np.where(np.arange(30) % 2, np.nan, 1.0) * np.ones((20, 1))
    assert visualization.visible(dense) is dense


def test_a_colour_bar_runs_from_the_colour_of_the_low_end_to_that_of_the_high_end():
    picture = np.full((10, 320, 3), 7, np.uint8)
    shown = visualization.with_scale(picture, "0 px", "5 px", "10 px")
    assert (shown[:10] == 7).all() and shown.shape == (52, 320, 3)
    values = colour_disparity(np.array([[0.0, 5.0, 10.0]]), 10.0)[0]
    bar = shown[20]
    assert bar[8].tolist() == values[0].tolist() and bar[-9].tolist() == values[2].tolist()
    assert np.abs(bar[160].astype(int) - values[1]).max() < 6


def test_the_legend_names_the_labels_that_occur():
    labels = np.zeros((40, 500), np.uint8)
    shown = visualization.with_label_legend(labels)
    more = visualization.with_label_legend(np.where(np.arange(500) < 50, np.uint8(2), labels))
    assert shown.shape[1] == more.shape[1] == 500 and shown.shape[0] == more.shape[0]
    colour = visualization.colour_labels(np.array([[2]], np.uint8))[0, 0]
    assert not (shown == colour).all(-1).any() and (more[40:] == colour).all(-1).sum() > 50


def test_the_flow_wheel_has_the_colours_of_the_picture():
    flow = np.zeros((30, 200, 2), np.float32)
    flow[..., 0] = 4.0
    shown = visualization.with_flow_wheel(flow)
    rim = shown[30 + 4 + 28, 8 + 28 + 27]  # to the right of the wheel's centre
    assert np.abs(rim.astype(int) - shown[0, 0]).max() < 12
    assert visualization.with_flow_wheel(np.full((5, 9, 2), np.nan, np.float32)).shape == (70, 9, 3)
