"""Measure what a parameter of the estimator does to time, density and errors of the published depth.

python docs/tuning.py max_sigma=4 left_right_check=two_pass --data kitti2015 --data middlebury2006
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")  # CPU time of one core, little disturbed by other processes

import cv2
import numpy as np
import torch

from fg_depth_ros.data.datasets.stereo import motorcycle, open_stereo_sets
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.inference import StereoConfig, StereoDepthEstimator


def main() -> None:
    """Print one line per data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="field=value of StereoConfig")
    parser.add_argument("--data", action="append", default=[], help="folder of pairs with true disparity")
    parser.add_argument("--noise", type=float, default=0.0, help="add Gaussian noise of this deviation, grey levels")
    parser.add_argument("--gain", type=float, default=1.0, help="multiply both images, clipping at white")
    parser.add_argument("--enlarge", type=int, default=1, help="enlarge the images; errors count in original pixels")
    parser.add_argument("--right-gain", type=float, default=1.0, help="multiply the right image")
    options = parser.parse_args()
    defaults = StereoConfig()
    settings = dict(setting.split("=", 1) for setting in options.settings)
    values = {name: parsed(value, getattr(defaults, name)) for name, value in settings.items()}
    try:
        sets = {"Motorcycle": [motorcycle()], **open_stereo_sets(options.data)}
    except FileError as error:
        parser.error(str(error))
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    estimator = StereoDepthEstimator(
        StereoConfig(**{"min_depth": 0.01, "max_depth": 1000.0, "max_sigma": 0.0, **values})
    )
    estimator.warm_up(640, 480)
    print("set                    CPU ms   density %   bad-2 %   untextured: density %   bad-2 %")
    for name, samples in sets.items():
        seconds, counts = 0.0, np.zeros((2, 3))
        for sample in samples:
            images, truth = sample.images(), sample.truth()
            assert truth is not None, f"{sample.name} has no true disparity"
            if (factor := options.enlarge) > 1:
                images = tuple(cv2.resize(i, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC) for i in images)
                truth = factor * cv2.resize(truth, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
            height, width = truth.shape
            rig = StereoRig(width, height, 700.0, 700.0, width / 2, height / 2, width / 2, 0.5)
            if sample.rig is not None:
                rig = sample.rig.scaled(width, height)
            untextured = deviation(cv2.cvtColor(images[0], cv2.COLOR_RGB2GRAY)) < 3
            generator = np.random.default_rng(0)
            gains = (options.gain, options.gain * options.right_gain)
            left, right = (
                np.clip(image * gain + generator.normal(0.0, options.noise, image.shape), 0, 255).astype(np.uint8)
                for image, gain in zip(images, gains, strict=True)
            )
            begun = time.process_time()
            estimate = estimator.estimate(left, right, rig)
            published = estimate.mask
            seconds += time.process_time() - begun
            wrong = ~(np.abs(estimate.matched - truth) <= 2.0 * factor)
            for row, region in enumerate((np.isfinite(truth), np.isfinite(truth) & untextured)):
                shown = region & published
                counts[row] += region.sum(), shown.sum(), (shown & wrong).sum()
        density, bad = 100 * counts[:, 1] / counts[:, 0], 100 * counts[:, 2] / counts[:, 1]
        print(
            f"{name:20}{1000 * seconds / len(samples):9.0f}{density[0]:12.1f}{bad[0]:10.1f}"
            f"{density[1]:24.1f}{bad[1]:10.1f}"
        )


def parsed(text: str, default: object) -> object:
    """Return the value of a setting, of the type that its default has; ``auto`` may be a number instead."""
    if isinstance(default, bool):
        return text.lower() == "true"
    return int(text) if text.lstrip("-").isdigit() and default == "auto" else type(default)(text)


def deviation(grey: np.ndarray) -> np.ndarray:
    """Return the standard deviation of the grey levels around each pixel, in 15 x 15 windows."""
    values = grey.astype(np.float32)
    mean = cv2.blur(values, (15, 15))
    return np.sqrt(np.maximum(cv2.blur(values * values, (15, 15)) - mean * mean, 0.0))


if __name__ == "__main__":
    main()
