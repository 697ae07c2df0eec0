"""Explain why the messages that arrive form no pairs, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rclpy.node import Node

from fg_depth_ros.data.io.video_packets import IMAGE_TRANSPORTS, split_transport
from fg_depth_ros.nodes.common.environment import LARGE_PROFILE, profile_for, profile_for_bytes


@dataclass(frozen=True)
class LostImages:
    """Images of which few or none arrive while the camera_info of their camera does."""

    width: int
    """By the camera_info; 0 = not known."""
    height: int
    largest: int
    """Bytes of the largest one that came."""
    images: int
    """Number of images since the last pair, or lately."""
    camera_infos: int
    """Number of camera_infos in that time."""

    def why(self, topic: str) -> str:
        """Explain why they get lost and small messages of the same camera do not."""
        known, transport = self.width > 0 and self.height > 0, split_transport(topic)[1]
        raw = 3 * self.width * self.height
        if transport == "raw":
            profile = profile_for(self.width, self.height) if known else LARGE_PROFILE
            what = f"images of {self.width}x{self.height} ({1e-6 * raw:.0f} MB in colour)" if known else "they"
            if profile is None:
                return "check that the driver publishes them, and the network between"
            return _too_large(what, profile)
        if (profile := profile_for_bytes(self.largest)) is not None:
            return _too_large(f"compressed images of {1e-6 * self.largest:.1f} MB", profile)
        advice = (
            f"check that the encoder sends them (ros2 topic hz {topic}); where the network loses them, lower their "
            f"rate or quality, or let both sides be reliable (qos_overrides.{topic}.subscription.reliability: reliable)"
        )
        png = 0 if self.largest or transport != "compressed" else raw // 4  # or more, of a camera's image
        if (profile := profile_for_bytes(png)) is not None:
            advice += "; if they are PNG, " + _too_large(f"{1e-6 * png:.1f} MB or more", profile)
        return advice


@dataclass(frozen=True)
class UnpairedInputs:
    """State of a synchroniser's inputs, by name, while no pairs form."""

    unstamped: Sequence[str]
    """Those whose messages are left out since they have no stamp."""
    silent: Sequence[str]
    """Those without a message since the last pair, and without a camera_info that holds for later images."""
    lost_images: Mapping[str, LostImages]
    """Images of which few or none arrive."""
    last_stamps: Mapping[str, int]
    """Of the newest message, ns; 0 before the first one."""
    smallest_gap: float
    """Seconds between the stamps that are nearest to a match: the slop that would be needed."""
    period: float | None
    """Time between the images of the faster camera, ns; None where it is not known."""
    slop: float | None
    """By how many seconds the stamps of a pair may differ; None: they must be equal."""


def explain_no_pair(
    inputs: UnpairedInputs,
    publishers: Callable[[str], int],
    topic: Callable[[str], str],
    others: Callable[[str], Sequence[str]] = lambda name: (),
) -> str:
    """Explain why no pairs form, with the stamps and what to do.

    ``publishers``: input name -> number of publishers; ``topic``: input name -> resolved topic;
    ``others``: input name -> topics that might be meant instead.
    """
    if inputs.unstamped:
        return (
            f"the messages on {', '.join(map(topic, inputs.unstamped))} have no stamp (it is 0 or less), and nothing "
            "tells which belong together: let the driver fill header.stamp with the time of the exposure "
            "(stereo_depth_node with allow_unstamped pairs them by their arrival instead)"
        )
    lost = inputs.lost_images
    if inputs.silent:
        reasons = {
            name: why_silent(publishers(name), topic(name), others(name), lost.get(name)) for name in inputs.silent
        }
        return "; ".join(f"no message on {topic(name)} ({reason})" for name, reason in reasons.items())
    if lost := {name: found for name, found in lost.items() if publishers(name)}:
        return explain_lost(lost, topic)
    gap, period = inputs.smallest_gap, inputs.period
    if inputs.slop is None:
        mode, remedy = "their stamps must be equal", f"set approximate_sync to true and sync_slop above {gap:.6f}"
    else:
        mode, remedy = f"their stamps may differ by sync_slop = {inputs.slop:g} s", f"raise sync_slop above {gap:.6f}"
    if period is not None and gap > 0.75e-9 * period:  # of streams that overlap it is at most half
        remedy = (
            f"synchronise the clocks that stamp them (chrony, PTP): they are farther than one image from the next "
            f"({period * 1e-9:.6f} s) apart, and a wider sync_slop would pair images of different moments"
        )
    stamps = ", ".join(f"{topic(name)} {stamp / 1e9:.6f}" for name, stamp in inputs.last_stamps.items())
    return (
        f"messages come on every input but none belong together: {mode}, and the nearest are "
        f"{gap:.6f} s apart (newest stamps: {stamps}); trigger both cameras together and copy the "
        f"image's stamp to its camera_info, or {remedy}"
    )


def explain_lost(lost: Mapping[str, LostImages], topic: Callable[[str], str]) -> str:
    """Explain why few images arrive; arguments as for ``explain_no_pair``."""
    return "; ".join(
        f"only {found.images} images of {found.camera_infos} camera_infos came on {topic(name)}: "
        f"{found.why(topic(name))}"
        for name, found in lost.items()
    )


def why_silent(publishers: int, topic: str, others: Sequence[str] = (), lost: LostImages | None = None) -> str:
    """Explain why a topic with so many publishers is silent.

    ``others``: topics that might be meant instead. ``lost``: what is known of its images where their camera_info
    arrives.
    """
    if publishers == 0 and others:
        return f"it has no publisher: remap it to {' or '.join(others)}, or start the camera driver"
    if publishers == 0:
        return "it has no publisher: start the camera driver, or remap the topic"
    if lost is not None:
        return f"{publishers} publisher(s) are there, and camera_info comes, but no image: {lost.why(topic)}"
    advice = "check that they run, and their QoS"
    if split_transport(topic)[1] == "raw":
        advice = (
            "check that they run, their QoS, and that large images fit into the shared memory of Fast DDS "
            "(docs/install.md)"
        )
    return f"{publishers} publisher(s) are there, but nothing comes: {advice}"


def images_beside(node: Node, topic: str) -> list[str]:
    """Return the image topics beside one that somebody publishes, such as image_rect_color or image_raw."""
    base, transport = split_transport(topic)
    kind, suffix, namespace = IMAGE_TRANSPORTS[transport], topic.removeprefix(base), base.rpartition("/")[0]
    found = (name.removesuffix(suffix) for name, kinds in node.get_topic_names_and_types() if kind in kinds)
    beside = sorted(name for name in found if name.rpartition("/")[0] == namespace)
    return [name for name in beside if node.count_publishers(name + suffix)]


def _too_large(what: str, profile: str) -> str:
    return (
        f"{what} do not fit into the shared-memory segment of Fast DDS in the process that publishes them: start the "
        f"camera driver with FASTDDS_DEFAULT_PROFILES_FILE set to {profile} of fg_depth_ros (docs/install.md); from "
        "another machine, the network loses them"
    )
