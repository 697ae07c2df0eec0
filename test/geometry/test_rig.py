"""StereoRig against hand-computed numbers, and every calibration it must refuse."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fg_depth_ros.geometry import RigError, StereoRig

MOTORCYCLE = StereoRig(741, 500, 994.978, 994.978, 311.193, 254.877, 311.193 + 31.086, 0.193001)


def info(p, width=640, height=480, **more):
    return SimpleNamespace(width=width, height=height, p=np.array(p, dtype=float), **more)


def left_p(fx=500.0, cx=320.0, shift=0.0, fy=None, cy=240.0):
    return [fx, 0, cx, shift, 0, fy or fx, cy, 0, 0, 0, 1, 0]


def right_p(fx=500.0, cx=324.0, shift=-60.0, fy=None, cy=240.0):
    return left_p(fx, cx, shift, fy, cy)


def test_camera_info_pair_gives_the_hand_computed_rig():
    rig = StereoRig.from_camera_info(info(left_p()), info(right_p()))
    assert (rig.width, rig.height) == (640, 480)
    assert (rig.fx, rig.fy, rig.cx, rig.cy, rig.cx_right) == (500.0, 500.0, 320.0, 240.0, 324.0)
    assert rig.baseline == pytest.approx(60.0 / 500.0)
    assert rig.doffs == pytest.approx(4.0)


def test_upper_case_p_of_ros1_messages_is_read_too():
    left = SimpleNamespace(width=640, height=480, P=left_p())
    right = SimpleNamespace(width=640, height=480, P=right_p())
    assert StereoRig.from_camera_info(left, right).baseline == pytest.approx(0.12)


def test_region_of_interest_and_binning_move_and_shrink_the_principal_point():
    roi = SimpleNamespace(x_offset=100, y_offset=40, width=400, height=300)
    cameras = [info(p, roi=roi, binning_x=2, binning_y=2) for p in (left_p(), right_p())]
    rig = StereoRig.from_camera_info(*cameras)
    assert (rig.width, rig.height) == (200, 150)
    assert rig.fx == 250.0
    # A 2x2 block's centre lies between its pixels: (320 - 100 + 0.5) / 2 - 0.5.
    assert rig.cx == pytest.approx(109.75)
    assert rig.cy == pytest.approx(99.75)
    assert rig.doffs == pytest.approx(2.0)
    assert rig.baseline == pytest.approx(0.12)


def test_binning_zero_and_empty_roi_mean_the_whole_image():
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    cameras = [info(p, roi=roi, binning_x=0, binning_y=0) for p in (left_p(), right_p())]
    assert StereoRig.from_camera_info(*cameras) == StereoRig.from_camera_info(info(left_p()), info(right_p()))


@pytest.mark.parametrize(
    ("left", "right", "words"),
    [
        (info([0] * 12), info(right_p()), ["left camera_info", "p is all zeros", "calibrate"]),
        (info(left_p()), info([0] * 12), ["right camera_info", "p is all zeros"]),
        (info(left_p()), info(right_p(shift=0.0)), ["right camera_info: p[3] is 0", "baseline is zero"]),
        (info(left_p()), info(right_p(shift=60.0)), ["p[3] is 60", "-0.12 m", "left and right swapped?"]),
        (info(right_p()), info(left_p()), ["p[3] is -60", "left and right swapped?"]),
        (info(left_p(shift=44.9)), info(right_p()), ["left camera_info: p[3] is 44.9", "REP 104"]),
        (info(left_p()), info(right_p(fx=510.0, shift=-61.2)), ["p[0] (fx) is 500", "510 on the right"]),
        (info(left_p()), info(right_p(fy=510.0)), ["p[5] (fy)", "510"]),
        (info(left_p()), info(right_p(cy=243.0)), ["rows differ", "p[6]", "243"]),
        (info(left_p()), info(right_p(), width=320, height=240), ["640x480", "320x240", "one size"]),
        (info(left_p(), width=0, height=0), info(right_p()), ["left camera_info describes 0x0"]),
        (info(left_p()[:9]), info(right_p()), ["p has 9 numbers"]),
        (info(left_p(cx=float("nan"))), info(right_p()), ["left camera_info", "not finite"]),
        (info(left_p(fx=-500.0)), info(right_p()), ["p[0]=-500", "positive"]),
        (SimpleNamespace(width=640, height=480), info(right_p()), ["left camera_info has no field p"]),
    ],
)
def test_unusable_camera_info_is_refused_with_field_value_and_way_out(left, right, words):
    with pytest.raises(RigError) as caught:
        StereoRig.from_camera_info(left, right)
    for word in words:
        assert word in str(caught.value)


def test_vertical_stereo_is_refused():
    p = right_p()
    p[7] = -60.0
    with pytest.raises(RigError, match=r"p\[7\] on the right is -60"):
        StereoRig.from_camera_info(info(left_p()), info(p))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"baseline": 0.0}, "baseline is 0"),
        ({"baseline": -0.1}, "swapped"),
        ({"fx": 0.0}, "fx is 0"),
        ({"width": 0}, "width is 0"),
        ({"cx": float("inf")}, "cx is inf"),
    ],
)
def test_a_rig_checks_itself(changes, words):
    with pytest.raises(RigError, match=words):
        StereoRig.from_dict({**MOTORCYCLE.to_dict(), **changes})


def test_half_size_keeps_pixel_centres_and_metres():
    half = StereoRig(640, 480, 500.0, 500.0, 319.5, 239.5, 323.5, 0.12).scaled(320, 240)
    # The image centre stays the image centre, and metres stay metres.
    assert (half.cx, half.cy) == (159.5, 119.5)
    assert half.fx == 250.0
    assert half.doffs == pytest.approx(2.0)
    assert half.baseline == 0.12


def test_rescaling_to_nothing_is_refused():
    with pytest.raises(RigError, match="0x10"):
        MOTORCYCLE.scaled(0, 10)


def test_projection_matrices_round_trip_through_camera_info():
    left = info(MOTORCYCLE.P_left().reshape(-1), 741, 500)
    right = info(MOTORCYCLE.P_right().reshape(-1), 741, 500)
    assert right.p[3] == pytest.approx(-994.978 * 0.193001)
    again = StereoRig.from_camera_info(left, right)
    for name, value in MOTORCYCLE.to_dict().items():
        assert getattr(again, name) == pytest.approx(value, abs=1e-9)


@given(
    st.builds(
        StereoRig,
        width=st.integers(1, 8000),
        height=st.integers(1, 8000),
        fx=st.floats(1, 1e4),
        fy=st.floats(1, 1e4),
        cx=st.floats(-1e3, 1e4),
        cy=st.floats(-1e3, 1e4),
        cx_right=st.floats(-1e3, 1e4),
        baseline=st.floats(1e-3, 10),
    ),
    st.integers(1, 4),
)
def test_dictionary_and_rescaling_round_trip(rig, factor):
    assert StereoRig.from_dict(rig.to_dict()) == rig
    back = rig.scaled(rig.width * factor, rig.height * factor).scaled(rig.width, rig.height)
    for name, value in rig.to_dict().items():
        assert getattr(back, name) == pytest.approx(value, rel=1e-9, abs=1e-6)


def test_from_dict_names_what_is_missing_unknown_or_no_number():
    values = MOTORCYCLE.to_dict()
    with pytest.raises(RigError, match="unknown field.*focal"):
        StereoRig.from_dict({**values, "focal": 3})
    with pytest.raises(RigError, match="lacks the field.*baseline"):
        StereoRig.from_dict({k: v for k, v in values.items() if k != "baseline"})
    with pytest.raises(RigError, match="fx is 'wide'"):
        StereoRig.from_dict({**values, "fx": "wide"})
    short = {k: v for k, v in values.items() if k not in ("fy", "cx_right")}
    assert StereoRig.from_dict(short).doffs == 0.0
