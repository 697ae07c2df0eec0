"""Fixed values that nodes exchange on /diagnostics. No ROS import.

Programs compare these; message texts are for people. Keys that carry them (``data.io.diagnostic_keys``): ``state``
(NodeState), ``reason`` and ``faults`` (FaultCode, PairFault, or the reason of a MessageError; of data_logger_node also
RecorderFault), ``swap``, ``flow swap`` and ``mono
swap`` (SwapState), and ``dropped: <DropReason, or the reason of a MessageError>`` (of left images alone: ``mono
fallback dropped: ...``) and ``<input> dropped: <PacketDrop>``, counts.
"""

from __future__ import annotations

from enum import Enum


class Code(str, Enum):
    """A string with a fixed set of values; formats and compares as its value."""

    __str__ = str.__str__


class NodeState(Code):
    """Lifecycle state of a node; value of the key ``state``."""

    UNCONFIGURED = "unconfigured"
    INACTIVE = "inactive"
    ACTIVE = "active"
    FINALIZED = "finalized"


class FaultCode(Code):
    """What is wrong; value of the key ``reason`` (the worst fault of a status) and part of ``faults`` (all of them)."""

    OK = "ok"
    IDLE = "idle"  # active, but no output has a subscriber
    NOT_CONFIGURED = "not configured"  # the model or a parameter was refused, qos_overrides included
    NO_CLOCK = "no clock"  # use_sim_time without /clock
    CLOCK_ENDED = "clock ended"  # no fault: no pair arrives, and /clock has no publisher any more
    NO_PAIRS = "no pairs"  # outputs have subscribers, but no synchronised pair arrives
    NO_STAMPS = "no stamps"  # messages arrive without a stamp, and so form no pairs
    IMAGES_LOST = "images lost"  # camera_info arrives, and its images do not, or rarely
    VIDEO_NOT_DECODED = "video not decoded"  # packets arrive, and no image can be made of them
    RIGHT_CAMERA_SILENT = "right camera silent"  # depth comes from the left image alone
    NOT_RECTIFIED = "not rectified"  # matched features lie on different rows
    ROWS_MISALIGNED = "rows misaligned"  # the vertical flow between the cameras is too large
    CALIBRATION_DOUBTFUL = "calibration doubtful"  # usable, but unusual: wrong units, another image size
    RANGE_LIMITED = "range limited"  # far points have disparities below min_disparity
    HARDLY_ANY_DEPTH = "hardly any depth"  # nearly all pixels of several pairs are invalid; the message has the cause
    NO_TRANSFORM = "no transform"  # points2 is cut in a frame to which /tf does not lead
    NO_MONO_SCALE = "no mono scale"  # holes cannot be filled: mono depth has no scale
    NO_MONO_DEPTH = "no mono depth"  # mono depth is needed, but there is no model for it
    FRAMES_APART = "frames apart"  # temporal flow has a subscriber, but the pairs are more than a second apart
    NO_FLOW_MODEL = "no flow model"  # temporal flow has a subscriber, but there is no model for it
    OUT_OF_MEMORY = "out of memory"
    OVER_TIME_BUDGET = "over time budget"  # pairs take longer than time_budget even at the smallest inference_scale
    MODEL_NOT_LOADED = "model not loaded"
    ENGINE_FAILED = "engine failed"  # the engine is missing or failed; PyTorch runs instead
    SWAP_FAILED = "swap failed"  # new weights were refused; the model before them still runs
    INTERNAL_ERROR = "internal error"


class FaultSubject(Code):
    """What a fault is about; each has one at most. The log names it when the fault is over; no key does.

    data_logger_node has further ones: those that its recorder reports, and topics that a trigger needs.
    """

    CONFIGURATION = "configuration"
    TIME = "time"
    INPUT = "input"
    PAIRS = "pairs"
    # of stereo_depth_node
    MATCHING = "matching"
    IMAGES = "images"
    RIGHT_CAMERA = "right camera"
    LOST_IMAGES = "lost images"
    CALIBRATION = "calibration"
    RECTIFICATION = "rectification"
    ROWS = "rows"
    RANGE = "range"
    DEPTH = "depth"
    SCALE = "scale"
    FLOW = "flow"
    CLOUD = "cloud"
    MEMORY = "memory"
    MONO = "mono"
    MODEL = "model"
    ENGINE = "engine"
    BUDGET = "budget"
    # of data_logger_node
    SUBSCRIPTION = "subscription"
    CAMERA_INFO = "camera_info"
    TOPICS = "topics"
    TOPIC_NAMES = "topic names"
    MOTION = "motion"
    DISAGREEMENT = "disagreement"
    DROPS = "drops"


class RecorderFault(Code):
    """What is wrong with a recording, in addition to FaultCode; value of ``reason`` and part of ``faults``."""

    CONFIGURATION = "configuration"  # a parameter was refused, and its default is used
    TOPIC_NAMES = "topic names"  # parameter topics holds what is no name
    INPUT = "input"  # a malformed message of a camera
    CAMERA_INFO = "camera_info"  # no rig: recorded without one
    WAITING = "waiting"  # a topic of parameter topics has no publisher, or another type
    MOTION = "motion"  # images in which no motion can be measured
    DEPTH = "depth/image_rect"  # cannot be read, as the two that follow
    MONO_DEPTH = "mono_depth/image_rect"
    LABELS = "mask/labels"
    DISAGREEMENT = "disagreement"  # stereo and mono depth of different size
    DROPS = "drops"  # pairs or messages were dropped in the last ten seconds
    DISK = "disk"  # nothing can be written
    SPACE = "space"  # quota or free space are used up
    ENCODING = "encoding"  # images that cannot be encoded
    TYPES = "types"  # no definition of a message type was found: recorded without
    MANIFEST = "manifest"  # cannot be written
    DESCRIPTION = "description"  # the manifest lacks rig and weights
    RECOVERY = "recovery"  # unfinished episodes could not be completed
    INTERNAL = "internal"  # a defect of the recorder; the episode is left for fg-depth recover


CALIBRATION_FAULTS = frozenset({FaultCode.NOT_RECTIFIED, FaultCode.ROWS_MISALIGNED})
"""Faults that say that the cameras have moved or are not rectified."""


class SwapState(Code):
    """State of a model and result of the last request to swap it; value of ``swap``, ``flow swap``, ``mono swap``."""

    OFF = "off"  # no such model is configured
    NOT_LOADED = "not loaded"  # loaded when an output first needs it
    LOADING = "loading"  # a model is being loaded; one loaded before still runs
    LOADED = "loaded"  # the requested model runs
    FAILED = "failed"  # the requested model was refused; one loaded before still runs


class DropReason(Code):
    """Why nothing was published for a pair or a left image alone, apart from the reasons of MessageError; see above."""

    REPLACED = "replaced by newer"
    STOPPED = "stopped"
    NO_SUBSCRIBERS = "no subscribers"
    RIGHT_CAMERA_SILENT = "right camera silent"
    LEFT_PUBLISHED = "left image already published"
    NO_MONO_DEPTH = "no mono depth"
    OUT_OF_MEMORY = "out of memory"
    INTERNAL_ERROR = "internal error"


class PacketDrop(Code):
    """Why a packet of a camera's video gave no image, in addition to the reasons of MessageError."""

    NO_KEY_FRAME = "before the first key frame"
    PACKET_LOST = "after a lost packet"
    PACKET_DAMAGED = "damaged video"
    NO_DECODER = "no video decoder"
