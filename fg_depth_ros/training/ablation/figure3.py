"""FG-Depth's Figure 3 as an experiment: the depth at which each loss is smallest, on a surface of known depth.

A wall at 11.22 m is seen by two cameras of different exposure. One depth after the other is tried for its pixels, and
every loss is smallest at one of them. Everything is planes, ray-cast in closed form into both views, so the truth is
known exactly. (Zhu et al., ICRA 2023, arXiv 2301.08414, figure 3, where the plain photometric loss of one pixel is
smallest at 14.80 m and the others at 11.34 m.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fg_depth_ros.evaluation.reports.report import Report
from fg_depth_ros.files import atomic_write
from fg_depth_ros.networks.flow import pixel_grid
from fg_depth_ros.synthesis.cameras import CameraPair, expose
from fg_depth_ros.synthesis.textures import TextureAtlas, fractal_noise
from fg_depth_ros.training.depth.teacher import Teacher
from fg_depth_ros.training.photometric import photometric_error, warp_source

LOSSES = ("photometric", "L_dr", "L_fp", "L_fd")
_TEXELS = 60.0  # per metre
_CAMERA_HEIGHT, _FAR_WALL = 1.65, 45.0  # m
_WALL_HALF_WIDTH, _WALL_TOP = 3.0, -2.0  # m; it stands on the ground
_CHUNK = 50  # hypotheses at once
_WITHIN = 0.02

_ALIKE = CameraPair(
    blur=(0.5, 0.5), gains=((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)), offset=(0.0, 0.0), gamma=(1.0, 1.0), noise=0.01,
    vignette=0.0, grey=False, row_offset=0.0, row_tilt=0.0,
)  # fmt: skip
_DIFFERENT = replace(
    _ALIKE, gains=((1.0, 1.0, 1.0), (1.3, 1.28, 1.25)), offset=(0.0, 0.01), gamma=(1.0, 1.1), vignette=0.1
)


@dataclass(frozen=True)
class Figure3:
    """The experiment."""

    depth: float = 11.22
    """Distance of the wall, m."""
    nearest: float = 5.0
    """Smallest depth that is tried, m."""
    farthest: float = 30.0
    """Largest depth that is tried, m."""
    step: float = 0.02
    """Step between two depths that are tried, m."""
    width: int = 1024
    """Image width, px; focal length and baseline are KITTI's at this size, that of the paper."""
    height: int = 320
    focal: float = 595.0
    baseline: float = 0.54
    patch: int = 64
    """Side of the square in the middle of the wall whose pixels are tried, px."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.nearest < self.depth < self.farthest:
            raise ValueError(
                f"the wall at {self.depth} m must lie within the depths that are tried, {self.nearest} to "
                f"{self.farthest} m"
            )
        if not 0 < self.step <= _WITHIN * self.depth:
            raise ValueError(f"steps of {self.step} m are too coarse for 2 % of {self.depth} m: choose smaller ones")
        if min(self.patch_box) < 1 or self.patch_box[1] >= self.height or self.patch_box[3] >= self.width:
            raise ValueError(f"a patch of {self.patch} px has no room in {self.width}x{self.height} px")

    @property
    def patch_box(self) -> tuple[int, int, int, int]:
        """First and last + 1 row, first and last + 1 column of the patch."""
        middle = (_WALL_TOP + _CAMERA_HEIGHT) / 2 * self.focal / self.depth + (self.height - 1) / 2
        y, x = round(middle) - self.patch // 2, (self.width - self.patch) // 2
        return y, y + self.patch, x, x + self.patch


@dataclass(frozen=True)
class Condition:
    """A wall and two cameras.

    ``slope`` of its texture's amplitude spectrum 1 / f^slope, its ``contrast`` (standard deviation, of full scale), and
    whether the cameras are exposed differently.
    """

    slope: float
    contrast: float
    exposures_differ: bool


CONDITIONS: dict[str, Condition] = {
    "smooth wall, exposures differ": Condition(1.6, 0.1, True),
    "smooth wall, exposures alike": Condition(1.6, 0.1, False),
    "rough wall, exposures differ": Condition(1.2, 0.1, True),
}
"""Conditions by name: the first is the experiment, the others show what is hard for the photometric loss."""


class View(NamedTuple):
    """A rendered pair: ``left``, ``right`` 1 x 3 x H x W uint8; ``depth`` 1 x 1 x H x W m of the left view."""

    left: Tensor
    right: Tensor
    depth: Tensor


class Curves(NamedTuple):
    """Losses of a patch's pixels, K x h x w by name, and the K ``depths`` (m) that were tried."""

    depths: Tensor
    losses: dict[str, Tensor]

    def minima(self, name: str) -> Tensor:
        """Return the depth at which a loss is smallest, h x w m."""
        return self.depths[self.losses[name].argmin(0)]


