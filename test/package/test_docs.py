"""The documentation names only what exists: files, links, modules, commands, options, arguments, parameters, codes."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import typer
import yaml

from fg_depth_ros.cli import RENAMED, application

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])
NODES = ("stereo_depth_node", "stereo_player_node", "replay_evaluator_node", "data_logger_node", "bag_player_node")
# Identifiers of other software that the pages name.
FOREIGN = {
    *("queue_size", "image_rect_color", "image_raw"),
    *("camera_calibration", "image_proc", "image_pipeline", "stereo_image_proc", "obstacle_max_range", "use_sim_time"),
    *("rqt_robot_monitor", "data_depth_annotated", "calib_cam_to_cam", "calib_velo_to_cam", "velodyne_points"),
    *("left_camera_optical_frame", "base_link", "tf_static", "depth_anything_v2_ros2", "image_02", "image_03"),
    *("frame_id", "launch_testing", "isaac_ros_stereo_image_proc", "fisheye_model"),
}
LAUNCH_PACKAGES = {"launch", "launch_ros"}  # come with a ROS installation only

page = pytest.mark.parametrize("page", PAGES, ids=[str(path.relative_to(REPOSITORY)) for path in PAGES])


def blocks(text: str, *languages: str) -> list[str]:
    """Return the fenced code blocks in one of these languages."""
    return [code for language, code in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S) if language in languages]


def prose(text: str) -> str:
    """Return the page without its fenced code blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each shell command on a page: of console blocks, shell blocks and code spans."""
    shell = [re.sub(r"^\$ ", "", line) for block in blocks(text, "console", "bash", "sh") for line in lines(block)]
    for line in [*shell, *re.findall(r"`([^`\n]+)`", prose(text))]:
        try:
            yield shlex.split(line, comments=True)
        except ValueError:  # a code span that is no command
            continue


def lines(block: str) -> list[str]:
    """Return the lines of a shell block, continued ones joined."""
    return re.sub(r"\\\n", " ", block).splitlines()


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def after_command(words: list[str]) -> list[str] | None:
    """Return the words after ``fg-depth``, however it is started; None where the line does not start it."""
    if "fg_depth_ros.cli" in words:
        return words[words.index("fg_depth_ros.cli") + 1 :]
    for index, word in enumerate(words):
        if word in ("fg-depth", "fg_depth") or word.endswith("/fg-depth"):
            return words[index + 1 :]
    return None


def until_next(words: list[str]) -> list[str]:
    """Return the words up to the next command of the line."""
    ends = [index for index, word in enumerate(words) if word in ("&&", "||", "|", ";", "&", ">", "|&")]
    return words[: ends[0]] if ends else words


def options_of(command: Any) -> set[str]:
    """Return the options of a command."""
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}


@cache
def command_line(words: tuple[str, ...]) -> Any:
    """Return ``fg-depth`` with these commands imported: a group of click, or of the copy inside newer Typer."""
    return typer.main.get_command(application(list(words)))


def problem_of_command(words: list[str]) -> str | None:
    """Return what is wrong with the words after ``fg-depth``, or None."""
    rest = [word for word in until_next(words) if word]
    command = command_line(tuple(rest[:2]))
    context = command.context_class(command)
    while hasattr(command, "get_command"):
        if not rest or not re.fullmatch(r"[a-z][a-z-]+", rest[0]):
            return None  # "fg-depth --help", or a placeholder
        found = command.get_command(context, rest[0])
        if found is None:
            return f"there is no command '{rest[0]}'"
        command, rest = found, rest[1:]
    known = options_of(command)
    for word in rest:
        if re.match(r"--[a-z]", word) and word.partition("=")[0] not in known:
            return f"'{command.name}' has no option {word}"
    return None


@cache
def node_parameters() -> dict[str, dict[str, Any]]:
    """Return the default of every parameter, by node."""
    return {
        f"{path.stem}_node": settings["/**"]["ros__parameters"]
        for path in sorted((REPOSITORY / "config").glob("*.yaml"))
        if (settings := yaml.safe_load(path.read_text()))
    }


@cache
def identifiers_of_the_code() -> frozenset[str]:
    """Return every word with an underscore in the code, the launch files and the parameter files."""
    found: set[str] = set()
    for folder, pattern in (
        ("fg_depth_ros", "*.py"),
        ("launch", "*.py"),
        ("config", "*.yaml"),
        ("test", "conftest.py"),
    ):
        for path in (REPOSITORY / folder).rglob(pattern):
            found.update(re.findall(r"\w*_\w*", path.read_text(encoding="utf-8")))
            found.add(path.stem)
    found.update(re.findall(r"\w*_\w*", (REPOSITORY / "setup.py").read_text()))
    return frozenset(found)


@cache
def launch_arguments(name: str) -> frozenset[str]:
    """Return the arguments of a launch file, read with stand-ins where launch is not installed."""
    stand_ins: dict[str, ModuleType | MagicMock] = {}
    if importlib.util.find_spec("launch_ros") is None:
        modules = ("", ".actions", ".conditions", ".event_handlers", ".events", ".events.process", ".substitutions")
        stand_ins = {f"launch{module}": MagicMock() for module in (*modules, ".launch_description_sources")}
        stand_ins |= {f"launch_ros{module}": MagicMock() for module in ("", ".actions", ".events", ".event_handlers")}
        stand_ins |= {"launch_ros.events.lifecycle": MagicMock(), "launch_ros.descriptions": MagicMock()}
    index = MagicMock(get_package_share_directory=lambda package: str(REPOSITORY))
    stand_ins["ament_index_python.packages"] = index
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "fg_depth_ros.apps.launch_arguments", raising=False)
        patch.delattr("fg_depth_ros.apps.launch_arguments", raising=False)
        for module, stand_in in stand_ins.items():
            patch.setitem(sys.modules, module, stand_in)
        found = frozenset(runpy.run_path(str(REPOSITORY / "launch" / name))["ARGUMENTS"])
        if sys.modules.pop("fg_depth_ros.apps.launch_arguments", None) is not None:
            del sys.modules["fg_depth_ros.apps"].launch_arguments
    return found


# ---- files and links ---------------------------------------------------------------------------------------------


@page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), f"{page.name}: link to {target}"
        if anchor:
            anchors = {slug(heading) for heading in re.findall(r"^#+ (.*)$", linked.read_text(), re.M)}
            assert anchor in anchors, f"{page.name}: {name or page.name} has no heading #{anchor}"


def test_the_architecture_page_names_what_is_in_each_file() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    paths = set(re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", text))
    assert len(paths) > 30
    for path in paths:
        assert (REPOSITORY / "fg_depth_ros" / path).exists() or (REPOSITORY / path).exists(), path
    rows = re.findall(r"^\|[^|]*\| `([\w/]+\.py)` \| (.*) \|$", text, re.M)
    rows += [(path, name) for name, path in re.findall(r"^\| (`\w+`) \| `([\w/]+\.py)` \|", text, re.M)]
    assert len(rows) > 25
    everywhere = "".join(path.read_text() for path in (REPOSITORY / "fg_depth_ros").rglob("*.py"))
    for name in re.findall(r"`([A-Z]\w+|\w+\(\))`", text):
        assert re.search(rf"^\s*(?:class |def )?{name.removesuffix('()')}\b", everywhere, re.M) or name == "NAME", name
    for path, names in rows:
        code = (REPOSITORY / "fg_depth_ros" / path).read_text()
        for name in re.findall(r"`([\w.]+)(?:\(\))?`", names):
            for part in name.split("."):
                assert re.search(rf"^\s*(?:class|def) {part}\b", code, re.M), f"{path} has no {name}"


@page
def test_named_files_exist(page: Path) -> None:
    for name in re.findall(r"(?<![\w/.])(?:fg_depth_ros|docs|test|config|launch|rviz)/[\w./*-]*\w", page.read_text()):
        path = name.removesuffix(".")
        found = list(REPOSITORY.glob(path)) or list(REPOSITORY.glob(f"{path}.py"))
        assert found, f"{page.name} names {name}"


def test_every_page_is_in_the_index_and_every_picture_on_a_page() -> None:
    index = (REPOSITORY / "docs" / "README.md").read_text()
    for path in (REPOSITORY / "docs").glob("*.md"):
        assert path.name == "README.md" or f"]({path.name})" in index, f"docs/README.md does not list {path.name}"
    everything = "".join(path.read_text() for path in PAGES)
    for picture in (REPOSITORY / "docs" / "images").iterdir():
        assert f"images/{picture.name})" in everything, f"no page shows {picture.name}"


def test_every_former_name_that_is_refused_is_in_the_changelog() -> None:
    arguments = ast.parse((REPOSITORY / "fg_depth_ros" / "apps" / "launch_arguments.py").read_text())
    launch = next(
        ast.literal_eval(node.value)
        for node in arguments.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "RENAMED"
    )
    renamed = {**RENAMED, **launch}
    pytest.importorskip("rclpy", reason="the tables of parameters need rclpy")
    for table in importlib.import_module("fg_depth_ros.nodes.parameter_files").TABLES:
        renamed |= table.renamed
    assert len(renamed) >= 10
    changelog = re.sub(r"\s+", " ", (REPOSITORY / "CHANGELOG.rst").read_text())
    for before, now in renamed.items():
        assert f"``{before}``" in changelog, f"CHANGELOG.rst does not name {before}"
        assert f"``{now}``" in changelog, f"CHANGELOG.rst does not name {now}"


def test_no_file_has_conflict_markers() -> None:
    for path in (*PAGES, REPOSITORY / "CHANGELOG.rst"):
        assert not re.search(r"^(<{7}|>{7}) ", path.read_text(), re.M), f"{path} has conflict markers"


# ---- commands ----------------------------------------------------------------------------------------------------


@page
def test_commands_and_options_exist(page: Path) -> None:
    for words in commands(page.read_text()):
        rest = after_command(words)
        problem = problem_of_command(rest) if rest is not None else None
        assert problem is None, f"{page.name}: {' '.join(words)}: {problem}"


def test_commands_and_options_of_the_loop_script_exist() -> None:
    script = (REPOSITORY / "docs" / "loop.sh").read_text()
    used = [words for line in lines(script) if (words := re.match(r"\s*fg_depth ([^(].*)", line))]
    assert len(used) >= 8
    for line in used:
        words = [word for word in line.group(1).split() if not word.startswith(('"', "$"))]
        assert problem_of_command(words) is None, f"docs/loop.sh: {line.group(0)}: {problem_of_command(words)}"


@page
def test_modules_that_are_started_exist(page: Path) -> None:
    for module in re.findall(r"-m (fg_depth_ros[\w.]*)", page.read_text()):
        assert importlib.util.find_spec(module) is not None, f"{page.name} starts {module}"


@page
def test_make_targets_exist(page: Path) -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for words in commands(page.read_text()):
        if words[:1] == ["make"] and len(words) > 1 and words[1].isalpha():
            assert re.search(rf"^{words[1]}:", makefile, re.M), f"{page.name}: {' '.join(words)}"


@page
def test_launch_files_and_arguments_exist(page: Path) -> None:
    for words in commands(page.read_text()):
        if words[:3] != ["ros2", "launch", "fg_depth_ros"] or len(words) < 4:
            continue
        arguments = launch_arguments(words[3])
        for word in until_next(words[4:]):
            if ":=" in word:
                assert word.partition(":=")[0] in arguments, f"{page.name}: {' '.join(words)}: {word}"


# ---- parameters, codes, names ------------------------------------------------------------------------------------


@page
def test_parameters_of_commands_exist(page: Path) -> None:
    for words in commands(page.read_text()):
        nodes = [node for node in NODES if any(word.rpartition("/")[2] == node for word in words)]
        named = [words[i + 1].partition(":=")[0] for i, word in enumerate(words[:-1]) if word == "-p"]
        if words[:3] == ["ros2", "param", "set"]:
            named.append(words[4])
        for name in named:
            assert nodes, f"{page.name}: {' '.join(words)}: of which node?"
            assert name in node_parameters()[nodes[0]], f"{page.name}: {nodes[0]} has no parameter {name}"


@page
def test_parameters_in_yaml_exist_and_fit(page: Path) -> None:
    for block in blocks(page.read_text(), "yaml"):
        for node, settings in (yaml.safe_load(block) or {}).items():
            known = node_parameters().get(node.removeprefix("/**/"))
            if known is None:
                continue
            for name, value in settings["ros__parameters"].items():
                if name == "qos_overrides":
                    continue
                assert name in known, f"{page.name}: {node} has no parameter {name}"
                assert type(value) is type(known[name]), f"{page.name}: {name}: {value!r}, default {known[name]!r}"


def test_the_python_example_of_the_readme_runs() -> None:
    (example,) = blocks((REPOSITORY / "README.md").read_text(), "python")
    names: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), names)
    estimate = names["estimate"]
    assert estimate.depth.shape == estimate.labels.shape == (500, 741)
    assert 2.0 < np.nanmedian(estimate.depth) < 6.0


@page
def test_python_examples_import_what_exists(page: Path) -> None:
    for block in blocks(page.read_text(), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] not in LAUNCH_PACKAGES:
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{page.name}: {node.module} has no {alias.name}"


@page
def test_identifiers_in_code_spans_exist(page: Path) -> None:
    known = identifiers_of_the_code() | FOREIGN
    for span in re.findall(r"`([^`\n]+)`", prose(page.read_text())):
        if re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)+(: \S+)?", span):
            name = span.partition(":")[0]
            assert name in known, f"{page.name}: `{span}` is nowhere in the code"


def test_every_code_of_the_diagnostics_is_documented() -> None:
    from fg_depth_ros.data.io.messages import MessageFault
    from fg_depth_ros.nodes.common.codes import DropReason, FaultCode, NodeState, RecorderFault, SwapState

    troubleshooting = (REPOSITORY / "docs" / "troubleshooting.md").read_text()
    of_messages = set(MessageFault) - {MessageFault.MALFORMED_CLOUD}  # no input of a node
    for fault in (set(FaultCode) - {FaultCode.OK}) | of_messages:
        assert f"`{fault}`" in troubleshooting, f"troubleshooting.md does not explain {fault}"
    topics = (REPOSITORY / "docs" / "topics.md").read_text()
    for code in (*DropReason, *of_messages, *NodeState, *SwapState):
        assert f"`{code}`" in topics, f"topics.md does not explain {code}"
    recording = (REPOSITORY / "docs" / "recording.md").read_text()
    for fault in RecorderFault:
        assert f"| `{fault}` |" in recording, f"recording.md does not explain {fault}"


def test_the_tuning_script_prints_the_figures_of_its_page() -> None:
    command = [sys.executable, str(REPOSITORY / "docs" / "tuning.py"), "inference_scale=0.25"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    name, _, density, bad, *_ = output.splitlines()[1].split()
    assert name == "Motorcycle"
    page = (REPOSITORY / "docs" / "tuning.md").read_text()
    told = re.search(r"`inference_scale: 0\.25` \| [\d.]+ \| ([\d.]+), ([\d.]+) %", page)
    assert told is not None
    assert [float(density), float(bad)] == pytest.approx([float(value) for value in told.groups()], abs=0.3)


def test_the_tuning_script_names_a_folder_that_does_not_exist() -> None:
    command = [sys.executable, str(REPOSITORY / "docs" / "tuning.py"), "--data", "nowhere"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "error: nowhere: no such folder" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_documented_labels_are_those_of_the_code() -> None:
    from fg_depth_ros.geometry import Label

    rows = re.findall(r"^\| (\d) \| ([^|]*)", (REPOSITORY / "docs" / "topics.md").read_text(), re.M)
    used = {int(number) for number, meaning in rows if "not used" not in meaning}
    assert used <= {int(label) for label in Label}
    assert {int(label) for label in Label} <= {int(number) for number, _ in rows}
