"""Measure what rectification inside the node costs: the maps of a calibration, and a pair of images.

python docs/rectification.py --size 640x480
"""

from __future__ import annotations

import argparse
import time
from types import SimpleNamespace

import cv2
import numpy as np

from fg_depth_ros.geometry.rectification import Rectification

_REPEATS = 50


def main() -> None:
    """Print one line per lens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="640x480", help="of the images")
    width, height = map(int, parser.parse_args().size.split("x"))
    cv2.setNumThreads(1)
    images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    print(f"{width}x{height}, CPU ms              maps, once   grey pair   rgb pair")
    lenses = {"plumb_bob": [-0.28, 0.07, 0, 0, 0], "rational_polynomial": [0.3, 0.1, 0, 0, 0, 0.6, 0.1, 0.02]}
    for model, distortion in {**lenses, "equidistant": [0.02, 0.01, -0.006, 0.001]}.items():
        left, right = (camera(model, distortion, width, height, shift) for shift in (0.0, -0.1 * width))
        maps = median(lambda left=left, right=right: Rectification.from_camera_info(left, right).maps)
        rectification = Rectification.from_camera_info(left, right)
        grey = median(
            lambda r=rectification: [r.apply(image[..., 0].copy(), side) for side, image in enumerate(images)]
        )
        rgb = median(lambda r=rectification: [r.apply(image, side) for side, image in enumerate(images)])
        print(f"{model:28} {maps:10.1f} {grey:11.2f} {rgb:10.2f}")


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
