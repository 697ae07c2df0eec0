"""A world seen by raw stereo cameras: through OpenCV's forward models, so that no map of a rectification is used."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import yaml

SIZE = (320, 240)
BASELINE = 0.2
# From the left to the right camera's frame: turned about all axes, and not exactly beside it.
ROTATION = cv2.Rodrigues(np.array([0.02, -0.015, 0.01]))[0]
TRANSLATION = -np.array([BASELINE, 0.004, -0.003])
FAR, NEAR = 3.0, 1.6  # m along the left camera's axis
MATRICES = (
    np.array([[230.0, 0, 162.3], [0, 231.5, 117.8], [0, 0, 1]]),
    np.array([[228.0, 0, 156.1], [0, 227.1, 122.4], [0, 0, 1]]),
)
LENSES = {
    "plumb_bob": ([-0.28, 0.07, 2e-4, 1e-4, 0.0], [-0.27, 0.06, -1e-4, 2e-4, 0.0]),
    "rational_polynomial": (
        [0.35, 0.05, 3e-4, -2e-4, 0.01, 0.62, 0.12, 0.02],
        [0.33, 0.04, -1e-4, 1e-4, 0.01, 0.60, 0.11, 0.02],
    ),
    "thin_prism": (
        [-0.2, 0.05, 1e-4, 1e-4, 0.0, 0.02, 0.0, 0.0, 4e-3, 1e-3, -3e-3, 1e-3],
        [-0.2, 0.05, 1e-4, 1e-4, 0.0, 0.02, 0.0, 0.0, -2e-3, 1e-3, 3e-3, 1e-3],
    ),
    "equidistant": ([0.02, 0.01, -0.006, 0.001], [0.015, 0.012, -0.005, 0.001]),
}
"""Distortion model -> coefficients, left and right."""
_TEXEL = 0.03  # m
_TEXTURE = cv2.GaussianBlur(np.random.default_rng(3).integers(0, 256, (512, 512), np.uint8), (0, 0), 0.8)


@dataclass(frozen=True)
class RawRig:
    """Two raw cameras with their calibration, as ``cv2.stereoRectify`` rectifies them."""

    model: str
    size: tuple[int, int] = SIZE

    @property
    def fisheye(self) -> bool:
        return self.model == "equidistant"

    def distortion(self, side: int) -> np.ndarray:
        return np.array(LENSES[self.model][side])

    def rectified(self) -> tuple[np.ndarray, ...]:
        """R_left, R_right (3 x 3), P_left, P_right (3 x 4)."""
        if not self.fisheye:
            lenses = self.distortion(0), self.distortion(1)
            return cv2.stereoRectify(
                MATRICES[0], lenses[0], MATRICES[1], lenses[1], self.size, ROTATION, TRANSLATION, alpha=0
            )[:4]
        r_left, r_right, p_left, p_right = cv2.stereoRectify(
            MATRICES[0], np.zeros(4), MATRICES[1], np.zeros(4), self.size, ROTATION, TRANSLATION
        )[:4]
        return r_left, r_right, p_left, p_right

    def camera_info(self, side: int, make: Any = SimpleNamespace) -> Any:
        """The camera_info of a side; ``make``: its class."""
        found = self.rectified()
        return make(
            width=self.size[0], height=self.size[1], distortion_model=self.model, d=self.distortion(side).tolist(),
            k=MATRICES[side].ravel().tolist(), r=found[side].ravel().tolist(), p=found[2 + side].ravel().tolist(),
        )  # fmt: skip

    def project(self, side: int, rays: np.ndarray) -> np.ndarray:
        """Forward model: N x 2 pixels of N x 2 normalised rays (x / z, y / z)."""
        if self.fisheye:
            pixels = cv2.fisheye.distortPoints(rays[:, None], MATRICES[side], self.distortion(side))
        else:
            points = np.concatenate([rays, np.ones((len(rays), 1))], axis=1)
            pixels = cv2.projectPoints(points, np.zeros(3), np.zeros(3), MATRICES[side], self.distortion(side))[0]
        return pixels.reshape(-1, 2)

    def rays(self, side: int) -> np.ndarray:
        """Normalised ray of every raw pixel, H x W x 2: the forward model, inverted by iteration."""
        width, height = self.size
        pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2).astype(np.float64)
        k = MATRICES[side]
        focal, centre = np.array([k[0, 0], k[1, 1]]), np.array([k[0, 2], k[1, 2]])
        rays = (pixels - centre) / focal
        for _ in range(100):
            missed = pixels - self.project(side, rays)
            if np.abs(missed).max() < 1e-3:
                return rays.reshape(height, width, 2)
            rays = rays + missed / focal
        raise AssertionError("the iteration does not converge")

    def raw_image(self, side: int) -> np.ndarray:
        """What a raw camera sees, uint8 H x W."""
        return _raw_image(self, side).copy()

    def true_depth(self, projection: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Depth of the rectified left camera, H x W m; ``projection``: 3 x 3 of its image."""
        u, v = np.meshgrid(np.arange(size[0], dtype=float), np.arange(size[1], dtype=float))
        rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(projection).T
        rotation = self.rectified()[0]
        points, _ = cast(np.zeros(3), rays @ rotation)
        return (points @ rotation.T)[..., 2]


