"""The parameters of stereo_depth_node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fg_depth_ros.geometry.rectification import RECTIFY
from fg_depth_ros.nodes.common.input_topics import SYNC_PARAMETERS, image_transport
from fg_depth_ros.nodes.common.parameters import Alias, AtStart, Parameter, ParameterTable

CLOUD_EVERYWHERE = 10000.0
"""Bound of the box of ``points2`` that bounds nothing, m."""
MONO_NETWORKS = ("depthnet_efficient", "depthnet_lite", "depthnet_r18", "depthnet_r50")

STEREO_DEPTH = ParameterTable(
    "stereo_depth_node",
    "Stereo pair in, disparity, depth, masks, flow and points out; while the right camera is silent, depth "
    "from the left image alone. What is changed at run time takes effect with a later pair; a new model is loaded "
    "and warmed up first, while the current one runs.",
    (
        AtStart("autostart", True,
                "Configure and activate by itself at start. Without it, use the lifecycle services (`ros2 lifecycle "
                "set`)."),
        Parameter("model", "flownet_stereo",
                  "Matching method: the stereo network, a flow network, or OpenCV's block matching: semi-global (sgbm) "
                  "or local (bm). Of the flow networks, weights of flownet_lite alone come with the package.",
                  choices=("flownet_stereo", "flownet2", "flownet2_c", "flownet2_cs", "flownet2_css", "flownet2_s",
                           "flownet2_sd", "flownet_c", "flownet_lite", "flownet_s", "sgbm", "bm"),
                  elsewhere=dict.fromkeys(MONO_NETWORKS, "estimates depth from one image: set mono_model to it")),
        Parameter("depth_weights", "",
                  "File with the network's weights (.safetensors), read again whenever this is set. Empty: the weights "
                  "that come with the package."),
        Parameter("device", "auto", "Where the network runs: `cpu`, `cuda:N`, or `auto` (a GPU if there is one)."),
        Parameter("engine", "auto",
                  "Engine of the networks. `auto`: OpenVINO on a CPU where it is installed, else PyTorch. PyTorch also "
                  "replaces an engine that is missing or fails, with the fault `engine failed`.",
                  choices=("auto", "torch", "openvino", "onnxruntime", "tensorrt")),
        Parameter("precision", "auto",
                  "Arithmetic of the networks. `auto`: the fastest that engine and device compute natively. `int8` is "
                  "for weights that are calibrated for it.",
                  choices=("auto", "float32", "bfloat16", "float16", "int8")),
        Parameter("inference_scale", 1.0,
                  "Images are resized by this factor for matching only. Smaller is faster, reaches nearer, and is less "
                  "precise. `auto`: the largest factor, of 0.25 to 1, at which the search reaches min_depth and pairs "
                  "are matched within time_budget.",
                  choices=("auto",), minimum=0.1, maximum=4.0),
        Parameter("time_budget", 0.0,
                  "With `inference_scale: auto`: longest time to match a pair. Where 20 pairs take longer (median), "
                  "the factor for images of their size is lowered, and stays so until a parameter of the model is set "
                  "again. 0: no limit.",
                  unit="s", minimum=0.0, maximum=60.0),
        Parameter("min_disparity", "auto",
                  "Where the search begins, in image disparity. `auto`: at infinity, cx_left - cx_right, rounded down.",
                  unit="px", choices=("auto",), minimum=-2048, maximum=2048),
        Parameter("max_disparity", 192,
                  "Disparities searched by sgbm and bm, at the matched size, where they may reach from -2047 to 2047. "
                  "flownet_stereo has the range of its weights; flow networks have none.",
                  unit="px", minimum=16, maximum=4096),
        Parameter("correlation_window_size", "auto",
                  "sgbm and bm: side of the window that is compared, odd. `auto`: 5 for sgbm, 15 for bm.",
                  unit="px", choices=("auto",), minimum=5, maximum=255),
        Parameter("prefilter_cap", "auto",
                  "sgbm and bm: bound on the filtered grey values that are compared. `auto`: 15 for sgbm, 31 for bm.",
                  choices=("auto",), minimum=1, maximum=63),
        Parameter("texture_threshold", 10, "bm: windows with less texture have no disparity.",
                  minimum=0, maximum=10000),
        Parameter("uniqueness_ratio", 10.0,
                  "sgbm and bm: how much better than the second best the best match must be; whole numbers count.",
                  "%", 0.0, 100.0),
        Parameter("speckle_size", 100, "sgbm and bm: regions of equal disparity with fewer pixels are removed.",
                  minimum=0, maximum=1000),
        Parameter("speckle_range", "auto",
                  "sgbm and bm: disparities that differ by more are of different regions; in px for sgbm and in "
                  "sixteenths of a px for bm, as OpenCV has them. `auto`: 2 px.",
                  choices=("auto",), minimum=0, maximum=31),
        Parameter("disp12_max_diff", 1, "sgbm: largest difference of its own left-right check.", "px", 0, 128),
        Parameter("P1", 200.0,
                  "sgbm: penalty on a disparity that changes by 1 px to the next pixel, per image channel.",
                  minimum=0.0, maximum=4000.0),
        Parameter("P2", 800.0,
                  "sgbm: penalty on a disparity that changes by more, per image channel.",
                  minimum=0.0, maximum=4000.0),
        Parameter("sgbm_mode", 2, "sgbm: 0 SGBM, 1 HH, 2 SGBM_3WAY, 3 HH4 of OpenCV.", minimum=0, maximum=3),
        Parameter("min_depth", 0.1, "Nearer depth is labelled out of range.", "m", 0.01, 1000.0),
        Parameter("max_depth", 80.0,
                  "Farther depth is labelled out of range; at most 65.535 counts with `depth_encoding: 16UC1`.",
                  "m", 0.02, 10000.0),
        Parameter("left_right_check", "one_pass",
                  "How pixels that the right camera does not see are found: from one disparity map, by matching twice "
                  "(slower, stricter), or not at all.", choices=("one_pass", "two_pass", "off")),
        Parameter("left_right_threshold", 1.5, "Largest disagreement of the check.", "px", 0.1, 100.0),
        Parameter("refinement", "semi_global",
                  "What a stereo network finds is refined by semi-global matching within 2 px around it (more where "
                  "`inference_scale` is below 1). `off` saves its time.", choices=("semi_global", "off")),
        Parameter("photometric_check", True,
                  "Label pixels unsupported where the two images do not support the match: too little texture or "
                  "light, a covered camera, unrelated views. Only with it are these named in `/diagnostics`; one "
                  "picture on both sides always is."),
        Parameter("max_vertical", 1.0,
                  "Pixels whose match by a flow network lies farther above or below their row are labelled vertical "
                  "flow. 0 switches it off.", "px", 0.0, 100.0),
        Parameter("max_sigma", 7.5,
                  "Pixels whose disparity is less certain than this standard deviation are labelled low confidence. 0 "
                  "switches it off.", "px", 0.0, 100.0),
        Parameter("flow_model", "flownet_lite",
                  "Method for the flow between frames (`temporal_flow/*`) and for the rectification check. `off`: "
                  "neither.", choices=("flownet_lite", "dis", "farneback", "off")),
        Parameter("flow_weights", "",
                  "File with the flow network's weights (.safetensors), read again whenever this is set. Empty: the "
                  "weights that come with the package."),
        Parameter("mono_model", "auto",
                  "Network for depth from the left image alone: for `mono_depth/image_rect`, `fill_from_mono` and "
                  "`mono_timeout`. It is loaded when one of them first needs it. `auto`: the one that `mono_weights` "
                  "belongs to, `depthnet_efficient` without. `off`: none of them.",
                  choices=("auto", *MONO_NETWORKS, "off")),
        Parameter("mono_weights", "",
                  "File with that network's weights (.safetensors), read again whenever this is set. Empty: the "
                  "weights that come with the package."),
        Parameter("fill_from_mono", False,
                  "Fill the holes of the stereo depth from mono depth, brought to the scale of the stereo depth. "
                  "Filled pixels are labelled in `mask/labels`; they have no disparity and no sigma."),
        Parameter("mono_timeout", 2.0,
                  "When nothing came from the right camera for this long while the left one goes on, depth comes from "
                  "the left image alone, with a warning, until there is a pair again. 0 switches it off.",
                  "s", 0.0, 3600.0),
        Parameter("rectification_check_period", 10.0,
                  "How often the vertical flow from left to right is measured, which shows cameras that have moved. 0 "
                  "switches it off.", "s", 0.0, 86400.0),
        Parameter("rectification_check_median", 1.0,
                  "Warn when the running median of the vertical flow is larger.", "px", 0.05, 100.0),
        Parameter("rectification_check_tilt", 2.0,
                  "Warn when the vertical flow changes by more from the left to the right border.", "px", 0.05, 100.0),
        Parameter("rectify", "auto",
                  "Rectify the images by K, D, R and P of their camera_info. `auto`: where their topics are not named "
                  "as rectified (`image_rect*`) and D is not zero or R not the identity. `on`: always. `off`: never.",
                  choices=RECTIFY),
        image_transport("`compressed` subscribes to `<image topic>/compressed` (JPEG, PNG, or video by its format), "
                        "`ffmpeg` and `foxglove` to the video that image_transport's plugins of these names send."),
        *SYNC_PARAMETERS,
        AtStart("allow_unstamped", False,
                "Pair messages whose stamp is 0 by their time of arrival, as with `approximate_sync`; outputs have "
                "that stamp. Without it such messages form no pair."),
        AtStart("sync_queue_size", 10,
                "Messages kept per input while their partners have not come.", minimum=1, maximum=1000),
        AtStart("use_system_default_qos", False,
                "Subscribe to the inputs with the default quality of service of the middleware, which its profile file "
                "sets, not with that of sensor data (best effort, the newest message)."),
        Parameter("stall_timeout", 3.0,
                  "Warn, with the reason, when an output has a subscriber and no pair arrived for this long.",
                  "s", 0.1, 3600.0),
        Parameter("mono16_white", "auto",
                  "Value of an image of 16 bits that counts as white; 4095 for a camera that delivers 12 bits. `auto`: "
                  "the 10, 12, 14 or 16 bits that hold the largest value so far; it is logged, and later only raised.",
                  choices=("auto",), minimum=255, maximum=65535),
        Parameter("depth_encoding", "32FC1",
                  "Encoding of `depth/image_rect`: metres with NaN, or millimetres with 0, for pixels without depth.",
                  choices=("32FC1", "16UC1")),
        AtStart("publish_compressed", False,
                "Publish outputs compressed, too, as image_transport names them: depth and mono depth on "
                "`/compressedDepth`, the masks (PNG) and the coloured images (JPEG) on `/compressed`."),
        Parameter("jpeg_quality", 95, "Quality of JPEG with `publish_compressed`.", minimum=1, maximum=100),
        Parameter("cloud_decimation", 2, "`points2` holds every n-th pixel of every n-th row.", "px", 1, 32),
        Parameter("cloud_max_depth", 80.0, "`points2` leaves out points farther away.", "m", 0.02, 10000.0),
        Parameter("cloud_voxel", 0.0,
                  "`points2` holds one point for each occupied cube with sides of this length, the mean of its points "
                  "and colours, and is not organised. Less than 0.001 switches it off.", "m", 0.0, 100.0),
        AtStart("cloud_frame", "",
                "Frame of the box of `cloud_min_x` to `cloud_max_z`, such as `base_link`; needs `/tf` and the package "
                "tf2_msgs. Empty: the left camera's optical frame, x right, y down, z forward. The points stay in the "
                "camera's frame."),
        *(
            Parameter(f"cloud_{end}_{axis}", sign * CLOUD_EVERYWHERE,
                      f"`points2` holds points whose {axis} in `cloud_frame` is at {word} this, and is not organised. "
                      f"{sign * CLOUD_EVERYWHERE:.0f} is no bound.", "m", -CLOUD_EVERYWHERE, CLOUD_EVERYWHERE)
            for axis in "xyz"
            for end, sign, word in (("min", -1, "least"), ("max", 1, "most"))
        ),
        Parameter("use_color", True, "`points2` has the colours of the left image, in the field `rgb`."),
        Parameter("avoid_point_cloud_padding", True,
                  "A point of `points2` takes 16 bytes, or 12 without colours. False: 32 and 16, as PCL has points in "
                  "memory."),
    ),
    renamed={f"row_check_{what}": f"rectification_check_{what}" for what in ("period", "median", "tilt")},
    aliases=(  # of stereo_image_proc; its other names are the same here
        Alias("stereo_algorithm", "model", {0: "bm", 1: "sgbm"}),
        Alias("disparity_range", "max_disparity"),
        Alias("full_dp", "sgbm_mode", {False: 0, True: 1}),
        Alias("approximate_sync_tolerance_seconds", "sync_slop", {0.0: None},
              "0 is no bound in stereo_image_proc; there is always one here"),
        Alias("queue_size", "sync_queue_size"),
    ),
    ignored={"prefilter_size": "the filter of OpenCV's block matching, Sobel's, has one size"},
)  # fmt: skip


def cloud_problem(values: Mapping[str, Any]) -> str | None:
    """Return why the box of ``points2`` is none, or None."""
    for axis in "xyz":
        low, high = values[f"cloud_min_{axis}"], values[f"cloud_max_{axis}"]
        if low >= high:
            return f"cloud_min_{axis} = {low:g} m is not below cloud_max_{axis} = {high:g} m: no point lies between"
    return None
