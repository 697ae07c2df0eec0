"""Measure what rectification inside the node costs, and what it is worth: time of a pair, and depth of a known world.

python docs/rectification.py --size 640x480
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np

from fg_depth_ros.geometry.rectification import Rectification
from fg_depth_ros.inference import StereoConfig, StereoDepthEstimator

sys.path.insert(0, str(Path(__file__).parents[1] / "test"))
from support.raw_cameras import LENSES, RawRig, cast, rendered, share_true

_REPEATS = 50


def main() -> None:
    """Print one line per lens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="640x480", help="of the images")
    width, height = map(int, parser.parse_args().size.split("x"))
    cv2.setNumThreads(1)
    images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    print(f"{width}x{height}, CPU ms              maps, once   grey pair   rgb pair")
    for model, (distortion, _) in LENSES.items():
        left, right = (camera(model, distortion, width, height, shift) for shift in (0.0, -0.1 * width))
        maps = median(lambda left=left, right=right: Rectification.from_camera_info(left, right).maps)
        rectification = Rectification.from_camera_info(left, right)
        grey = median(
            lambda r=rectification: [r.apply(image[..., 0].copy(), side) for side, image in enumerate(images)]
        )
        rgb = median(lambda r=rectification: [r.apply(image, side) for side, image in enumerate(images)])
        print(f"{model:28} {maps:10.1f} {grey:11.2f} {rgb:10.2f}")
    print("\npixels with depth, within 3 % of the truth, %; median error, %")
    print("lens                  method             raw, not rectified   raw, rectified here   without distortion")
    for model in LENSES:
        for method in ("sgbm", "flownet_stereo"):
            figures = "".join(f"{d:10.1f} {s:5.1f} {e:5.2f}" for d, s, e in depth_errors(model, method))
            print(f"{model:21} {method:14} {figures}")


def depth_errors(model: str, method: str):
    """Yield density, share of true depth and median error (%) of the raw, the rectified and an ideal pair."""
    world = RawRig(model)
    rectification = Rectification.from_camera_info(*(world.camera_info(side) for side in (0, 1)))
    rig, raw = rectification.rig, [world.raw_image(side) for side in (0, 1)]
    rectified = [rectification.apply(image, side) for side, image in enumerate(raw)]
    projection = rig.P_left()[:, :3]
    u, v = np.meshgrid(np.arange(rig.width, dtype=float), np.arange(rig.height, dtype=float))
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(projection).T @ world.rectified()[0]
    right = -world.rectified()[0].T @ [-rig.baseline, 0, 0]
    ideal = [rendered(*cast(origin, rays)) for origin in (np.zeros(3), right)]
    estimator = StereoDepthEstimator(StereoConfig(method, max_disparity=64))
    truth = world.true_depth(projection, (rig.width, rig.height))
    for images in (raw, rectified, ideal):
        depth = estimator.estimate(*images, rig).depth
        found = np.isfinite(depth)
        error = float(np.median(np.abs(depth[found] / truth[found] - 1))) if found.any() else np.nan
        yield 100 * found.mean(), 100 * share_true(depth, truth), 100 * error


def camera(model: str, distortion: list[float], width: int, height: int, shift: float) -> SimpleNamespace:
    """Return a camera_info of a lens, turned a little."""
    focal = 0.75 * width
    k = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    rotation = cv2.Rodrigues(np.array([0.01, 0.02, -0.01]))[0]
    p = np.insert(k, 3, [shift, 0, 0], axis=1)
    return SimpleNamespace(width=width, height=height, distortion_model=model, d=distortion, k=k, r=rotation, p=p)


def median(function) -> float:
    """Return the median CPU time of a call, ms: little disturbed by other processes."""
    times = []
    for _ in range(_REPEATS):
        begun = time.process_time()
        function()
        times.append(time.process_time() - begun)
    return 1000 * float(np.median(times))


if __name__ == "__main__":
    main()
