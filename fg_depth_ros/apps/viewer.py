"""``fg-depth view``: pairs, or live topics, in one window: a page in a browser, rerun's own window, or a file.

The page and its data are served on 127.0.0.1 only, by rerun's own program, a child process.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from fg_depth_ros.apps.processes import ProcessGroup, interruptible
from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.evaluation.reports import visualization
from fg_depth_ros.evaluation.reports.live_view import (
    CLOUD,
    DEPTH,
    DISPARITY,
    MASK,
    SIGMA,
    LiveView,
    ViewerError,
    largest_shown,
)
from fg_depth_ros.geometry import organised_points
from fg_depth_ros.inference import StereoDepthEstimator
from fg_depth_ros.networks import STEREO_MODELS
from fg_depth_ros.resources import module_command

HOST = "127.0.0.1"
START_SECONDS = 60.0  # the program is 150 MB, read from a cold disk
Say = Callable[[str, str], None]
"""Called with a line for people and its style, as rich names it."""


@dataclass(frozen=True)
class Destination:
    """Destination of a view."""

    page_port: int = 9090
    """Port of the page."""
    data_port: int = 9876
    """Port that the page, or the window, gets its data from."""
    window: bool = False
    """Open rerun's own window instead of serving a page."""
    file: Path | None = None
    """Write a file (.rrd) instead of showing anything."""
    memory: str = "2GB"
    """Largest memory of the data; then the oldest is dropped."""

    def __post_init__(self) -> None:
        for port in (self.page_port, self.data_port):
            if not 1 <= port <= 65535:
                raise ViewerError(f"port {port} does not exist: choose one from 1024 to 65535")
        if self.page_port == self.data_port:
            raise ViewerError(f"page and data cannot share port {self.page_port}: give two with --port and --data-port")
        if self.window and self.file is not None:
            raise ViewerError("a view is shown or written: leave out --window or --save")

    @property
    def data_url(self) -> str:
        """Address of the data."""
        return f"rerun+http://{HOST}:{self.data_port}/proxy"

    @property
    def page_url(self) -> str:
        """Address of the page, with its data."""
        return f"http://{HOST}:{self.page_port}/?url={quote(self.data_url, safe='')}"


@contextlib.contextmanager
def opened(view: LiveView, where: Destination, say: Say) -> Iterator[ProcessGroup | None]:
    """Show a view, or write it, until the end of the block; yield the viewer's process, or None for a file.

    Raises ViewerError: a port is in use, there is no display for a window, or rerun's program does not run. Raises
    ChildDied, ChildTimeout: it does not start to listen.
    """
    if where.file is not None:
        view.save(where.file)
        try:
            yield None
        finally:
            view.close()
        return
    ports = {where.data_port: "--data-port"} | ({} if where.window else {where.page_port: "--port"})
    for port, option in ports.items():
        _require_free(port, option)
    if where.window and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise ViewerError("there is no display here for a window: leave --window out, and open the page in a browser")
    with tempfile.TemporaryDirectory(prefix="fg_depth_view_") as folder:
        # Settings of its own: rerun sends usage statistics unless its settings say no.
        environment = {**os.environ, "XDG_CONFIG_HOME": f"{folder}/config", "XDG_DATA_HOME": f"{folder}/data"}
        command = module_command("rerun_cli", "analytics", "disable")
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            said = " ".join((done.stderr or done.stdout).split()[-30:])
            raise ViewerError(f"rerun's program does not run here ({said}): install it again, or use --save")
        options = ["--bind", HOST, "--port", str(where.data_port), "--server-memory-limit", where.memory]
        if where.window:
            options += ["--hide-welcome-screen"]
        else:
            options += ["--serve-web", "--web-viewer-port", str(where.page_port)]
        with ProcessGroup(Path(folder), environment) as group:
            group.start_program("rerun", "rerun_cli", options)
            group.wait_until(
                lambda: all(map(_accepts, ports)), START_SECONDS, f"rerun to listen on {sorted(ports)}"
            )  # fmt: skip
            view.connect(where.data_url)
            if not where.window:
                say(f"look at it in a browser on this machine: {where.page_url}", "bold")
            try:
                yield group
            finally:
                view.close()


