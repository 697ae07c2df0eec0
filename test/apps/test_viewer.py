"""``fg-depth view``: where it is served, pairs as it shows them, and what it says where it cannot."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.nodes import Scene, wall
from support.viewing import image_of, read_view
from support.waiting import wait_until

from fg_depth_ros.apps import viewer
from fg_depth_ros.apps.processes import ChildDied
from fg_depth_ros.apps.viewer import HOST, Destination, opened, view_pairs
from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.evaluation.reports.live_view import DISPARITY, SIGMA, LiveView, ViewerError
from fg_depth_ros.inference import StereoConfig, StereoDepthEstimator


@pytest.fixture
def rerun() -> None:
    pytest.importorskip("rerun", reason="rerun, the extra 'viewer', is not installed").set_strict_mode(True)


@pytest.fixture
def said() -> list[str]:
    return []


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind((HOST, 0))
        other.bind((HOST, 0))
        return one.getsockname()[1], other.getsockname()[1]


def listening(port: int) -> set[str]:
    """Addresses on which some process of this machine listens to a TCP port, as /proc has them."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            address, number = line.split()[1].split(":")
            if line.split()[3] == "0A" and int(number, 16) == port:
                found.add(address)
    return found


def sample(scene: Scene, number: int) -> StereoSample:
    return StereoSample(f"pair_{number}", scene.left, scene.right, scene.rig, stamp=10**18 + number)


@pytest.mark.usefixtures("rerun")
def test_the_page_and_its_data_are_served_on_this_machine_only_and_end_with_it(said: list[str]) -> None:
    ports = free_ports()
    view = LiveView("any", {"net": {DISPARITY}}, "pair")
    with opened(view, Destination(*ports), lambda text, style: said.append(text)) as group:
        assert [listening(port) for port in ports] == [{"0100007F"}] * 2  # 127.0.0.1, and no ::
        assert group is not None
        (child,) = group.children
        assert f"http://127.0.0.1:{ports[0]}/?url=rerun%2Bhttp%3A%2F%2F127.0.0.1%3A{ports[1]}%2Fproxy" in said[0]
        with socket.create_connection((HOST, ports[0])) as page:
            page.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert page.recv(15).endswith(b"200 OK")
    assert not child.running
    wait_until(lambda: not any(map(listening, ports)))


@pytest.mark.usefixtures("rerun")
def test_a_port_in_use_is_named_with_the_option(said: list[str]) -> None:
    ports = free_ports()
    for port, option in zip(ports, ("--port", "--data-port"), strict=True):
        with socket.socket() as other:
            other.bind((HOST, port))
            other.listen()
            view = LiveView("any", {"net": {DISPARITY}}, "pair")
            with (
                pytest.raises(ViewerError, match=rf"port {port} of 127\.0\.0\.1 .* another port with {option}$"),
                opened(view, Destination(*ports), lambda text, style: said.append(text)),
            ):
                pytest.fail("it was shown")


def test_flow_networks_have_no_panel_of_the_uncertainty() -> None:
    for name, has in (("flownet_stereo", True), ("flownet_lite", False), ("sgbm", False)):
        assert (SIGMA in viewer._outputs(StereoDepthEstimator(StereoConfig(model=name)))) is has


def test_destinations_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ViewerError, match="cannot share port 9090: give two with --port and --data-port"):
        Destination(9090, 9090)
    with pytest.raises(ViewerError, match="port 70000 does not exist"):
        Destination(70000)
    with pytest.raises(ViewerError, match="leave out --window or --save"):
        Destination(window=True, file=Path("any.rrd"))


@pytest.mark.usefixtures("rerun")
def test_a_window_needs_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    view = LiveView("any", {"net": {DISPARITY}}, "pair")
    with (
        pytest.raises(ViewerError, match="no display here for a window: leave --window out"),
        opened(view, Destination(*free_ports(), window=True), lambda text, style: None),
    ):
        pytest.fail("it was shown")


