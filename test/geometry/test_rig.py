"""StereoRig against hand-computed numbers, and every calibration it must refuse."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fg_depth_ros.geometry import RigError, StereoRig, camera_info_doubts

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
    # As image_geometry has it: (320 - 100) / 2, without the half pixel of a block's centre.
    assert rig.cx == pytest.approx(110.0)
    assert rig.cy == pytest.approx(100.0)
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
        (info(left_p()), info(right_p(shift=0.0)), ["0 on the left and 0 on the right", "baseline is zero"]),
        (info(left_p()), info(right_p(shift=60.0)), ["60 on the right", "-0.12 m", "left and right swapped?"]),
        (info(right_p()), info(left_p()), ["p[3] is -60 on the left", "left and right swapped?"]),
        (info(left_p()), info(right_p(shift=-60e3)), ["baseline is 120 m", "mm", "P[3]"]),
        (info(left_p()), info(right_p(shift=-0.12)), ["0.00024 m", "-fx * baseline", "0.12 m"]),
        (info(left_p(fx=3.6)), info(right_p(fx=3.6, shift=-0.43)), ["fx is 3.6 px", "178.7 degrees", "not in mm"]),
        (info(left_p()), info(right_p(), binning_x=2, binning_y=2), ["binning 1x1", "binning 2x2"]),
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
    with pytest.raises(RigError, match=r"0\.12 m below .* by p\[7\]"):
        StereoRig.from_camera_info(info(left_p()), info(p))
    p[3] = 0.0
    with pytest.raises(RigError, match="above the other"):
        StereoRig.from_camera_info(info(left_p()), info(p))


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(
    ("index", "noise", "wrong"),
    [
        (0, 500.0 * 1e-4, 510.0),
        (1, 1e-3, 40.0),  # skew
        (2, 319.0, None),  # a principal column of its own is allowed
        (3, 1e-13, None),
        (4, 1e-3, 30.0),
        (5, 500.0 * 1e-4, 480.0),
        (6, 0.2, 2.0),
        (7, 2e-5, 6.0),  # px * m: 12 mm at a baseline of 120 mm
        (8, 1e-6, 0.01),
        (9, 1e-6, 0.01),
        (10, 1e-6, -0.99),  # a third row of 0 0 0.01 0 gives depth a hundred times too far
        (11, 1e-3, 0.1),  # m
    ],
)
def test_each_of_the_twelve_numbers_is_checked_on_both_sides(index, noise, wrong, side):
    matrices = [left_p(), right_p()]
    matrices[side][index] += noise
    rig = StereoRig.from_camera_info(*map(info, matrices))
    assert rig.fx * rig.baseline == pytest.approx(60.0, rel=2e-4)
    if wrong is None:
        return
    matrices[side][index] += wrong
    with pytest.raises(RigError, match=rf"p\[{index}\]"):
        StereoRig.from_camera_info(*map(info, matrices))


def test_the_baseline_is_the_difference_of_both_shifts():
    """KITTI refers both cameras to a third one, depthai the left one to the right one."""
    kitti = [721.5377, 0, 609.5593, 44.85728, 0, 721.5377, 172.854, 0.2163791, 0, 0, 1, 2.745884e-3]
    other = [721.5377, 0, 609.5593, -339.5242, 0, 721.5377, 172.854, 2.199936, 0, 0, 1, 2.729905e-3]
    rig = StereoRig.from_camera_info(info(kitti, 1242, 375), info(other, 1242, 375))
    assert rig.baseline == pytest.approx((44.85728 + 339.5242) / 721.5377)
    assert rig.doffs == 0.0
    rig = StereoRig.from_camera_info(info(left_p(shift=37.5)), info(left_p()))
    assert rig.baseline == pytest.approx(0.075)
    with pytest.raises(RigError, match="swapped"):
        StereoRig.from_camera_info(info(other, 1242, 375), info(kitti, 1242, 375))


def test_each_camera_has_a_region_of_interest_of_its_own():
    def window(x, y):
        return SimpleNamespace(x_offset=x, y_offset=y, width=400, height=300)

    rig = StereoRig.from_camera_info(info(left_p(), roi=window(100, 40)), info(right_p(), roi=window(80, 40)))
    assert (rig.cx, rig.cx_right, rig.cy) == (220.0, 244.0, 200.0)
    with pytest.raises(
        RigError, match=r"cy \(p\[6\], less the roi's y_offset\) is 200 on the left and 180 on the right"
    ):
        StereoRig.from_camera_info(info(left_p(), roi=window(100, 40)), info(right_p(), roi=window(100, 60)))


K = [480.0, 0, 318, 0, 480, 242, 0, 0, 1]
QUARTER = [0.0, -1, 0, 1, 0, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"k": K, "r": np.eye(3).ravel(), "d": [0.1, 0, 0, 0, 0]}, []),
        ({"r": QUARTER}, []),
        ({"k": [4 * v for v in K[:-1]] + [1.0]}, ["k (cx 1272, cy 968) seems to be of images 4 times as large"]),
        ({"k": [1920.0, *K[1:]]}, ["fx is 500 in p and 1920 in k"]),
        ({"k": np.array(left_p()).reshape(3, 4)[:, :3].ravel(), "d": [0.1] * 5}, ["left camera_info: p repeats k"]),
        ({"r": [2.0, 0, 0, 0, 2, 0, 0, 0, 2]}, ["r is no rotation"]),
        ({"d": [float("nan")] * 5}, ["not finite"]),
        ({"p": left_p(cx=1280.0)}, ["cx is 1280.0 px in images of 640 px"]),
    ],
)
def test_an_unusual_calibration_is_doubted_but_used(changes, words):
    doubts = camera_info_doubts(info(**{"p": left_p(), **changes}), info(right_p()))
    assert len(doubts) == len(words)
    for doubt, word in zip(doubts, words, strict=True):
        assert word in doubt


@pytest.mark.parametrize(("baseline", "word"), [(12.0, "cm"), (0.12, None), (0.05, None), (0.004, "factor fx")])
def test_an_unusual_baseline_is_doubted_with_its_likely_cause(baseline, word):
    doubts = StereoRig(640, 480, 500.0, 500.0, 320.0, 240.0, 320.0, baseline).doubts()
    assert (word in doubts[0]) if word else not doubts


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"baseline": 0.0}, "baseline is 0"),
        ({"baseline": -0.1}, "swapped"),
        ({"baseline": 193.001}, "mm or cm"),
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


@pytest.mark.parametrize(
    ("calibrated", "images"),
    [
        ((1456, 1088), (1440, 1080)),
        ((2464, 2056), (2448, 2048)),
        ((1936, 1216), (1920, 1200)),
        ((1280, 720), (1280, 716)),
        ((1440, 1080), (1456, 1088)),
    ],
)
def test_images_of_nearly_the_calibrated_size_were_cropped_and_not_resized(calibrated, images):
    rig = StereoRig(*calibrated, 1500.0, 1500.0, calibrated[0] / 2, calibrated[1] / 2, calibrated[0] / 2, 0.12)
    with pytest.raises(RigError, match=f"have {images[0]}x{images[1]}: .* so they were cropped"):
        rig.fitted(*images)
    assert rig.fitted(*calibrated) is rig
    half = rig.fitted(calibrated[0] // 2, calibrated[1] // 2)
    assert half.fx == pytest.approx(750.0, rel=1e-3)


def test_halves_of_ordinary_images_are_told_from_cropped_ones():
    rig = StereoRig(640, 480, 400.0, 400.0, 320.0, 240.0, 320.0, 0.12)
    with pytest.raises(RigError, match=r"have 320x480: another shape, so they are halves: leave --side-by-side out"):
        rig.fitted(320, 480)
    with pytest.raises(RigError, match=r"have 640x240: another shape, so they were cropped"):
        rig.fitted(640, 240)


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
        baseline=st.floats(2e-3, 10),
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


@pytest.mark.parametrize(
    ("binning", "full", "of_the_full_image"),
    [(4, (2064, 1544), False), (2, (1032, 772), False), (2, (1032, 772), True)],
)
def test_a_matrix_that_is_binned_already_is_doubted(binning, full, of_the_full_image):
    # A published image of 516 x 386 pixels has its centre at about (256, 182), a full one binning times farther.
    scale = binning if of_the_full_image else 1
    cameras = [
        info([298.5 * scale, 0, 255.9 * scale, shift, 0, 298.5 * scale, 182.5 * scale, 0, 0, 0, 1, 0], *full,
             binning_x=binning, binning_y=binning)
        for shift in (0.0, -0.12 * 298.5 * scale)
    ]  # fmt: skip
    rig = StereoRig.from_camera_info(*cameras)
    assert rig.baseline == pytest.approx(0.12)
    assert rig.fx == pytest.approx(298.5 if of_the_full_image else 298.5 / binning)
    doubts = [doubt for doubt in camera_info_doubts(*cameras) if f"binning is {binning}x{binning}" in doubt]
    assert len(doubts) == (0 if of_the_full_image else 1)
    assert all(f"depth would be {binning} times too small" in doubt for doubt in doubts)


@pytest.mark.parametrize("scale", [0.5, 0.75, 2.0])
def test_a_calibration_of_another_size_is_doubted(scale):
    """A driver resizes 1280 x 960 images of fx 700, baseline 0.12 m, and forgets some numbers."""
    size = round(1280 * scale), round(960 * scale)
    full = [700.0, 0, 650.0, 0.0, 0, 700.0, 470.0, 0, 0, 0, 1, 0]
    resized = np.multiply(full[:8], scale).tolist() + full[8:]
    k, small_k = full[:3] + full[4:7] + [0, 0, 1], resized[:3] + resized[4:7] + [0, 0, 1]

    def doubts(p, k, shift):
        left, right = (info([*p[:3], tx, *p[4:]], *size, k=k) for tx in (0.0, shift))
        return StereoRig.from_camera_info(left, right).baseline, camera_info_doubts(left, right)

    assert doubts(resized, small_k, -84.0 * scale) == (pytest.approx(0.12), [])
    factor = f"{1 / scale:.2g} times as large as {size[0]}x{size[1]}"
    baseline, found = doubts(full, small_k, -84.0)  # fx is wrong by 1 / scale, and so is depth
    assert len(found) == 1 and "left and right camera_info: p (cx 650, cy 470)" in found[0] and factor in found[0]
    baseline, found = doubts(resized, k, -84.0)  # p[3] was forgotten with k
    assert baseline == pytest.approx(0.12 / scale)
    assert len(found) == 1 and "left and right camera_info: k (cx 650, cy 470)" in found[0] and factor in found[0]
    assert f"depth are {1 / scale:.2g} times too large" in found[0]
    # p[3] alone was forgotten: the numbers of a rig with another baseline, and nothing says that it is not one.
    assert doubts(resized, small_k, -84.0) == (pytest.approx(0.12 / scale), [])


def test_one_mistake_in_a_calibration_is_one_doubt():
    """P of images three times as large: both centres are far outside, in both cameras, and differ a little."""
    left = [1500.0, 0, 960.0, 0, 0, 1500.0, 720.0, 0, 0, 0, 1, 0]
    right = [1500.0, 0, 966.0, -150.0, 0, 1500.0, 720.0, 0, 0, 0, 1, 0]
    found = camera_info_doubts(info(left, 640, 480), info(right, 640, 480))
    assert len(found) == 1 and "left and right camera_info: p (cx 960, cy 720)" in found[0] and "3 times" in found[0]
    # what is wrong with one camera alone names that one
    found = camera_info_doubts(info(left_p()), info(right_p(), r=[1, 0, 0, 0, 2, 0, 0, 0, 1]))
    assert len(found) == 1 and found[0].startswith("right camera_info: r is no rotation matrix")


def test_the_camera_info_of_one_camera_for_both_is_named():
    """Both images lie in one namespace, so that one camera_info is found beside them."""
    with pytest.raises(RigError, match="both are alike, so they may come from one topic: name that of each camera"):
        StereoRig.from_camera_info(info(left_p()), info(left_p()))
    with pytest.raises(RigError, match=r"so the baseline is zero: p\[3\] of the right camera must be"):
        StereoRig.from_camera_info(info(left_p()), info(left_p(cx=300.0)))


@pytest.mark.parametrize(
    ("fx", "cx", "cy", "size", "baseline"),
    [
        (435.2047, 367.4517, 252.2009, (752, 480), 0.110),  # EuRoC
        (721.5377, 609.5593, 172.8540, (1242, 375), 0.5327),  # KITTI
        (780.5101, 620.1887, 367.6431, (1280, 800), 0.075),  # OAK-D
        (383.1573, 319.8735, 241.6318, (640, 480), 0.050),  # RealSense D435
        (994.978, 311.193, 254.877, (741, 500), 0.193),  # Middlebury 2014, quarter size
    ],
)
def test_public_calibrations_are_not_doubted(fx, cx, cy, size, baseline):
    cameras = [info(left_p(fx, cx, shift, cy=cy), *size) for shift in (0.0, -fx * baseline)]
    assert camera_info_doubts(*cameras) == []


def test_binning_of_a_region_at_the_border_is_not_doubted():
    roi = SimpleNamespace(x_offset=240, y_offset=160, width=320, height=320)  # the centre is a quarter into it
    cameras = [info(p, roi=roi, binning_x=2, binning_y=2) for p in (left_p(), right_p())]
    assert camera_info_doubts(*cameras) == []


def test_focal_lengths_that_differ_across_and_down_are_doubted():
    doubts = camera_info_doubts(info(left_p(fy=3250.0)), info(right_p(fy=3250.0)))
    assert [doubt for doubt in doubts if "fx is 500 px and fy 3250 px" in doubt]
    assert camera_info_doubts(info(left_p(fy=550.0)), info(right_p(fy=550.0))) == []


def test_a_wrong_sign_and_a_wrong_unit_of_the_baseline_are_among_the_causes():
    with pytest.raises(RigError, match=r"sign of p\[3\] is not: that of the right camera is -fx \* baseline"):
        StereoRig.from_camera_info(info(left_p()), info(right_p(shift=60.0)))
    # -337.15 px * 0.12 m = -40.458 px m, written in thousandths
    with pytest.raises(RigError, match=r"one of 0\.12 m that was divided by 1000 once too often"):
        StereoRig.from_camera_info(info(left_p(fx=337.15)), info(right_p(fx=337.15, shift=-0.040458)))