@cache
def _raw_image(rig: RawRig, side: int) -> np.ndarray:
    rays = rig.rays(side)
    directions = np.concatenate([rays, np.ones((*rays.shape[:2], 1))], axis=-1)
    origin = np.zeros(3)
    if side:
        directions, origin = directions @ ROTATION, -ROTATION.T @ TRANSLATION
    return rendered(*cast(origin, directions))


def rendered(points: np.ndarray, near: np.ndarray) -> np.ndarray:
    """What is seen at the points that ``cast`` returns, uint8 H x W."""
    at = (points[..., :2] / _TEXEL + np.where(near, 200.0, 0.0)[..., None]).astype(np.float32)
    return cv2.remap(_TEXTURE, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def cast(origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (H x W x 3 m) that rays hit in the left camera's frame, and whether that is the near board.

    A wall at FAR, and a board at NEAR before a part of it.
    """
    board, wall = (origin + directions * ((z - origin[2]) / directions[..., 2])[..., None] for z in (NEAR, FAR))
    near = (np.abs(board[..., 0] - 0.1) < 0.35) & (np.abs(board[..., 1]) < 0.3)
    return np.where(near[..., None], board, wall), near


def share_true(depth: np.ndarray, truth: np.ndarray, tolerance: float = 0.03) -> float:
    """Share of the pixels with depth whose depth is within ``tolerance`` (relative) of the truth."""
    answered = np.isfinite(depth)
    return float(np.mean(np.abs(depth[answered] / truth[answered] - 1) < tolerance)) if answered.any() else 0.0


# ---- calibration files -------------------------------------------------------------------------------------------

TO_BODY = np.eye(4)
TO_BODY[:3, :3], TO_BODY[:3, 3] = cv2.Rodrigues(np.array([0.4, -1.2, 0.7]))[0], [0.3, 0.1, -0.2]
TO_RIGHT = np.eye(4)
TO_RIGHT[:3, :3], TO_RIGHT[:3, 3] = ROTATION, TRANSLATION


def camera(side, world, distortion, radial):
    """A camera by Kalibr's and EuRoC's names."""
    k = MATRICES[side]
    return {
        "camera_model": "pinhole", "resolution": list(SIZE),
        "intrinsics": [float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2])],
        "distortion_model": "equidistant" if world.fisheye else radial,
        distortion: world.distortion(side)[:4].tolist(),
    }  # fmt: skip


def euroc(folder, world):
    """cam0/sensor.yaml and cam1/sensor.yaml, as EuRoC has them; the first."""
    for side, to_body in enumerate((TO_BODY, TO_BODY @ np.linalg.inv(TO_RIGHT))):
        values = camera(side, world, "distortion_coefficients", "radial-tangential")
        values["T_BS"] = {"cols": 4, "rows": 4, "data": to_body.ravel().tolist()}
        (folder / f"cam{side}").mkdir(exist_ok=True)
        (folder / f"cam{side}/sensor.yaml").write_text("%YAML:1.0\n" + yaml.safe_dump(values))
    return folder / "cam0/sensor.yaml"


def kalibr(folder, world):
    """Kalibr's file of a chain of cameras."""
    chain = {f"cam{side}": camera(side, world, "distortion_coeffs", "radtan") for side in (0, 1)}
    chain["cam1"]["T_cn_cnm1"] = TO_RIGHT.tolist()
    (folder / "rig-camchain.yaml").write_text(yaml.safe_dump(chain))
    return folder / "rig-camchain.yaml"
