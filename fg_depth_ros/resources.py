"""Finding the files that are installed with the code: launch, config, rviz, docs; and the code, for child processes.

They live at the top of the repository and are installed to ``share/fg_depth_ros``, the place where
ROS tools look. Code asks for them by their path in the repository.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "fg_depth_ros"
_CODE = Path(__file__).resolve().parent


class ResourceError(FileNotFoundError):
    """A file that should have been installed with the package is not there."""


# Run by ``python -c``, which puts the working folder on the path as ''.
_RUN = """
import runpy, sys
sys.path[:] = [*filter(None, sys.path), sys.argv.pop(1)]
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def module_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of this package as a program, like ``python -m``.

    The working folder is not on its import path: nothing that lies there is imported, or hides the package.
    """
    return [sys.executable, "-c", _RUN, str(_CODE.parent), module, *arguments]


def resource_path(relative: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a shared file or folder of the package.

    The copy that belongs to the running code comes first, so that a checkout never reads the
    configuration of another installation on the same machine: the repository around the code, then the
    ``share`` folder of the prefix that the code is installed in, then the environment's
    (``sys.prefix``), then every prefix of ``AMENT_PREFIX_PATH``.

    Args:
        relative: path below the top of the repository, such as ``config/fastdds_shm.xml``.

    Raises:
        ValueError: the path is absolute or leaves the package.
        ResourceError: it exists in none of these places; the message lists them.
    """
    wanted = Path(relative)
    if wanted.is_absolute() or ".." in wanted.parts:
        raise ValueError(f"resource path '{wanted}' must be relative to the package, such as config/stereo_depth.yaml")
    roots = list(dict.fromkeys(_roots()))
    for root in roots:
        if (root / wanted).exists():
            return root / wanted
    places = ", ".join(str(root) for root in roots)
    raise ResourceError(f"'{wanted}' of {PACKAGE} was not found in {places}: install the package again")


def _roots() -> Iterator[Path]:
    """Return the folders that may hold the shared files, the most specific first."""
    if (_CODE.parent / "package.xml").is_file():
        yield _CODE.parent
    share = Path("share") / PACKAGE
    # <prefix>/lib/python3.x/site-packages/fg_depth_ros
    if len(_CODE.parents) > 3:
        yield _CODE.parents[3] / share
    yield Path(sys.prefix) / share
    for prefix in filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)):
        yield Path(prefix) / share
