"""The prior-flow mask: every bound from both sides, the left-right check against a naive loop."""

from __future__ import annotations

import math

import pytest
import torch

from fg_depth_ros.training.depth.batch import TeacherPrediction
from fg_depth_ros.training.depth.config import MaskConfig
from fg_depth_ros.training.depth.flow_mask import mask_checks, prior_flow_mask

NAN = math.nan
FOCAL, BASELINE = torch.tensor([100.0]), torch.tensor([0.8])
OFF = MaskConfig(max_depth=0, max_disparity=0, inside=False, vertical=0, left_right=0)


def row(*values, width=None):
    """One row of pixels; the last value is repeated up to ``width``."""
    filled = [*values, *[values[-1]] * ((width or len(values)) - len(values))]
    return torch.tensor(filled, dtype=torch.float32).view(1, 1, 1, -1)


def passed(disparity, config, vertical=None, right=None):
    prediction = TeacherPrediction(disparity, torch.zeros_like(disparity) if vertical is None else vertical, right)
    return prior_flow_mask(prediction, FOCAL, BASELINE, config).flatten().tolist()


@pytest.mark.parametrize("name", ["max_depth", "max_disparity", "min_disparity", "vertical", "left_right"])
@pytest.mark.parametrize("value", [-1.0, NAN, math.inf])
def test_bounds_that_cannot_be_are_refused(name, value):
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} of the flow mask is {value}: give 0"):
        MaskConfig(**{name: value})


def test_a_check_without_its_answer_is_refused():
    with pytest.raises(ValueError, match=r"needs the right view's disparity: .* left_right=0"):
        passed(row(1.0, 2.0), MaskConfig())


def test_no_answer_and_infinity_never_pass():
    disparity = row(NAN, math.inf, -math.inf, -2.0, 0.0, 1e-3, 5.0)
    assert passed(disparity, OFF) == [False] * 5 + [True] * 2
    spoiled = row(NAN, math.inf, 0.0, 0.0, 0.0, 0.0, 0.0)
    vertical = MaskConfig(max_depth=0, max_disparity=0, inside=False, left_right=0)
    assert passed(row(5.0, width=7), vertical, vertical=spoiled) == [False] * 2 + [True] * 5


def test_each_bound_by_hand():
    """f B = 80 px m: farther than 80 m is less than 1 px. At 512 px width, 80 px of 1024 are 40 px."""
    depth = MaskConfig(max_depth=80, max_disparity=0, inside=False, vertical=0, left_right=0)
    assert passed(row(0.99, 1.0, 1.01), depth) == [False, False, True]
    assert passed(row(1.99, 2.01), MaskConfig(40, 0, 0, False, 0, 0)) == [False, True]
    near = MaskConfig(max_depth=0, max_disparity=80, inside=False, vertical=0, left_right=0)
    assert passed(row(39.9, 40.0, 40.1, 1.0, width=512), near)[:4] == [True, False, False, True]
    low = MaskConfig(max_depth=0, max_disparity=0, min_disparity=3, inside=False, vertical=0, left_right=0)
    assert passed(row(2.9, 3.0, 3.1), low) == [False, False, True]
    inside = MaskConfig(max_depth=0, max_disparity=0, vertical=0, left_right=0)
    assert passed(row(0.5, 1.0, 2.5, 3.0), inside) == [False, True, False, True]  # columns 0 1 2 3
    upright = MaskConfig(max_depth=0, max_disparity=0, inside=False, left_right=0)
    assert passed(row(5.0, width=4), upright, vertical=row(0.9, -0.9, 1.0, -1.1)) == [True, True, False, False]


def test_samples_have_their_own_camera():
    disparity = torch.full((2, 1, 1, 4), 2.0)
    config = MaskConfig(max_depth=80, max_disparity=0, inside=False, vertical=0, left_right=0)
    prediction = TeacherPrediction(disparity, torch.zeros_like(disparity))
    focal, baseline = torch.tensor([100.0, 400.0]), torch.tensor([1.0, -0.5])  # 50 m and 100 m
    assert prior_flow_mask(prediction, focal, baseline, config).flatten(1).all(1).tolist() == [True, False]


def test_left_right_agrees_with_a_naive_loop():
    generator = torch.Generator().manual_seed(0)
    left, right = (6 * torch.rand(2, 1, 4, 24, generator=generator) for _ in range(2))
    left[0, 0, 1, 5], right[1, 0, 2, 3:9] = NAN, NAN
    config = MaskConfig(max_depth=0, max_disparity=0, vertical=0, left_right=1.5)
    found = prior_flow_mask(TeacherPrediction(left, torch.zeros_like(left), right), FOCAL, BASELINE, config)
    for n in range(2):
        for y in range(4):
            for x in range(24):
                d = left[n, 0, y, x].item()
                match = x - d
                expected = (
                    math.isfinite(d) and 0 <= match <= 23
                    and abs(d - right[n, 0, y, round(match)].item()) <= 1.5  # False for NaN
                )  # fmt: skip
                assert found[n, 0, y, x].item() == expected, (n, y, x)
    assert 0.1 < found.float().mean() < 0.9


def test_what_the_right_camera_cannot_see_does_not_pass():
    """A box of 8 px before a wall of 2 px: the wall's 6 columns to the left of the box are hidden on the right."""
    left, right = torch.full((1, 1, 3, 64), 2.0), torch.full((1, 1, 3, 64), 2.0)
    left[..., 30:40] = 8
    right[..., 22:32] = 8
    config = MaskConfig(max_disparity=0)  # at this width the box would be too near
    passes = prior_flow_mask(TeacherPrediction(left, torch.zeros_like(left), right), FOCAL, BASELINE, config)[0, 0, 1]
    hidden = set(range(24, 30)) | {0, 1}  # matches in columns 22 .. 27 lie under the box, -2 and -1 outside
    assert {x for x in range(64) if not passes[x]} == hidden


def test_the_checks_say_which_one_failed():
    disparity = row(NAN, 0.5, 500.0, 20.0, width=600)
    checks = mask_checks(
        TeacherPrediction(disparity, torch.full_like(disparity, 2.0), disparity),
        FOCAL,
        BASELINE,
        MaskConfig(left_right=1.0),
    )
    assert set(checks) == {"min_disparity", "max_depth", "max_disparity", "inside", "vertical", "left_right"}
    assert checks["min_disparity"].flatten()[:4].tolist() == [False, True, True, True]
    assert checks["max_depth"].flatten()[:4].tolist() == [False, False, True, True]
    assert checks["max_disparity"].flatten()[:4].tolist() == [False, True, False, True]
    assert not checks["vertical"].any()
    assert checks["left_right"].flatten()[100:].all()
    assert set(mask_checks(TeacherPrediction(disparity, disparity), FOCAL, BASELINE, OFF)) == {"min_disparity"}


def test_exact_disparity_passes_where_it_should():
    """A plane: all but the columns whose match leaves the image."""
    plane = torch.full((1, 1, 4, 200), 10.0)
    passes = prior_flow_mask(TeacherPrediction(plane, torch.zeros_like(plane), plane), FOCAL, BASELINE)
    assert passes[..., 10:].all() and not passes[..., :10].any()