def view_pairs(
    title: str, samples: Iterable[StereoSample], estimators: Mapping[str, StereoDepthEstimator], where: Destination,
    say: Say,
) -> int:  # fmt: skip
    """Estimate pairs with each of the estimators (by label), show them, and stay until Ctrl-C.

    Returns the exit code: 1 where no pair could be shown. Raises ViewerError, ChildDied, ChildTimeout.
    """
    samples = list(samples)
    calibrated = any(sample.rig is not None for sample in samples)
    if not samples:
        raise ViewerError(f"{title}: no pair to show")
    if not calibrated:
        say("no calibration next to the pairs: disparity only, without metres (give --calib)", "yellow")
    outputs = {
        label: _outputs(estimator) if calibrated else frozenset({DISPARITY}) for label, estimator in estimators.items()
    }
    view, shown = LiveView(title, outputs, "pair"), 0
    with interruptible(), contextlib.suppress(KeyboardInterrupt), opened(view, where, say) as viewer:
        for number, sample in enumerate(samples):
            if viewer is not None:
                viewer.check(may_end=viewer.children)
                if not viewer.children[0].running:
                    break  # its window was closed
            view.at(pair=number, stamp=sample.stamp)
            try:
                _show_pair(view, sample, estimators)
            except (ValueError, ArithmeticError, RuntimeError) as error:  # the other pairs are still shown
                say(f"{sample.name}: skipped: {error}", "red")
                continue
            shown += 1
        say(f"{shown} of {len(samples)} pairs shown" + ("" if viewer is None else "; Ctrl-C ends"), "")
        if viewer is not None and shown:
            wait_for_end(viewer)
    return 0 if shown else 1


def view_topics(namespace: str, left: str, where: Destination, say: Say) -> int:
    """Show the live topics of a depth node until Ctrl-C; return the exit code.

    ``left``: topic of the left image, below the namespace; empty = left/image_rect. Raises ViewerError: ROS is missing.
    Raises as ``opened``.
    """
    try:
        from fg_depth_ros.nodes.viewer.node import OUTPUTS, show_topics
    except ImportError as error:
        raise ViewerError(
            f"live topics need ROS ({error}): source a ROS installation, install the extra 'ros', or name a folder, a "
            "bag or motorcycle"
        ) from error
    view = LiveView(f"live topics of {namespace or '/'}", {"node": OUTPUTS}, "time", has_messages=True)
    with interruptible(), contextlib.suppress(KeyboardInterrupt), opened(view, where, say) as viewer:

        def goes_on() -> bool:
            if viewer is None:
                return True
            viewer.check(may_end=viewer.children)
            return viewer.children[0].running

        show_topics(view, namespace, left or "left/image_rect", say, goes_on)
    return 0


def wait_for_end(viewer: ProcessGroup) -> None:
    """Wait until the window is closed. Raises ChildDied: the viewer failed."""
    viewer.wait_until(
        lambda: not viewer.children[0].running, float("inf"), "the end of the viewer", may_end=viewer.children, poll=0.2
    )
    viewer.check(may_end=viewer.children)


def _outputs(estimator: StereoDepthEstimator) -> frozenset[str]:
    return frozenset({DISPARITY, DEPTH, MASK, CLOUD} | ({SIGMA} if estimator.model_name in STEREO_MODELS else set()))


def _show_pair(view: LiveView, sample: StereoSample, estimators: Mapping[str, StereoDepthEstimator]) -> None:
    left, right = sample.images()
    view.log_left(left)
    if sample.rig is None:
        for label, estimator in estimators.items():
            began = time.perf_counter()
            view.log_disparity(label, estimator.disparity(left, right))
            _log_seconds(view, label, time.perf_counter() - began)
        return
    view.log_camera(sample.rig.P_left()[:, :3], sample.rig.width, sample.rig.height)
    largest: float | None = None  # methods share their colours
    span: tuple[float, float] | None = None
    for label, estimator in estimators.items():
        estimate = estimator.estimate(left, right, sample.rig)
        if largest is None:
            largest = largest_shown(estimate.disparity)
            span = visualization.depth_range(estimate.depth)
        view.log_disparity(label, estimate.disparity, largest)
        view.log_depth(label, estimate.depth, span)
        if estimate.depth_sigma is not None:
            view.log_sigma(label, estimate.depth_sigma)
        view.log_labels(label, estimate.labels)
        view.log_cloud(label, organised_points(estimate.depth, sample.rig), left)
        _log_seconds(view, label, estimate.seconds)
        if estimate.fault is not None:
            view.log_message(f"{sample.name}, {label}: {estimate.fault}: {estimate.fault.explanation}", "WARN")


def _log_seconds(view: LiveView, label: str, seconds: float) -> None:
    view.log_latency(label, seconds)
    view.log_rate(label, 1.0 / seconds)


def _require_free(port: int, option: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ViewerError(
                f"port {port} of {HOST} cannot be used ({error.strerror}), by another viewer perhaps: end that, or "
                f"give another port with {option}"
            ) from error


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1.0):
        return True
    return False
