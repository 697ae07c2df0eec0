"""The environment of a node's process: Fast DDS with a shared-memory segment that holds whole images.

With Fast DDS's defaults (half a megabyte) most large best-effort messages are lost on their way. This must be
done before ``rclpy.init``, and has no effect on other middlewares.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, MutableMapping

from fg_depth_ros.resources import resource_path

PROFILE, LARGE_PROFILE = "config/fastdds_shm.xml", "config/fastdds_shm_large.xml"
_DEFAULT_SEGMENT, _SEGMENT = 2**19, 2**24  # bytes of shared memory: of Fast DDS, and of PROFILE
# Fast DDS 3 reads the first, and warns of the second, which is that of Fast DDS 2.
_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
_WITH_FAST_DDS_2 = ("humble", "iron", "jazzy")
DISCOVERY = "ROS_AUTOMATIC_DISCOVERY_RANGE"
LOCALHOST_ONLY = "ROS_LOCALHOST_ONLY"
_BEFORE_DISCOVERY = ("foxy", "galactic", "humble")  # they know the second only; later ones warn of it
_LARGEST_DOMAIN = 232  # the ports of a larger one do not exist
# Whoever set one of these has a profile of his own.
_OWN = (*_VARIABLES, "FASTDDS_BUILTIN_TRANSPORTS")


def use_shared_memory_profile(environ: MutableMapping[str, str] | None = None) -> bool:
    """Point Fast DDS to the package's profile, unless the user chose one. Returns whether it was set.

    ``environ`` is changed in place (default: this process's environment). Also left alone: a file
    DEFAULT_FASTDDS_PROFILES.xml in the working folder, which Fast DDS reads by itself, and any other middleware.
    """
    environ = os.environ if environ is None else environ
    middleware = environ.get("RMW_IMPLEMENTATION", "")
    if middleware and "fastrtps" not in middleware:
        return False
    own_file = any(os.path.exists(f"DEFAULT_{name}_PROFILES.xml") for name in ("FASTDDS", "FASTRTPS"))
    if own_file or any(environ.get(name) for name in _OWN):
        return False
    environ[_VARIABLES[environ.get("ROS_DISTRO") in _WITH_FAST_DDS_2]] = str(resource_path(PROFILE))
    return True


def profile_for(width: int, height: int) -> str | None:
    """Return the profile that pairs of colour images of this size need; None where Fast DDS's defaults hold them."""
    return profile_for_bytes(3 * width * height)


def profile_for_bytes(image: int) -> str | None:
    """Return the profile that pairs of messages of so many bytes need; None where Fast DDS's defaults hold them."""
    if image <= _DEFAULT_SEGMENT:
        return None
    return PROFILE if 2 * image <= _SEGMENT else LARGE_PROFILE


def child_environment(
    base: Mapping[str, str] | None = None, *, domain_id: int | None = None, local: bool = True
) -> dict[str, str]:
    """Make the environment of a node in a child process from ``base`` (default: this process's).

    With ``local``, nothing leaves this machine. What the ROS wheels set up for this process only (library paths
    into its virtual environment) is taken out: a child sets up its own, and a child of another virtual
    environment would break on ours.
    """
    environ = dict(os.environ if base is None else base)
    if environ.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None) is not None:
        prefix = os.path.join(sys.prefix, "lib")
        paths = environ.pop("LD_LIBRARY_PATH", "").split(os.pathsep)
        kept = [path for path in paths if path and not path.startswith(prefix)]
        if kept:
            environ["LD_LIBRARY_PATH"] = os.pathsep.join(kept)
    if domain_id is not None:
        environ["ROS_DOMAIN_ID"] = str(domain_id)
    if local:
        environ[DISCOVERY] = "LOCALHOST"
        if knows_localhost_only(environ):
            environ[LOCALHOST_ONLY] = "1"
    use_shared_memory_profile(environ)
    return environ


def knows_localhost_only(environ: Mapping[str, str] | None = None) -> bool:
    """Return whether the sourced ROS has LOCALHOST_ONLY and no discovery range to keep messages on the machine."""
    return (os.environ if environ is None else environ).get("ROS_DISTRO") in _BEFORE_DISCOVERY


def domain_problem() -> str | None:
    """Return what is wrong with ``ROS_DOMAIN_ID``; None where nothing is. Limits: ports of DDS-RTPS 2.2, 9.6.1.1."""
    domain = os.environ.get("ROS_DOMAIN_ID", "")
    if not domain or (domain.isascii() and domain.isdigit() and int(domain) <= _LARGEST_DOMAIN):
        return None
    return (
        f"ROS_DOMAIN_ID is '{domain}': no node starts in it; choose 0 to 101 (up to {_LARGEST_DOMAIN} with a free port)"
    )


def describe_environment() -> dict[str, str]:
    """Describe middleware, profile, domain and shared memory for people. Raises ImportError without rclpy."""
    import rclpy

    use_shared_memory_profile()
    shared_memory = shutil.disk_usage("/dev/shm") if os.path.isdir("/dev/shm") else None
    room = f"{shared_memory.free / 2**20:.0f} MiB free" if shared_memory else "no /dev/shm: large images go by UDP"
    return {
        "rclpy": os.path.dirname(rclpy.__file__),
        "middleware": rclpy.get_rmw_implementation_identifier(),
        "Fast DDS profile": next(filter(None, map(os.environ.get, _VARIABLES)), "none of this package's"),
        "shared memory": room,
        "ROS_DOMAIN_ID": os.environ.get("ROS_DOMAIN_ID", "0 (not set)"),
        "discovery": _discovery(),
    }


def _discovery() -> str:
    if knows_localhost_only():
        return "LOCALHOST" if os.environ.get(LOCALHOST_ONLY) == "1" else "SUBNET"
    return os.environ.get(DISCOVERY, "SUBNET (not set)")