def render(setup: Figure3, condition: Condition) -> View:
    """Render the wall, on the ground and before a far one, exactly in both views."""
    rng = np.random.default_rng(setup.seed)
    atlas = TextureAtlas([_plaster(rng, condition) for _ in range(3)])
    cameras = _DIFFERENT if condition.exposures_differ else _ALIKE
    seen = [_cast(setup, atlas, offset) for offset in (0.0, setup.baseline)]
    images = [expose(light[None], [cameras], i, [2 * setup.seed + i]) for i, (light, _) in enumerate(seen)]
    return View(images[0], images[1], seen[0][1][None, None])


def _plaster(rng: np.random.Generator, condition: Condition) -> np.ndarray:
    """Draw a texture, 512 x 512 x 3 uint8: mostly brightness varies, a little colour."""
    grey = fractal_noise(rng, 512, condition.slope)[..., None]
    colour = np.stack([fractal_noise(rng, 512, condition.slope) for _ in range(3)], -1)
    return np.clip(255 * (0.45 + condition.contrast * (grey + 0.25 * colour)), 0, 255).astype(np.uint8)


def _cast(setup: Figure3, atlas: TextureAtlas, offset: float) -> tuple[Tensor, Tensor]:
    """Render light H x W x 3 (0..255) and depth H x W m of a camera that stands ``offset`` m to the right."""
    xs, ys = pixel_grid(setup.height, setup.width)
    across, down = (xs - (setup.width - 1) / 2) / setup.focal, (ys - (setup.height - 1) / 2) / setup.focal
    ground = torch.where(down > 1e-3, _CAMERA_HEIGHT / down.clamp(min=1e-3), torch.inf)
    wall_x, wall_y = across * setup.depth + offset, down * setup.depth
    on_wall = (wall_x.abs() < _WALL_HALF_WIDTH) & (wall_y > _WALL_TOP) & (wall_y < _CAMERA_HEIGHT)
    wall = torch.where(on_wall, setup.depth, torch.inf)
    depth, surface = torch.stack([wall, ground, torch.full_like(wall, _FAR_WALL)]).min(0)
    x, y = across * depth + offset, torch.where(surface == 1, depth, down * depth)
    # A pixel covers Z / f metres of a wall, and Z^2 / (f h) of the ground.
    footprint = _TEXELS * depth / setup.focal * torch.where(surface == 1, depth / _CAMERA_HEIGHT, 1.0)
    # Texels are mirrored beyond their square: its middle is the wall's, so that the wall is not symmetric.
    u, v = (_TEXELS * c + atlas.size / 2 for c in (x, y))
    return atlas.sample(surface, u, v, footprint), depth


def sweep(setup: Figure3, view: View, disparity: Tensor) -> Curves:
    """Compute every loss of every pixel of the patch, for all depths that are tried.

    A pixel's window (3 x 3, for the structure) is tried at the pixel's depth, which is right for a wall seen from the
    front. ``disparity``: of the flow, 1 x 1 x H x W px of the left view.
    """
    y0, y1, x0, x1 = setup.patch_box
    product = setup.focal * setup.baseline
    # The part of the pair that any of the depths can reach, and a pixel around for the windows.
    first = max(0, x0 - 2 - int(np.ceil(product / setup.nearest)))
    part = (slice(None), slice(None), slice(y0 - 1, y1 + 1), slice(first, x1 + 1))
    target, source = view.left[part].float() / 255, view.right[part].float() / 255
    guide = disparity[part]
    inner = (slice(None), slice(1, -1), slice(x0 - first, x1 - first))
    towards = torch.tensor([setup.baseline])
    by_flow = warp_source(source, guide, towards)
    flow_depth = (product / guide)[:, 0][inner]
    depths = torch.arange(setup.nearest, setup.farthest + setup.step / 2, setup.step)
    found: dict[str, list[Tensor]] = {name: [] for name in LOSSES}
    for chunk in depths.split(_CHUNK):
        n = len(chunk)
        tried = (product / chunk).view(-1, 1, 1, 1).expand(n, *guide.shape[1:])
        by_depth = warp_source(source.expand(n, -1, -1, -1), tried, towards.expand(n))
        found["photometric"].append(photometric_error(by_depth, target.expand_as(by_depth))[:, 0][inner])
        found["L_fp"].append(photometric_error(by_depth, by_flow.expand_as(by_depth))[:, 0][inner])
        found["L_dr"].append(torch.log1p((flow_depth - chunk.view(-1, 1, 1)).abs()))
        found["L_fd"].append(found["L_fp"][-1] + found["L_dr"][-1])
    return Curves(depths, {name: torch.cat(parts) for name, parts in found.items()})


