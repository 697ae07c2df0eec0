"""Synthetic stereo pairs with exact disparity, drawn from layered scenes.

Both views are rendered from the same analytic surfaces with a z-buffer, so disparity and occlusion are exact to the
pixel, also on slanted and curved surfaces. First every layer competes for every pixel with its disparity alone; only
then are the winners textured, each pixel once. The right camera is rendered, not warped: for a right pixel the left
coordinate x of a surface solves ``x = x_r + d(x, y)``, a contraction since ``|dd/dx| < 1``.

The same code runs on the CPU (one sample, layers restricted to their bounding boxes) and on a GPU (a batch, whole
frames). Convention: ``left(x, y) <-> right(x - d, y)``, d > 0 in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from fg_depth_ros.synthesis.cameras import CameraPair, auto_exposure, expose
from fg_depth_ros.synthesis.layered_scenes import COLUMN, Outline, SceneSampler
from fg_depth_ros.synthesis.textures import TextureAtlas, fractal_noise

_SOLVER_STEPS = 5
_CAMERA_STREAM = 1  # second word of the seed: scene 0, camera 1
_OUTLINE_REACH = 1.45  # half sizes of a layer within which its outline lies, whatever its kind
_MARGIN = 2.0  # px around a layer
_ROW_MARGIN = 4.0  # px: rows by which a misrectified camera is off, at most


class StereoBatch(NamedTuple):
    """N stereo pairs.

    ``left``/``right`` N x 3 x H x W uint8; ``disparity`` N x 1 x H x W float32 px, left view, every pixel known;
    ``occluded`` N x 1 x H x W bool, True where the right camera does not see the left pixel.
    """

    left: torch.Tensor
    right: torch.Tensor
    disparity: torch.Tensor
    occluded: torch.Tensor


class StereoSceneGenerator:
    """Renders scenes by seed; the same seed gives the same scene on every machine."""

    def __init__(
        self,
        atlas: TextureAtlas,
        width: int = 512,
        height: int = 256,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        """``seed`` separates whole data sets (training, validation) from each other."""
        self.width, self.height, self.seed, self.device = width, height, seed, torch.device(device)
        self.atlas = atlas.to(self.device)
        self.sampler = SceneSampler(width, height, atlas.count)
        noise = fractal_noise(np.random.default_rng(7), 256, 1.1)
        self.noise = torch.from_numpy(noise).to(self.device).view(-1)

    def batch(self, indices: Sequence[int], mirrored: bool = False) -> StereoBatch:
        """Render the samples with these indices; each is a function of (seed, index) and the image size alone.

        ``mirrored`` appends every scene seen in a mirror, where the right camera becomes the left one: 2 N pairs for
        little more than the price of N.
        """
        # A batch on a GPU is rendered at once, frame by frame; on a CPU a scene alone can keep to its layers' boxes.
        groups = [[i] for i in indices] if self.device.type == "cpu" else [list(indices)]
        rendered = [self._render(group) for group in groups]
        chosen = [seen for seen, _ in rendered] + ([mirror for _, mirror in rendered] if mirrored else [])
        return StereoBatch(*(torch.cat(field) for field in zip(*chosen, strict=True)))

    def _render(self, indices: Sequence[int]) -> tuple[StereoBatch, StereoBatch]:
        """Scenes as they are seen, and in the mirror."""
        scenes = [self.sampler.draw(np.random.default_rng([self.seed, 0, i])).layers for i in indices]
        table = np.zeros((len(scenes), max(map(len, scenes)), len(COLUMN)))
        table[:, :, COLUMN["a"]] = -1e4  # padding layers lie behind everything
        for n, layers in enumerate(scenes):
            table[n, : len(layers)] = layers
        cameras = [CameraPair.draw(np.random.default_rng([self.seed, _CAMERA_STREAM, i]), self.width) for i in indices]
        left_layer, left_d, x, y = self._z_buffer(table, None)
        right_layer, right_d, xr, yr = self._z_buffer(table, cameras)
        noise = [[self._noise_seed(i, view) for i in indices] for view in (0, 1)]
        light = self._shade(table, left_layer, x, y)
        exposure = auto_exposure(light)
        left = expose(light * exposure, cameras, 0, noise[0])
        right = expose(self._shade(table, right_layer, xr, yr, right_d) * exposure, cameras, 1, noise[1])
        seen = StereoBatch(left, right, left_d.unsqueeze(1), self._occluded(left_d, right_d).unsqueeze(1))
        left_d, right_d = right_d.flip(-1), left_d.flip(-1)
        hidden = self._occluded(left_d, right_d).unsqueeze(1)
        return seen, StereoBatch(right.flip(-1), left.flip(-1), left_d.unsqueeze(1), hidden)

    def _noise_seed(self, index: int, view: int) -> int:
        """Return the seed of the noise in one view (0: left, 1: right) of a scene, below 2^47."""
        return ((self.seed * 1_000_003 + index) * 2 + view) & 0x7FFF_FFFF_FFFF

    # ---- geometry ----------------------------------------------------------------------------------------------

    def _z_buffer(
        self, table: np.ndarray, cameras: list[CameraPair] | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Winning layer (int64), its disparity, and its left-image coordinates x, y, all N x H x W."""
        n, count, h, w = len(table), table.shape[1], self.height, self.width
        params = torch.from_numpy(table).to(self.device, torch.float32)
        xs = torch.arange(w, device=self.device, dtype=torch.float32).expand(n, h, w)
        ys = torch.arange(h, device=self.device, dtype=torch.float32).view(1, h, 1).expand(n, h, w)
        if cameras is not None:  # a slightly misrectified right camera looks a little above or below the row
            shift = torch.tensor([[c.row_offset, c.row_tilt] for c in cameras], device=self.device).float()
            ys = ys + shift[:, 0].view(n, 1, 1) + shift[:, 1].view(n, 1, 1) * (xs - w / 2)
        best = torch.full((n, h, w), -1.0, device=self.device)
        layer = torch.zeros((n, h, w), dtype=torch.int64, device=self.device)
        at_x, at_y = xs.contiguous().clone(), ys.contiguous().clone()
        for k in range(count):
            y0, y1, x0, x1 = self._box(table[:, k], right=cameras is not None)
            if y0 >= y1 or x0 >= x1:
                continue
            box = (slice(None), slice(y0, y1), slice(x0, x1))
            p = {name: params[:, k, i].view(n, 1, 1) for name, i in COLUMN.items()}
            x, y = xs[box], ys[box]
            if cameras is None:
                d = _disparity(p, x, y)
            else:
                x_right, steps = x, _SOLVER_STEPS if np.any(table[:, k, [COLUMN["bump"], COLUMN["wave"]]]) else 0
                plane_only = p["a"] + p["b"] * (x_right - p["cx"]) + p["c"] * (y - p["cy"])
                x = x_right + plane_only / (1 - p["b"])
                for _ in range(steps):
                    x = x + (x_right + _disparity(p, x, y) - x) / (1 - p["b"])
                d = x - x_right
            wins = self._inside(table[:, k], p, x, y) & (d > best[box]) & (d >= 0)
            best[box] = torch.where(wins, d, best[box])
            layer[box] = torch.where(wins, k, layer[box])
            if cameras is not None:
                at_x[box] = torch.where(wins, x, at_x[box])
        return layer, best.clamp_(min=0), at_x, at_y

    def _box(self, rows: np.ndarray, right: bool) -> tuple[int, int, int, int]:
        """Rows and columns that a layer (one per sample) can reach: y0, y1, x0, x1."""
        if np.any(rows[:, COLUMN["outline"]] == Outline.EVERYWHERE) or len(rows) > 1:
            # A batch shares its slices, and one everywhere-layer fills them.
            return 0, self.height, 0, self.width
        row = rows[0]
        reach = float(np.hypot(row[COLUMN["ru"]], row[COLUMN["rv"]])) * _OUTLINE_REACH + _MARGIN
        ca, sa = abs(np.cos(row[COLUMN["angle"]])), abs(np.sin(row[COLUMN["angle"]]))
        ru, rv = (row[COLUMN[name]] * _OUTLINE_REACH + _MARGIN for name in ("ru", "rv"))
        rx, ry = min(reach, ru * ca + rv * sa), min(reach, ru * sa + rv * ca)
        cx, cy = row[COLUMN["cx"]], row[COLUMN["cy"]]
        lo, hi = cx - rx, cx + rx
        if right:
            swing = abs(row[COLUMN["b"]]) * rx + abs(row[COLUMN["c"]]) * ry
            swing += 2 * abs(row[COLUMN["bump"]]) + abs(row[COLUMN["wave"]])
            lo, hi = lo - row[COLUMN["a"]] - swing, hi - row[COLUMN["a"]] + swing

        def clip(value: float, largest: int) -> int:
            return int(np.clip(value, 0, largest))

        return (
            clip(cy - ry - _ROW_MARGIN, self.height),
            clip(cy + ry + _ROW_MARGIN + 1, self.height),
            clip(lo, self.width),
            clip(hi + 1, self.width),
        )

    def _inside(self, rows: np.ndarray, p: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Find the points within the layer's outline, bool."""
        kinds = set(rows[:, COLUMN["outline"]].astype(int))
        if kinds == {int(Outline.EVERYWHERE)}:
            return torch.ones(x.shape, dtype=torch.bool, device=x.device)
        u, v = _local(p, x, y)
        within = (u.abs() < 1) & (v.abs() < 1)
        inside = p["outline"] == Outline.EVERYWHERE
        for kind in kinds - {int(Outline.EVERYWHERE)}:
            inside = inside | ((p["outline"] == kind) & self._outline(Outline(kind), p, u, v, within))
        return inside

    def _outline(
        self, kind: Outline, p: dict[str, torch.Tensor], u: torch.Tensor, v: torch.Tensor, within: torch.Tensor
    ) -> torch.Tensor:
        if kind == Outline.ELLIPSE:
            power = p["p"].clamp(min=0.5)
            return u.abs() ** power + v.abs() ** power < 1
        if kind == Outline.STAR:
            radius = 1 - p["q"] * (0.5 + 0.5 * torch.sin(torch.atan2(v, u) * p["p"] + p["phase"]))
            return u * u + v * v < radius * radius
        if kind == Outline.FRAME:
            return within & ((u.abs() > p["p"]) | (v.abs() > p["p"]))
        if kind in (Outline.FENCE, Outline.GRID):
            bars = (u * p["p"] + p["phase"]).remainder(1) < p["q"]
            if kind == Outline.GRID:
                aspect = p["rv"] / p["ru"]
                bars = bars | ((v * p["p"] * aspect + p["phase"]).remainder(1) < p["q"])
            return within & bars
        if kind == Outline.CABLE:
            return (u.abs() < 1) & ((v - 0.7 * torch.sin(u * p["p"] + p["phase"])).abs() < p["q"])
        index_u = ((u * 128 / p["p"] + p["phase"] * 40).long()) % 256
        index_v = ((v * 128 / p["p"]).long()) % 256
        return (u * u + v * v < 1) & (self.noise[index_v * 256 + index_u] > p["q"])

    def _occluded(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Left pixels whose match lies outside the right image or behind what the right camera sees there."""
        xs = torch.arange(self.width, device=left.device, dtype=torch.float32)
        target = xs - left
        lo = target.floor().clamp(0, self.width - 1).long()
        hi = (lo + 1).clamp(max=self.width - 1)
        seen = torch.minimum(right.gather(2, lo), right.gather(2, hi))
        return (target < 0) | (seen > left + 1.0)

    # ---- appearance --------------------------------------------------------------------------------------------

    def _shade(
        self, table: np.ndarray, layer: torch.Tensor, x: torch.Tensor, y: torch.Tensor,
        disparity: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """Shade the winning surfaces at left-image places (x, y): N x H x W x 3 float32 colours, 0..255.

        ``disparity``: of these surfaces, where the right camera looks.
        """
        count = table.shape[1]
        rows = torch.from_numpy(table.reshape(-1, len(COLUMN))).to(self.device, torch.float32)
        flat = layer + torch.arange(len(table), device=self.device).view(-1, 1, 1) * count
        column = {name: rows[:, i] for name, i in COLUMN.items()}

        def per_pixel(values: torch.Tensor, index: torch.Tensor = flat) -> torch.Tensor:
            return values[index.reshape(-1)].view(index.shape + values.shape[1:])

        # Painted on the picture plane: texel coordinates are an affine map of the picture's.
        scale, angle = column["tex_scale"], column["tex_angle"]
        across, along = torch.cos(angle) * scale, torch.sin(angle) * scale
        u0 = column["tex_u"] - across * column["cx"] - along * column["cy"]
        v0 = column["tex_v"] - across * column["cy"] + along * column["cx"]
        cosine, sine = per_pixel(across), per_pixel(along)
        u = cosine * x + sine * y + per_pixel(u0)
        v = cosine * y - sine * x + per_pixel(v0)
        footprint = per_pixel(scale)
        receding = per_pixel(column["perspective"] > 0)
        if bool(receding.any()):
            chosen = flat[receding]
            p = {name: values[chosen] for name, values in column.items()}
            u[receding], v[receding], footprint[receding] = _perspective_texture(p, x[receding], y[receding])
        colour = self.atlas.sample(per_pixel(column["image"].long()), u, v, footprint)
        gain = column["gain"].unsqueeze(-1)
        shade = torch.stack([column["shade_r"], column["shade_g"], column["shade_b"]], -1)
        colour = colour.mul_(per_pixel(gain)).add_(per_pixel(shade - 128 * gain))
        mirrors = per_pixel(column["mirror"] > 0)
        if bool(mirrors.any()):  # what a shiny surface reflects lies at another depth than the surface
            chosen = flat[mirrors]
            virtual_x = x[mirrors]
            if disparity is not None:  # the column of the right image, and what is seen there of the reflection
                virtual_x = virtual_x - disparity[mirrors] + column["mirror_disparity"][chosen]
            image = column["mirror_image"].long()[chosen]
            reflected = self.atlas.sample(image, virtual_x * 1.3, y[mirrors] * 1.3, torch.full_like(virtual_x, 2.0))
            strength = column["mirror"][chosen].unsqueeze(-1)
            colour[mirrors] = colour[mirrors] * (1 - strength) + reflected * strength
        return colour.clamp_(0, 255)


def _local(p: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotated, normalised coordinates of a layer."""
    dx, dy = x - p["cx"], y - p["cy"]
    c, s = torch.cos(p["angle"]), torch.sin(p["angle"])
    return (dx * c + dy * s) / p["ru"].clamp(min=0.3), (dy * c - dx * s) / p["rv"].clamp(min=0.3)


def _disparity(p: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Disparity of a layer's surface at left-image places."""
    dx, dy = x - p["cx"], y - p["cy"]
    d = p["a"] + p["b"] * dx + p["c"] * dy
    if bool((p["bump"] != 0).any()):
        u, v = _local(p, x, y)
        d = d + p["bump"] * (1 - (u * u + v * v).clamp(max=2))
    if bool((p["wave"] != 0).any()):
        d = d + p["wave"] * torch.sin(p["wave_u"] * dx + p["wave_v"] * dy)
    return d


def _perspective_texture(
    p: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Texel coordinates u, v and footprint of a texture that recedes with the surface (ground, side walls)."""
    dx, dy = x - p["cx"], y - p["cy"]
    plane = (p["a"] + p["b"] * dx + p["c"] * dy).clamp(min=0.5)
    near = 40.0 / plane  # distance in units of the depth at 40 px of disparity
    steep = p["c"].abs() > p["b"].abs()
    u = torch.where(steep, dx, dy) * near * p["tex_scale"]
    along = near * 200 * p["tex_scale"]
    slope = torch.where(steep, p["c"], p["b"]).abs()
    footprint = torch.maximum(near * p["tex_scale"], along * slope / plane * 0.5)
    return u + p["tex_u"], along + p["tex_v"], footprint
