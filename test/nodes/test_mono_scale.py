"""The factor between depth from one image and stereo depth, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.inference import StereoConfig, StereoEstimate
from fg_depth_ros.nodes.stereo_depth import mono
from fg_depth_ros.nodes.stereo_depth.mono import MonoScale, ScaleError


def stereo(depth: float, share: float = 1.0) -> StereoEstimate:
    """An estimate of 20 x 50 pixels with `depth` (m) in `share` of the columns from the right, else holes."""
    rig = StereoRig(50, 20, 100.0, 100.0, 24.5, 9.5, 24.5 + 60.0, 0.2)  # Z = 20 / (d + 60)
    matched = np.full((20, 50), 20.0 / depth - 60.0, np.float32)
    matched[:, : round(50 * (1 - share))] = np.nan
    return StereoEstimate(rig, matched, None, None, StereoConfig(model="sgbm", left_right_check="off"), 0.0)


def says(metres: float) -> np.ndarray:
    return np.full((20, 50), metres, np.float32)


def test_the_factor_brings_mono_depth_to_stereo_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(mono, "time", SimpleNamespace(monotonic=lambda: now[0]))
    scale = MonoScale()
    assert scale.values() == {}
    assert scale.fallback() == 1.0  # nothing is known yet
    assert scale.own_scale
    assert scale.values() == {"mono factor in use without a pair": "1.000"}
    scale.end_fallback()
    assert scale.values() == {}
    for metres in (0.30, 0.60, 0.31, 0.32, 0.33):
        assert scale.measure(says(metres), stereo(0.33, 0.5)) == pytest.approx(0.33 / metres, rel=1e-5)
    now[0] += 59.0
    assert scale.fallback() == pytest.approx(0.33 / 0.32, rel=1e-5)  # the median of the five
    assert not scale.own_scale
    assert scale.values() == {
        "mono factor": "1.000",
        "mono factor age (s)": "59",
        "mono factor in use without a pair": "1.031",
    }
    now[0] += 1000.0
    assert scale.fallback() == pytest.approx(0.33 / 0.32, rel=1e-5)  # no jump while the right camera is gone
    scale.end_fallback()
    assert scale.fallback() == 1.0  # too old for the next time
    assert scale.own_scale


def test_a_factor_is_measured_without_need_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(mono, "time", SimpleNamespace(monotonic=lambda: now[0]))
    scale = MonoScale()
    assert scale.due
    with pytest.raises(ScaleError):
        scale.measure(says(0.3), stereo(0.3, 0.0))
    assert not scale.due
    now[0] += 1.0
    assert scale.due


@pytest.mark.parametrize(
    ("metres", "share", "words"),
    [
        (0.3, 0.18, "too few pixels have stereo depth (18.0%)"),  # 180 of 1000 pixels
        (0.05, 1.0, "stereo depth is 6 times mono depth"),
        (3.0, 1.0, "stereo depth is 0.1 times mono depth"),
    ],
)
def test_without_a_sensible_factor_the_reason_is_said_and_nothing_kept(metres: float, share: float, words: str) -> None:
    scale = MonoScale()
    with pytest.raises(ScaleError) as caught:
        scale.measure(says(metres), stereo(0.3, share))
    assert words in str(caught.value)
    assert scale.fallback() == 1.0