def run_figure3(teacher: Teacher, setup: Figure3 | None = None) -> tuple[Report, dict[str, tuple[View, Curves]]]:
    """Run the whole experiment; return the report, and by condition the pair and the curves with the teacher's flow.

    Rows: ``minimum`` (m) of the patch's middle pixel and its ``error`` (%); over all pixels of the patch the median of
    the errors' magnitudes, ``median_error`` (%), and the share ``within_2`` (%) that is at most 2 % off; with the flow
    that ``teacher`` predicts, and with the exact one.
    """
    setup = setup or Figure3()
    report = Report(
        command="ablate figure3",
        model={"name": teacher.name, "sha256": teacher.sha256 or None},
        settings={**asdict(setup), "conditions": {name: asdict(one) for name, one in CONDITIONS.items()}},
    )
    shown = {}
    for name, condition in CONDITIONS.items():
        view = render(setup, condition)
        estimate = teacher.predict(view.left, view.right, both=False).disparity.cpu()
        curves = sweep(setup, view, estimate)
        exact = sweep(setup, view, setup.focal * setup.baseline / view.depth)
        for loss in LOSSES:
            report.add_row(name, loss, measures(curves.minima(loss), setup.depth))
        for loss in LOSSES[1:]:
            report.add_row(name, f"{loss}, exact flow", measures(exact.minima(loss), setup.depth))
        shown[name] = (view, curves)
    return report, shown


def measures(minima: Tensor, depth: float) -> dict[str, float]:
    """Compute the measures that ``run_figure3`` describes from minima of h x w, m."""
    errors = 100 * (minima / depth - 1).double()
    middle = (errors.shape[0] // 2, errors.shape[1] // 2)
    within = float(100 * (errors.abs() <= 100 * _WITHIN).double().mean())
    found = {"minimum": float(minima[middle]), "error": float(errors[middle])}
    return found | {"median_error": float(errors.abs().median()), "within_2": within}


def draw_figure3(path: str | Path, setup: Figure3, shown: Mapping[str, tuple[View, Curves]]) -> None:
    """Write a PNG: the pair of the first condition, its middle pixel's curves, and the errors of all pixels of all."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.2), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 2))
    above, below = parts
    name, (view, curves) = next(iter(shown.items()))
    y0, y1, x0, x1 = setup.patch_box
    for axes, image, title in zip(above.subplots(1, 2), view[:2], ("target (left)", "source (right)"), strict=True):
        axes.imshow(image[0].permute(1, 2, 0).numpy())
        axes.set(title=f"{title}; {name}" if title.startswith("target") else title, xticks=[], yticks=[])
        if title.startswith("target"):
            axes.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color="white", linewidth=1)
            axes.plot((x0 + x1) / 2, (y0 + y1) / 2, "+", color="red")
    left, right = below.subplots(1, 2)
    _draw_curves(left, curves, setup.depth)
    _draw_errors(right, shown, setup.depth)
    with atomic_write(path) as unfinished:
        figure.savefig(unfinished, dpi=110)


def _draw_curves(axes: Any, curves: Curves, depth: float) -> None:
    for name in LOSSES:
        values = curves.losses[name]
        values = values[:, values.shape[1] // 2, values.shape[2] // 2]
        scaled = (values - values.min()) / (values.max() - values.min()).clamp(min=1e-9)
        (line,) = axes.plot(curves.depths, scaled, label=f"{name}: {curves.depths[values.argmin()]:.2f} m")
        axes.plot(curves.depths[values.argmin()], 0, "o", color=line.get_color(), clip_on=False)
    axes.axvline(depth, color="black", linestyle=":", label=f"truth: {depth:g} m")
    axes.set(title="middle pixel", xlabel="depth tried, m", ylabel="loss, from its smallest to its largest")
    axes.legend(title="smallest at")


def _draw_errors(axes: Any, shown: Mapping[str, tuple[View, Curves]], depth: float) -> None:
    """Plot the cumulative share of the patch's pixels over the error of the depth that a loss likes best."""
    for style, (name, (_, curves)) in zip(("-", "--", ":"), shown.items(), strict=False):
        for loss, colour in (("photometric", "C0"), ("L_fd", "C3")):
            errors = (100 * (curves.minima(loss) / depth - 1).abs()).flatten().sort().values
            share = 100 * torch.arange(1, len(errors) + 1) / len(errors)
            axes.step(errors.clamp(min=0.01), share, style, color=colour, where="post", label=f"{loss}: {name}")
    axes.axvline(100 * _WITHIN, color="black", linestyle=":")
    axes.set(xscale="log", title="all pixels of the patch", xlabel="error of the smallest loss's depth, %")
    axes.set_ylabel("share of pixels, %")
    axes.legend(fontsize="small", loc="lower right", framealpha=0.6)
