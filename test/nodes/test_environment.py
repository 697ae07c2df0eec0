"""The Fast DDS profile is used unless the user has one, and children get an environment of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fg_depth_ros.nodes.common.environment import (
    LARGE_PROFILE,
    PROFILE,
    child_environment,
    domain_problem,
    profile_for,
    use_shared_memory_profile,
)

VARIABLE = "FASTDDS_DEFAULT_PROFILES_FILE"
NAMESPACE = {"dds": "http://www.eprosima.com"}


def test_the_profile_is_set_where_nothing_was_chosen() -> None:
    environ: dict[str, str] = {}
    assert use_shared_memory_profile(environ)
    assert Path(environ[VARIABLE]).name == "fastdds_shm.xml"
    assert Path(environ[VARIABLE]).is_file()
    assert environ.keys() == {VARIABLE}  # Kilted warns of the other one
    assert not use_shared_memory_profile(environ)  # and it stays


def test_fast_dds_2_is_told_by_its_own_variable() -> None:
    environ = {"ROS_DISTRO": "jazzy"}
    assert use_shared_memory_profile(environ)
    assert environ.keys() == {"ROS_DISTRO", "FASTRTPS_DEFAULT_PROFILES_FILE"}


@pytest.mark.parametrize(
    "chosen",
    [
        {VARIABLE: "/home/me/mine.xml"},
        {"FASTRTPS_DEFAULT_PROFILES_FILE": "/home/me/old.xml"},
        {"FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA"},
        {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"},
    ],
)
def test_the_users_own_choice_stays(chosen: dict[str, str]) -> None:
    environ = dict(chosen)
    assert not use_shared_memory_profile(environ)
    assert environ == chosen


def test_a_profile_in_the_working_folder_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "DEFAULT_FASTDDS_PROFILES.xml").write_text("<dds/>")
    monkeypatch.chdir(tmp_path)
    assert not use_shared_memory_profile({})


@pytest.mark.parametrize(
    ("name", "smallest", "limit"),
    [
        (PROFILE, 2 * 1920 * 1080 * 3, 64_000_000 / 3),  # three processes in the /dev/shm of a container
        (LARGE_PROFILE, 2 * 3840 * 2160 * 3, 2**26 + 1),
    ],
)
def test_the_profiles_hold_a_pair_of_images(repository: Path, name: str, smallest: int, limit: float) -> None:
    root = ElementTree.parse(repository / name).getroot()
    kinds = {
        found.findtext("dds:type", namespaces=NAMESPACE): found
        for found in root.iterfind(".//dds:transport_descriptor", NAMESPACE)
    }
    assert kinds.keys() == {"SHM", "UDPv4"}
    size = int(kinds["SHM"].findtext("dds:segment_size", namespaces=NAMESPACE))
    assert smallest < size < limit
    participant = root.find(".//dds:participant", NAMESPACE)
    assert participant.get("is_default_profile") == "true"
    assert participant.findtext(".//dds:useBuiltinTransports", namespaces=NAMESPACE) == "false"
    used = [found.text for found in participant.iterfind(".//dds:transport_id", NAMESPACE)]
    assert used == [found.findtext("dds:transport_id", namespaces=NAMESPACE) for found in kinds.values()]


def test_the_profile_follows_the_size_of_the_images() -> None:
    sizes = {(320, 240): None, (640, 480): PROFILE, (1920, 1080): PROFILE, (3840, 2160): LARGE_PROFILE}
    assert {size: profile_for(*size) for size in sizes} == sizes


def test_a_child_sets_the_wheels_libraries_up_itself() -> None:
    own = os.path.join(sys.prefix, "lib", "python3", "site-packages", "ros_rcl.libs")
    base = {
        "_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1",
        "LD_LIBRARY_PATH": os.pathsep.join([own, "/opt/vendor/lib", os.path.join(sys.prefix, "lib")]),
        "HOME": "/home/me",
    }
    child = child_environment(base, domain_id=42)
    assert "_ROS_WHEELS_BOOTSTRAP_COMPLETE" not in child
    assert child["LD_LIBRARY_PATH"] == "/opt/vendor/lib"
    assert (child["ROS_DOMAIN_ID"], child["HOME"]) == ("42", "/home/me")
    assert child["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert "ROS_LOCALHOST_ONLY" not in child  # newer distributions warn of it
    assert child_environment({"ROS_DISTRO": "humble"})["ROS_LOCALHOST_ONLY"] == "1"
    assert child[VARIABLE].endswith("fastdds_shm.xml")
    assert base["LD_LIBRARY_PATH"].startswith(own)  # what was given is not changed


def test_library_paths_of_a_ros_installation_stay() -> None:
    base = {"LD_LIBRARY_PATH": "/opt/ros/jazzy/lib", VARIABLE: "/mine.xml"}
    child = child_environment(base, local=False)
    assert child == base


@pytest.mark.parametrize(
    ("domain", "fine"),
    [("", True), ("0", True), ("232", True), ("233", False), ("500", False), ("-1", False), ("x", False)],
)
def test_a_domain_that_no_node_starts_in_is_named(monkeypatch: pytest.MonkeyPatch, domain: str, fine: bool) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", domain)
    problem = domain_problem()
    assert (problem is None) == fine
    assert fine or f"ROS_DOMAIN_ID is '{domain}'" in str(problem)
