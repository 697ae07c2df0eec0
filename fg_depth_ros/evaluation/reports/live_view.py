"""Log images, estimates, clouds, frames and metrics to rerun with a layout, for ``fg-depth view``.

rerun, the extra 'viewer', is imported where a view is made. A view is looked at live (``connect``) or written to a file
(``save``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fg_depth_ros.evaluation.reports import visualization
from fg_depth_ros.geometry import Label

DISPARITY, DEPTH, SIGMA, MASK, CLOUD = "disparity", "depth", "sigma", "mask", "cloud"
LARGEST_CLOUD = 120_000  # points a browser still turns without a graphics card
_JPEG_QUALITY = 90
_GREY = (150, 150, 150)
# Told apart by the colour-blind (Okabe and Ito, 2008), and on black and white pages.
_LINES = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (213, 94, 0), (204, 121, 167), (0, 114, 178), (150, 150, 150))
_SIGN = 0.2  # m, size of cameras and axes in the cloud
_TITLES = {DISPARITY: "disparity, px", DEPTH: "depth, m", SIGMA: "sigma of the depth, m", MASK: "mask and reasons"}
_WORLD = "world"
_CAMERA = (_WORLD, "camera")
_LEFT, _RATES, _LATENCY, _MESSAGES, _NOTHING = "left", "rates", "latency", "messages", "nothing"


class ViewerError(RuntimeError):
    """The viewer cannot be shown; the message says why and what to do."""


def load_rerun() -> Any:
    """Import rerun. Raises ViewerError, with the command that installs it, where it is missing."""
    try:
        import rerun
        import rerun.blueprint  # an attribute of the first only once it is imported
    except ImportError as error:
        raise ViewerError(f"the viewer needs rerun, the extra 'viewer' ({error}): pip install rerun-sdk") from error
    return rerun


def largest_shown(disparity: np.ndarray) -> float:
    """Return the disparity, px, at which colours end: few pixels have a larger one."""
    known = disparity[np.isfinite(disparity)]
    return float(np.ceil(np.quantile(known, 0.995))) if known.size and known.max() > 0 else 1.0


class LiveView:
    """One view of a camera. Nothing is shown before ``connect`` or ``save``.

    Args:
        title: of the recording.
        outputs: label of each method (a model, a node) -> which of DISPARITY, DEPTH, SIGMA, MASK, CLOUD it gives.
            Methods stand side by side.
        timeline: what the window steps through: ``pair``, a number, or ``time``, a stamp.
        has_messages: leave room for messages.

    Raises ViewerError: rerun is not installed.
    """

    def __init__(
        self, title: str, outputs: Mapping[str, Collection[str]], timeline: str, *, has_messages: bool = False
    ) -> None:
        self._rerun = load_rerun()
        self._outputs, self._timeline, self._has_messages = outputs, timeline, has_messages
        self._stream = self._rerun.RecordingStream("fg_depth_ros")
        self._title = title
        self._has_eye, self._is_optical = False, True
        self._plotted: set[str] = set()
        self._lines: dict[tuple[str, str], int] = {}  # plot and name -> number in its plot

    # ---- where it goes -----------------------------------------------------------------------------------------------

    def connect(self, url: str) -> None:
        """Show the view in the viewer, or on the server, at this address (``rerun+http://HOST:PORT/proxy``)."""
        self._stream.connect_grpc(url)
        self._begin()

    def save(self, path: Path) -> None:
        """Write the view to a file (.rrd)."""
        self._stream.save(path)
        self._begin()

    def close(self) -> None:
        """Send or write what is left, and end."""
        self._stream.flush()
        self._stream.disconnect()

    def _begin(self) -> None:
        rr = self._rerun
        self._stream.send_recording_name(self._title)
        self._stream.send_blueprint(self._layout())
        colours = [
            rr.AnnotationInfo(int(label), text, visualization.LABEL_COLOURS[label])
            for label, text in visualization.LABEL_NAMES.items()
        ]
        for method in self._outputs:
            self._log([method, MASK], rr.AnnotationContext(colours), static=True)
            nothing = rr.AnnotationContext([(0, "", (0, 0, 0, 0)), (1, "none", (0, 0, 0))])
            for each in (DISPARITY, DEPTH, SIGMA):
                self._log([method, each, _NOTHING], nothing, static=True)
        self._log([_WORLD], rr.ViewCoordinates.RDF, static=True)  # an optical frame: x right, y down, z forward

    # ---- what it shows -----------------------------------------------------------------------------------------------

    def at(self, *, pair: int | None = None, stamp: int | None = None) -> None:
        """Set the place of what is logged next: number of the pair, stamp in ns."""
        if pair is not None:
            self._stream.set_time("pair", sequence=pair)
        if stamp is not None:
            self._stream.set_time("time", timestamp=np.datetime64(stamp, "ns"))

    def log_left(self, image: np.ndarray) -> None:
        """Log the left image, uint8, H x W or H x W x 3 RGB."""
        self._log([_LEFT], self._rerun.Image(image).compress(jpeg_quality=_JPEG_QUALITY))

    def log_disparity(self, method: str, disparity: np.ndarray, largest: float | None = None) -> None:
        """Log disparity, H x W px, NaN where there is none; ``largest``: where the colours end."""
        self._log_field([method, DISPARITY], disparity, (0.0, largest or largest_shown(disparity)))

    def log_depth(self, method: str, depth: np.ndarray, span: tuple[float, float] | None = None) -> None:
        """Log depth, H x W m, NaN where there is none; ``span``: where the colours begin and end, m."""
        self._log_field([method, DEPTH], depth, span or visualization.depth_range(depth))

    def log_sigma(self, method: str, sigma: np.ndarray) -> None:
        """Log one standard deviation of the depth, H x W m, NaN where there is none."""
        self._log_field([method, SIGMA], sigma, (0.0, visualization.depth_range(sigma, (0.0, 1.0))[1]))

    def log_labels(self, method: str, labels: np.ndarray) -> None:
        """Log the reason of each pixel (``geometry.Label``), uint8 H x W, and the share of each over time."""
        rr = self._rerun
        self._log([method, MASK], rr.SegmentationImage(labels))
        shares = np.bincount(labels.ravel(), minlength=len(Label)) * (100.0 / max(labels.size, 1))
        for label, text in visualization.LABEL_NAMES.items():
            path = self._path([method, "share", label.name.lower()])
            if path not in self._plotted and not shares[label]:
                continue  # a line that is always 0 only fills the legend
            # White, as in the mask, is not seen on a white page.
            colour = _GREY if label == Label.VALID else visualization.LABEL_COLOURS[label]
            self._plot(path, text, float(shares[label]), colour)

    def log_cloud(self, method: str, points: np.ndarray, colours: np.ndarray, frame: str = "") -> None:
        """Log a cloud: points, ... x 3 m in the optical frame, and their colours, uint8 ... x 3 RGB.

        Points that are not finite are left out, and so many others that at most ``LARGEST_CLOUD`` stay. ``frame``: that
        of the points, where transforms between frames are logged.
        """
        rr = self._rerun
        flat, paint = points.reshape(-1, 3), colours.reshape(-1, 3)
        known = np.isfinite(flat).all(axis=1)
        flat, paint = flat[known], paint[known]
        step = -(-len(flat) // LARGEST_CLOUD) or 1
        flat, paint = flat[::step], paint[::step]
        path = [_WORLD, method, CLOUD]
        if frame:
            self._log(path, rr.CoordinateFrame(frame))
        self._log(path, rr.Points3D(flat, colors=paint, radii=rr.Radius.ui_points(2.0)))
        if len(flat) and self._is_optical and not self._has_eye:
            self._has_eye = True
            self._stream.send_blueprint(self._layout(float(np.median(flat[:, 2]))))

    def log_camera(self, matrix: np.ndarray, width: int, height: int, frame: str = "") -> None:
        """Log the left camera, to be drawn in the cloud: 3 x 3, px, and size; ``frame`` as for ``log_cloud``."""
        frames = {"parent_frame": frame, "child_frame": f"{frame}: image"} if frame else {}
        shape = {"width": width, "height": height, "image_plane_distance": _SIGN}
        self._log(_CAMERA, self._rerun.Pinhole(image_from_camera=matrix, **shape, **frames))

    def log_frame(
        self, parent: str, child: str, translation: Sequence[float], quaternion: Sequence[float], static: bool
    ) -> None:
        """Log where frame ``child`` is in frame ``parent``: m, and x, y, z, w. Its axes are drawn."""
        rr = self._rerun
        rotation = rr.Quaternion(xyzw=list(quaternion))
        place = rr.Transform3D(
            translation=list(translation), quaternion=rotation, parent_frame=parent, child_frame=child
        )
        self._log(["tf", child], place, static=static)
        self._log([_WORLD, "frames", child], rr.CoordinateFrame(child), static=True)
        self._log([_WORLD, "frames", child], rr.TransformAxes3D(_SIGN), static=True)

    def set_root(self, frame: str, *, is_optical: bool) -> None:
        """Show the cloud from this frame: an optical one, or one with z up (REP 103)."""
        rr = self._rerun
        self._log([_WORLD], rr.CoordinateFrame(frame), static=True)
        self._log([_WORLD], rr.ViewCoordinates.RDF if is_optical else rr.ViewCoordinates.FLU, static=True)
        self._is_optical = is_optical
        if self._has_eye and not is_optical:
            self._has_eye = False
            self._stream.send_blueprint(self._layout())

    def log_rate(self, name: str, hertz: float) -> None:
        """Log a rate, Hz."""
        self._plot_line(_RATES, name, hertz)

    def log_latency(self, name: str, seconds: float) -> None:
        """Log a latency, s."""
        self._plot_line(_LATENCY, name, 1e3 * seconds)

    def log_message(self, text: str, level: str = "INFO") -> None:
        """Log a message for people; ``level``: INFO, WARN or ERROR."""
        self._log([_MESSAGES], self._rerun.TextLog(text, level=level))

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _path(self, parts: Sequence[str]) -> str:
        return str(self._rerun.new_entity_path(list(parts)))  # escapes them, and begins with /

    def _log(self, parts: Sequence[str], what: Any, *, static: bool = False) -> None:
        self._stream.log(self._path(parts), what, static=static)

    def _log_field(self, parts: Sequence[str], values: np.ndarray, span: tuple[float, float]) -> None:
        rr, field = self._rerun, np.ascontiguousarray(values, np.float32)
        self._log(parts, rr.DepthImage(field, meter=1.0, colormap="viridis", depth_range=span))
        # rerun draws NaN as the farthest value: black covers it.
        self._log([*parts, _NOTHING], rr.SegmentationImage((~np.isfinite(field)).astype(np.uint8), opacity=1.0))

    def _plot_line(self, group: str, name: str, value: float) -> None:
        number = self._lines.setdefault((group, name), sum(known == group for known, _ in self._lines))
        self._plot(self._path([group, name]), name, value, _LINES[number % len(_LINES)])

    def _plot(self, path: str, name: str, value: float, colour: tuple[int, int, int]) -> None:
        if path not in self._plotted:
            self._plotted.add(path)
            style: dict[str, Any] = {"names": [name], "colors": [colour]}
            lines, points = self._rerun.SeriesLines(**style), self._rerun.SeriesPoints(**style, marker_sizes=[3.0])
            self._stream.log(path, lines, points, static=True)  # a line of one value is not seen
        self._stream.log(path, self._rerun.Scalars(value))

    def _layout(self, distance: float | None = None) -> Any:
        """Return the layout; ``distance``: of the scene, m, for the eye of the cloud's view."""
        b = self._rerun.blueprint
        following = self._timeline == "time"
        panel = b.TimePanel(
            state="collapsed", timeline=self._timeline, play_state="following" if following else None
        )  # fmt: skip
        body = self._single(distance) if len(self._outputs) == 1 else self._side_by_side(distance)
        return b.Blueprint(
            body, b.BlueprintPanel(state="collapsed"), b.SelectionPanel(state="collapsed"), panel, auto_views=False
        )

    def _single(self, distance: float | None) -> Any:
        b, (method, given) = self._rerun.blueprint, next(iter(self._outputs.items()))
        images = [self._image("left image", [_LEFT]), *self._pictures(method, given)]
        if CLOUD not in given:
            return b.Vertical(b.Horizontal(*images), self._plots(), row_shares=[3, 1])
        rest = [self._shares(method)] if len(images) % 2 else []
        grid = b.Grid(*images, *rest, grid_columns=2)
        side = [
            self._cloud(method, distance),
            self._plots() if rest else b.Tabs(*self._plot_views(), self._shares(method)),
        ]
        return b.Horizontal(grid, b.Vertical(*side, row_shares=[2, 1]), column_shares=[1, 1])

    def _side_by_side(self, distance: float | None) -> Any:
        b = self._rerun.blueprint
        columns = []
        for method, given in self._outputs.items():
            first, *others = self._pictures(method, given, with_method=True)
            views = [first, *([b.Tabs(*others)] if others else [])]
            columns.append(b.Vertical(*views, *([self._cloud(method, distance)] if CLOUD in given else [])))
        shares = [self._shares(method) for method, given in self._outputs.items() if MASK in given]
        common = b.Vertical(self._image("left image", [_LEFT]), *shares, self._plots())
        return b.Horizontal(common, *columns)

    def _pictures(self, method: str, given: Collection[str], *, with_method: bool = False) -> list[Any]:
        named = {each: f"{method}: {text}" if with_method else text for each, text in _TITLES.items()}
        order = (DISPARITY, DEPTH, MASK, SIGMA) if with_method else (MASK, DISPARITY, DEPTH, SIGMA)
        return [self._image(named[each], [method, each]) for each in order if each in given]

    def _image(self, name: str, path: Sequence[str]) -> Any:
        b = self._rerun.blueprint
        # What covers a field says nothing where the mouse points.
        behind = {self._path([*path, _NOTHING]): b.EntityBehavior(interactive=False)}
        return b.Spatial2DView(origin=self._path(path), name=name, overrides=behind)

    def _cloud(self, method: str, distance: float | None) -> Any:
        b, path = self._rerun.blueprint, f"{self._path([_WORLD, method])}/**"
        eye = None
        if distance is not None:  # behind the camera, above it and to its left; y is down
            eye = b.EyeControls3D(
                position=np.array([-0.3, -0.25, -0.05]) * distance, look_target=(0.0, 0.0, distance), eye_up=(0, -1, 0)
            )
        name = "cloud" if len(self._outputs) == 1 else f"{method}: cloud"
        contents = [path, self._path(_CAMERA), f"/{_WORLD}/frames/**", f"/{_WORLD}"]
        return b.Spatial3DView(origin=f"/{_WORLD}", contents=contents, name=name, eye_controls=eye, line_grid=False)

    def _shares(self, method: str) -> Any:
        name = "pixels by reason, %" if len(self._outputs) == 1 else f"{method}: pixels by reason, %"
        return self._rerun.blueprint.TimeSeriesView(origin=self._path([method, "share"]), name=name)

    def _plots(self) -> Any:
        return self._rerun.blueprint.Tabs(*self._plot_views())

    def _plot_views(self) -> list[Any]:
        b = self._rerun.blueprint
        views = [
            b.TimeSeriesView(origin=f"/{_LATENCY}", name="latency, ms"),
            b.TimeSeriesView(origin=f"/{_RATES}", name="rates, Hz"),
        ]
        return [*views, *([b.TextLogView(origin=f"/{_MESSAGES}", name="messages")] if self._has_messages else [])]
