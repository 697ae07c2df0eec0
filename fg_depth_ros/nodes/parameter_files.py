"""The files made from the parameter tables of all nodes.

``python -m fg_depth_ros.nodes.parameter_files`` writes ``docs/parameters.md`` and the parameter files in ``config/``; a
test compares them with the tables.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fg_depth_ros.nodes.common.parameters import ParameterTable
from fg_depth_ros.nodes.data_logger.parameters import DATA_LOGGER
from fg_depth_ros.nodes.evaluator.parameters import REPLAY_EVALUATOR
from fg_depth_ros.nodes.players.parameters import BAG_PLAYER, STEREO_PLAYER
from fg_depth_ros.nodes.stereo_depth.parameters import STEREO_DEPTH

TABLES: tuple[ParameterTable, ...] = (STEREO_DEPTH, STEREO_PLAYER, REPLAY_EVALUATOR, DATA_LOGGER, BAG_PLAYER)
"""Every node's table, in the order of the reference page."""

_COMMAND = "python -m fg_depth_ros.nodes.parameter_files"
_HEADER = f"""# Parameters

Made from the tables in `fg_depth_ros/nodes/` by `{_COMMAND}`; edit those, not this page. A value
that is refused is named together with what is allowed; the node keeps running with the old one. QoS of every topic can
be overridden too, see [topics.md](topics.md).

The files in `config/` have every default, for `params_file:=` of a launch file, `--ros-args --params-file`, or
`ros2 param load`, which names the parameters that are read at the start only and so cannot be changed any more. Only a
few parameters are launch arguments (`ros2 launch fg_depth_ros stereo_depth.launch.py --show-args`): copy a file from
`config/`, change it, and name it with `params_file:=`.
"""


def reference_page() -> str:
    """Return the text of ``docs/parameters.md``."""
    return "\n".join([_HEADER, *(table.markdown() for table in TABLES)])


def parameter_files() -> dict[str, str]:
    """Return file name below ``config/`` -> text: one per node, every parameter at its default."""
    note = f"# Every parameter at its default, made by `{_COMMAND}`.\n# Copy it and change it.\n"
    return {f"{table.node.removesuffix('_node')}.yaml": note + table.yaml() for table in TABLES}


def main(arguments: list[str] | None = None) -> int:
    """Write the reference page and the parameter files below ``--root``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--root", type=Path, default=Path("."), help="repository root (default: here)")
    root = parser.parse_args(arguments).root
    files = {"docs/parameters.md": reference_page()}
    files |= {f"config/{name}": text for name, text in parameter_files().items()}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
