"""What messages advise exists: commands, options, parameters, files, extras and names of the package."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from fg_depth_ros.cli import COMMANDS, application

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = sorted([*(REPOSITORY / "fg_depth_ros").rglob("*.py"), *(REPOSITORY / "launch").glob("*.py")])
# Of ROS, containers, unpackers and recorders.
FOREIGN_OPTIONS = {
    "--ros-args", "--clock", "--log-level", "--shm-size", "--ipc", "--compression-mode", "--params-file", "--show-args",
}  # fmt: skip
FOREIGN_NAMES = {
    *("use_sim_time", "qos_overrides", "frame_id", "camera_info", "image_rect", "ground_truth", "tf_static"),
    *("binary_little_endian", "liveliness_lease_duration", "avoid_ros_namespace_conventions", "x_left", "cx_left"),
    *("camera_calibration", "velodyne_points", "data_depth_annotated", "stereo_image_proc", "state_dict", "div_flow"),
    *("compressed_depth_image_transport", "base_link", "intel_rapl_msr", "fisheye_model"),
}


@cache
def messages() -> tuple[tuple[str, str], ...]:
    """Return (file and line, text) of every sentence in the code; {} stands for what is put in."""
    found = []
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                inner.update(id(part) for part in node.values)
        for node in ast.walk(tree):
            if id(node) in inner:
                continue
            text = ""
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
            elif isinstance(node, ast.JoinedStr):
                text = "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            if text.strip().count(" ") >= 2:
                found.append((f"{path.relative_to(REPOSITORY)}:{node.lineno}", text))
    return tuple(found)


def named(pattern: str, folder: str = "") -> Iterator[tuple[str, str]]:
    """Yield (file and line, group 1) of each match in the messages below a folder."""
    for where, text in messages():
        if where.startswith(folder):
            yield from ((where, found) for found in re.findall(pattern, text))


@cache
def commands() -> dict[str, Any]:
    """Return each command of ``fg-depth`` by its words."""
    found = {}
    for table in COMMANDS.values():
        for name, entry in table.items():
            for words in [(name, below) for below in getattr(entry, "commands", {})] or [(name,)]:
                command = typer.main.get_command(application(list(words)))
                for word in words:
                    command = command.get_command(command.context_class(command), word)
                found[" ".join(words)] = command
    return found


@cache
def parameters() -> frozenset[str]:
    """Return the parameters of all nodes."""
    documents = [yaml.safe_load(path.read_text()) for path in (REPOSITORY / "config").glob("*.yaml")]
    return frozenset(name for each in documents for node in each.values() for name in node["ros__parameters"])


@cache
def names() -> frozenset[str]:
    """Return every name that the code defines or uses, apart from its texts, and parts of file names."""
    found: set[str] = set()
    for path in FILES:
        found.add(path.stem)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for field in ("id", "attr", "arg", "name"):
                if isinstance(value := getattr(node, field, None), str):
                    found.update(value.split("."))
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and re.fullmatch(r"[\w./~-]+", node.value)
            ):
                found.update(re.split(r"[^\w]", node.value))  # keys, topics, models
    return frozenset(found)


def test_the_messages_are_found() -> None:
    assert len(messages()) > 700
    assert any("swap the two cameras' topics" in text for _, text in messages())
    assert len(commands()) > 20


def test_commands_exist() -> None:
    first = {words.split()[0] for words in commands()}
    found = list(named(r"fg-depth ([a-z][a-z-]+)"))
    assert len(found) > 5
    for where, command in found:
        assert command in first, f"{where} names fg-depth {command}"


def test_options_exist() -> None:
    known = {option for each in commands().values() for p in each.params for option in (*p.opts, *p.secondary_opts)}
    for path in FILES:  # of the programs that are started as modules
        known.update(re.findall(r"add_argument\(\s*\"(--[a-z-]+)\"", path.read_text(encoding="utf-8")))
    found = list(named(r"(?<![\w-])(--[a-z][a-z-]*[a-z])(?![\w-])"))
    assert len(found) > 20
    for where, option in found:
        assert option in known | FOREIGN_OPTIONS, f"{where} names {option}"


def test_parameters_exist() -> None:
    found = [
        *named(r"\bparameter (\w+)(?=: | = )", "fg_depth_ros/nodes"),
        *named(r"\bset (\w*_\w*) to\b", "fg_depth_ros/nodes"),
    ]
    assert len(found) > 8
    for where, name in found:
        assert name in parameters() | {"use_sim_time"}, f"{where} names the parameter {name}"


def test_launch_descriptions_name_parameters() -> None:
    found = [
        *named(r"^Parameter (\w+)(?:,| \()", "launch"),
        *named(r"^Parameter (\w+)(?:[,;]| \()", "fg_depth_ros/apps"),
    ]
    assert len(found) > 5
    for where, name in found:
        assert name in parameters(), f"{where} names the parameter {name}"


def test_files_and_extras_exist() -> None:
    extras = set(re.findall(r"^        \"(\w+)\": [A-Z]+,", (REPOSITORY / "setup.py").read_text(), re.M))
    assert "data" in extras
    for where, extra in named(r"fg_depth_ros\[(\w+)\]"):
        assert extra in extras, f"{where} names the extra {extra}"
    for where, extra in named(r"the extra '(\w+)'"):
        assert extra in extras, f"{where} names the extra {extra}"
    for where, name in named(r"\b((?:docs|config|launch)/[\w./]*\w)"):
        assert (REPOSITORY / name).exists(), f"{where} names {name}"
    for where, page in named(r"the (\w+ page) of the docs"):
        pytest.fail(f"{where} names {page!r}: give its file")


def test_identifiers_exist() -> None:
    known = names() | parameters() | FOREIGN_NAMES
    for where, word in named(r"(?<![\w/.{<])([a-z][a-z0-9]*(?:_[a-z0-9]+)+)(?![\w/.(])"):
        assert word in known, f"{where} names {word}"