@pytest.mark.usefixtures("rerun")
def test_a_program_that_does_not_run_is_named_with_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "rerun"
    program.write_text("#!/bin/sh\necho 'version GLIBC_2.99 not found' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("RERUN_CLI_PATH", str(program))
    view = LiveView("any", {"net": {DISPARITY}}, "pair")
    with (
        # The command of rerun 0.39 hides the exit status; then the end of the server tells.
        pytest.raises((ViewerError, ChildDied), match=r"GLIBC_2\.99 not found"),
        opened(view, Destination(*free_ports()), lambda text, style: None),
    ):
        pytest.fail("it was shown")


@pytest.mark.usefixtures("rerun")
def test_pairs_are_shown_side_by_side_and_bad_ones_are_named(tmp_path: Path, said: list[str]) -> None:
    scene = wall(12)
    estimators = {
        name: StereoDepthEstimator(StereoConfig(model=name, max_disparity=64)) for name in ("sgbm", "bm")
    }  # fmt: skip
    pairs = [sample(scene, 0), sample(replace(scene, right=scene.right[:, 1:]), 1), sample(wall(24), 2)]
    file = tmp_path / "view.rrd"
    assert view_pairs("two", pairs, estimators, Destination(file=file), lambda text, style: said.append(text)) == 0
    assert any(text.startswith("pair_1: skipped: ") for text in said)
    assert said[-1] == "2 of 3 pairs shown"
    logged = read_view(file)
    for name in estimators:
        first, second = logged[f"/{name}/depth"]
        assert [first.at["pair"], second.at["pair"]] == [0, 2]
        assert second.at["time"] == 10**18 + 2
        # The wall is 300 px * 0.12 m / disparity away, whatever the method.
        assert np.nanmedian(image_of(first, np.float32)) == pytest.approx(3.0, rel=0.02)
        assert np.nanmedian(image_of(second, np.float32)) == pytest.approx(1.5, rel=0.02)
        assert f"/{name}/sigma" not in logged, "a classical method has none"
        cloud = np.array(logged[f"/world/{name}/cloud"][0].values["positions"])
        assert np.median(cloud[:, 2]) == pytest.approx(3.0, rel=0.02)
        (milliseconds,), (hertz,) = (
            logged[f"/{what}/{name}"][-1].values["scalars"] for what in ("latency", "rates")
        )  # fmt: skip
        assert milliseconds * hertz == pytest.approx(1000.0)
    ranges = {str(logged[f"/{name}/disparity"][0].values["depth_range"]) for name in estimators}
    assert len(ranges) == 1, "the two have the same colours"


@pytest.mark.usefixtures("rerun")
def test_without_calibration_there_is_disparity_and_a_word(tmp_path: Path, said: list[str]) -> None:
    scene = wall(12)
    pairs = [StereoSample("bare", scene.left, scene.right)]
    estimators = {"sgbm": StereoDepthEstimator(StereoConfig(model="sgbm", max_disparity=64))}
    file = tmp_path / "view.rrd"
    assert view_pairs("bare", pairs, estimators, Destination(file=file), lambda text, style: said.append(text)) == 0
    assert said[0] == "no calibration next to the pairs: disparity only, without metres (give --calib)"
    logged = read_view(file)
    assert np.nanmedian(image_of(logged["/sgbm/disparity"][0], np.float32)) == pytest.approx(12.0, abs=0.1)
    (milliseconds,) = logged["/latency/sgbm"][-1].values["scalars"]
    assert 0 < milliseconds < 60_000
    assert "/sgbm/depth" not in logged
    assert "/world/sgbm/cloud" not in logged


@pytest.mark.usefixtures("rerun")
def test_no_pair_and_no_good_pair_are_failures(tmp_path: Path, said: list[str]) -> None:
    estimators = {"sgbm": StereoDepthEstimator(StereoConfig(model="sgbm", max_disparity=64))}
    with pytest.raises(ViewerError, match="empty: no pair to show"):
        view_pairs("empty", [], estimators, Destination(file=tmp_path / "1.rrd"), lambda text, style: None)
    scene = wall(12)
    bad = [sample(replace(scene, right=scene.right[1:]), 0)]
    say = said.append
    assert view_pairs("bad", bad, estimators, Destination(file=tmp_path / "2.rrd"), lambda text, style: say(text)) == 1
    assert said[-1] == "0 of 1 pairs shown"


def test_live_topics_without_ros_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fg_depth_ros.nodes.viewer.node", None)
    with pytest.raises(ViewerError, match="live topics need ROS .* install the extra 'ros'"):
        viewer.view_topics("", "", Destination(), lambda text, style: None)
