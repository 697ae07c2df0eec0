"""Calibrations of real rigs in the formats in which they are published, against OpenCV's own maps."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from fg_depth_ros.data.io.calibration import open_calibration, read_calibration
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry.rectification import Rectification


def numbers(text, *shape):
    """The numbers of a flow sequence, as written there, float64."""
    return np.array([float(word) for word in re.split(r"[\s,\[\]]+", text) if word]).reshape(shape or -1)


@dataclass
class Published:
    """A calibration: its files, the first of which is opened, and its numbers."""

    files: dict[str, str]
    size: tuple[int, int]
    stated: bool  # whether the files state the size
    cameras: tuple[tuple[np.ndarray, np.ndarray], ...]  # K and D, left and right
    rotation: np.ndarray | None = None
    translation: np.ndarray | None = None
    rectified: tuple[np.ndarray, ...] = ()  # R of both and P of both, where they are published
    baseline: float = 0.0
    fisheye: bool = False

    def expected(self):
        """R (3 x 3) of both and P (3 x 4) of both, and the baseline in m."""
        if self.rectified:
            return self.rectified, self.baseline
        (k_left, d_left), (k_right, d_right) = self.cameras
        cameras = (k_left, d_left, k_right, d_right, self.size, self.rotation.copy(), self.translation.copy())
        baseline = float(np.linalg.norm(self.translation))
        if not self.fisheye:
            return cv2.stereoRectify(*cameras, alpha=0)[:4], baseline
        r_left, r_right = cv2.fisheye.stereoRectify(*cameras, flags=cv2.CALIB_ZERO_DISPARITY)[:2]
        # The scale of the left camera's centre, in the middle of the image.
        focal, (width, height) = np.sqrt(k_left[0, 0] * k_left[1, 1]), self.size
        p_left = np.array([[focal, 0, (width - 1) / 2, 0], [0, focal, (height - 1) / 2, 0], [0, 0, 1, 0]])
        p_right = p_left.copy()
        p_right[0, 3] = -focal * baseline
        return (r_left, r_right, p_left, p_right), baseline


# ---- OpenCV -------------------------------------------------------------------------------------------------------


def opencv_matrix(name, rows, columns, data):
    return f"{name}: !!opencv-matrix\n   rows: {rows}\n   cols: {columns}\n   dt: d\n   data: [ {data} ]\n"


def opencv(lens, pose, size, stated="", rest="", header="%YAML:1.0\n"):
    """``lens``: data of M1, D1, M2 and D2; ``pose``: data of R and T; ``rest``: what else is beside them."""
    count = numbers(lens[1]).size
    shapes = {"M1": (3, 3), "D1": (1, count), "M2": (3, 3), "D2": (1, count)}
    intrinsics = "".join(opencv_matrix(name, *shapes[name], data) for name, data in zip(shapes, lens, strict=True))
    extrinsics = opencv_matrix("R", 3, 3, pose[0]) + opencv_matrix("T", 3, 1, pose[1])
    one = {"stereo.yaml": header + stated + intrinsics + extrinsics}
    two = {"intrinsics.yml": header + stated + intrinsics, "extrinsics.yml": header + extrinsics + rest}
    m1, d1, m2, d2 = map(numbers, lens)
    cameras = (m1.reshape(3, 3), d1), (m2.reshape(3, 3), d2)
    return Published(one if stated else two, size, bool(stated), cameras, numbers(pose[0], 3, 3), numbers(pose[1]))


# samples/data/intrinsics.yml of OpenCV. No extrinsics.yml of it was found: R and T, in squares of the board, are those
# of messo/msc_onlab2, whose lenses are nearly the same. Two calibrations are mixed; what is expected is of both, too.
OPENCV_SAMPLE = (
    "5.3480326845051309e+02, 0., 3.3568643204394891e+02, 0.,\n"
    "       5.3480326845051309e+02, 2.4066183054066337e+02, 0., 0., 1.",
    "2.9589439552724328e-01, -1.0354662043042675e+00, 0., 0., 0.",
    "5.3480326845051309e+02, 0., 3.3455744527912015e+02, 0.,\n"
    "       5.3480326845051309e+02, 2.4205324573376600e+02, 0., 0., 1.",
    "-1.6916358306948096e-01, -1.1214173641213163e-01, 0., 0., 0.",
)
# messo/msc_onlab2, intrinsics.yml and extrinsics.yml: the exponents have three digits, as Windows wrote them.
SAMPLE_ON_WINDOWS = (
    "5.3471330014574585e+002, 0., 3.3513862534129089e+002, 0.,\n"
    "       5.3471330014574585e+002, 2.4020611211620974e+002, 0., 0., 1.",
    "-2.7456948645081847e-001, -1.8313659520294744e-002, 0., 0.,\n       0., 0., 0., -2.4476896009779697e-001",
    "5.3471330014574585e+002, 0., 3.3401539789486702e+002, 0.,\n"
    "       5.3471330014574585e+002, 2.4159046721725980e+002, 0., 0., 1.",
    "-2.8073637369061921e-001, 9.3010333969654552e-002, 0., 0., 0.,\n       0., 0., 1.6329629645784025e-002",
)
SAMPLE_POSE = (
    "9.9975845099238192e-001, 5.2938875802113344e-003,\n"
    "       -2.1331067099445510e-002, -4.9129099556328958e-003,\n"
    "       9.9982819095221864e-001, 1.7873217197295808e-002,\n"
    "       2.1422021031658189e-002, -1.7764102327501710e-002,\n"
    "       9.9961269183790236e-001",
    "-3.3385294685588018e+000, 4.8752222150629902e-002,\n       -1.0621612774501729e-001",
)
SAMPLE_REST = (
    opencv_matrix(
        "P2", 3, 4,
        "4.2656306660043305e+002, 0., 3.2185713195800781e+002,\n"
        "       -1.4249656816884699e+003, 0., 4.2656306660043305e+002,\n"
        "       2.4122907447814941e+002, 0., 0., 0., 1., 0.",
    )
    + "images:\n   count: 13\nvalidRoiLeft: [ 27, 42, 571, 407 ]\nvalidRoiRight: [ 40, 32, 573, 407 ]\n"
)  # fmt: skip
# PRiME-project/PRiMEStereoMatch, data/intrinsics.yml and data/extrinsics.yml: a ZED, in squares of the board.
PRIME = (
    "6.8259586467387589e+02, 0., 6.6832683320283036e+02, 0.,\n"
    "       6.8259586467387589e+02, 3.7566346064490097e+02, 0., 0., 1.",
    "-1.6551735011403898e-01, -1.7729580852088530e-02, 0., 0., 0.,\n"
    "       0., 0., -4.3109708144653959e-02, 0., 0., 0., 0., 0., 0.",
    "6.8259586467387589e+02, 0., 6.7068874241490437e+02, 0.,\n"
    "       6.8259586467387589e+02, 3.8154543723806057e+02, 0., 0., 1.",
    "-1.8031784119632333e-01, 3.7242112894992262e-02, 0., 0., 0.,\n"
    "       0., 0., 4.2433891551027711e-03, 0., 0., 0., 0., 0., 0.",
)
PRIME_POSE = (
    "9.9997847339074541e-01, 1.5493935958881428e-04,\n"
    "       -6.5596302417909869e-03, -1.1471772787310176e-05,\n"
    "       9.9976091732417827e-01, 2.1865682233031133e-02,\n"
    "       6.5614498026425380e-03, -2.1865136288445913e-02,\n"
    "       9.9973939763899222e-01",
    "-5.0642389222739590e+00, 2.5098869010049409e-02,\n       -5.6501418395606122e-02",
)
# uw-biorobotics/raven2, support/stereo_cam/example.yaml: an endoscope; one file without a header, with the size.
RAVEN = (
    "2129.619786687963, 0, 194.6913597148132, 0, 2129.619786687963, 254.5470734257748, 0, 0, 1",
    "-0.3602662020569056, 6.349075743842548, 0, 0, -48.67125629593254",
    "2129.619786687963, 0, 192.9905741490559, 0, 2129.619786687963, 255.3330459815897, 0, 0, 1",
    "-0.530398013979122, 13.48094548990451, 0, 0, -146.6499152873182",
)
RAVEN_POSE = (
    "0.9990533135500661, -0.0195034377882911, 0.03888563486779552, 0.01963231262378709, 0.9998029594125495, "
    "-0.002935072562948166, -0.03882072881432221, 0.003695708909822266, 0.9992393570861682",
    "-0.0134076510132, -5.97269692004447e-05, 0.0005903693934450723",
)


# ---- EuRoC and Kalibr ---------------------------------------------------------------------------------------------


def matrix_of(intrinsics):
    fx, fy, cx, cy = numbers(intrinsics)
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


# EuRoC MAV, sensor.yaml of cam0 and cam1 (Burri et al., IJRR 2016): intrinsics, distortion, T_BS.
EUROC = (
    ("458.654, 457.296, 367.215, 248.375", "-0.28340811, 0.07395907, 0.00019359, 1.76187114e-05",
     "0.0148655429818, -0.999880929698, 0.00414029679422, -0.0216401454975,\n"
     "         0.999557249008, 0.0149672133247, 0.025715529948, -0.064676986768,\n"
     "        -0.0257744366974, 0.00375618835797, 0.999660727178, 0.00981073058949,\n"
     "         0.0, 0.0, 0.0, 1.0"),
    ("457.587, 456.134, 379.999, 255.238", "-0.28368365,  0.07451284, -0.00010473, -3.55590700e-05",
     "0.0125552670891, -0.999755099723, 0.0182237714554, -0.0198435579556,\n"
     "         0.999598781151, 0.0130119051815, 0.0251588363115, 0.0453689425024,\n"
     "        -0.0253898008918, 0.0179005838253, 0.999517347078, 0.00786212447038,\n"
     "         0.0, 0.0, 0.0, 1.0"),
)  # fmt: skip


def euroc():
    files = {
        f"cam{index}/sensor.yaml": (
            f"sensor_type: camera\n\nT_BS:\n  cols: 4\n  rows: 4\n  data: [{pose}]\n\nrate_hz: 20\n"
            f"resolution: [752, 480]\ncamera_model: pinhole\nintrinsics: [{intrinsics}] #fu, fv, cu, cv\n"
            f"distortion_model: radial-tangential\ndistortion_coefficients: [{distortion}]\n\n"
        )
        for index, (intrinsics, distortion, pose) in enumerate(EUROC)
    }
    left, right = (numbers(pose, 4, 4) for _, _, pose in EUROC)
    transform = np.linalg.inv(right) @ left
    cameras = tuple((matrix_of(intrinsics), numbers(distortion)) for intrinsics, distortion, _ in EUROC)
    return Published(files, (752, 480), True, cameras, transform[:3, :3], transform[:3, 3])


# rpng/open_vins, config/rs_d455/kalibr_imucam_chain.yaml: a RealSense D455. Intrinsics, distortion, T_cam_imu,
# T_cn_cnm1; rows of the first three.
D455 = (
    ("320.17488748238287, 320.0283628174116, 314.0668795454674, 180.36893447271257",
     "0.0019712980218442736, -0.0011090942743057983, -0.0006211171700097682, -0.0034327653409294196",
     ("0.9999942992129773, -0.0006837030318090254, 0.003306673813320594, 0.01734357246126995",
      "0.0006819183997666188, 0.9999996212593953, 0.000540803438387852, -0.008519633421954392",
      "-0.003307042309899398, -0.0005385454736672996, 0.9999943867042107, -0.018723905687986195"), None),
    ("319.69438067702725, 320.1948319604044, 313.46161305104766, 180.7178241492703",
     "0.00415520544025779, -0.003951065114859482, -0.00042589527047545586, -0.00442085250772721",
     ("0.9999855287596171, -0.0003605813977934117, 0.00536770457504073, -0.07667191595392714",
      "0.000365189906339375, 0.9999995655732808, -0.0008576068926449692, -0.008542662389807396",
      "-0.005367393006074334, 0.0008595547135404881, 0.9999852260198713, -0.017739927010989854"),
     ("0.9999978238338454, 0.00032423014342537217, 0.0020608741811117422, -0.09397410073693341",
      "-0.00032135073657469737, 0.9999989720658036, -0.0013973550168239824, -4.36282992379309e-05",
      "-0.002061325127286215, 0.0013966897125111987, 0.99999690009348, 0.0010315706607051294")),
)  # fmt: skip
# rpng/open_vins, config/tum_vi/kalibr_imucam_chain.yaml: the cameras of TUM-VI (Schubert et al., IROS 2018).
TUM_VI = (
    ("190.97847715128717, 190.9733070521226, 254.93170605935475, 256.8974428996504",
     "0.0034823894022493434, 0.0007150348452162257, -0.0020532361418706202, 0.00020293673591811182",
     ("-0.9995250378696743, 0.029615343885863205, -0.008522328211654736, 0.04727988224914392",
      "0.0075019185074052044, -0.03439736061393144, -0.9993800792498829, -0.047443232143367084",
      "-0.02989013031643309, -0.998969345370175, 0.03415885127385616, -0.0681999605066297"), None),
    ("190.44236969414825, 190.4344384721956, 252.59949716835982, 254.91723064636983",
     "0.0034003170790442797, 0.001766278153469831, -0.00266312569781606, 0.0003299517423931039",
     ("-0.9995110484978581, 0.030299116376600627, -0.0077218830287333565, -0.053697434688869734",
      "0.008104079263822521, 0.012511643720192351, -0.9998888851620987, -0.046131737923635924",
      "-0.030199136245891378, -0.9994625667418545, -0.012751072573940885, -0.07149261284195751"), None),
)  # fmt: skip


def kalibr(chain, size, model):
    """One file; T_cn_cnm1 counts where there is one."""
    text, transforms = "%YAML:1.0 # what OpenCV asks for\n", []
    for index, (intrinsics, distortion, to_camera, to_right) in enumerate(chain):
        text += f"\ncam{index}:\n"
        for name, rows in (("T_cam_imu", to_camera), ("T_cn_cnm1", to_right)):
            if rows is not None:
                text += f"  {name}: # 4 x 4\n" + "".join(f"    - [{row}]\n" for row in (*rows, "0.0, 0.0, 0.0, 1.0"))
        text += (
            f"  cam_overlaps: [{1 - index}]\n  camera_model: pinhole\n  distortion_coeffs: [{distortion}]\n"
            f"  distortion_model: {model}\n  intrinsics: [{intrinsics}]\n  resolution: [{size[0]}, {size[1]}]\n"
            f"  rostopic: /cam{index}/image_raw\n  timeshift_cam_imu: 0.004639958649183853\n"
        )
        transforms.append(np.vstack([numbers(",".join(to_camera), 3, 4), [0, 0, 0, 1]]))
    transform = transforms[1] @ np.linalg.inv(transforms[0])
    if (chained := chain[1][3]) is not None:
        transform = numbers(",".join(chained), 3, 4)
    cameras = tuple((matrix_of(intrinsics), numbers(distortion)) for intrinsics, distortion, *_ in chain)
    return Published(
        {"kalibr_imucam_chain.yaml": text}, size, True, cameras, transform[:3, :3], transform[:3, 3],
        fisheye=model == "equidistant",
    )  # fmt: skip


# ---- ROS ----------------------------------------------------------------------------------------------------------

ROS_KEYS = {
    "camera_matrix": (3, 3), "distortion_coefficients": (1, 5), "rectification_matrix": (3, 3),
    "projection_matrix": (3, 4),
}  # fmt: skip


def ros(size, cameras, names=("narrow_stereo/left", "narrow_stereo/right")):
    """left.yaml and right.yaml; ``cameras``: data of K, D, R and P of each."""
    files = {}
    for side, name, camera in zip(("left", "right"), names, cameras, strict=True):
        text = f"image_width: {size[0]}\nimage_height: {size[1]}\ncamera_name: {name}\n"
        for (key, (rows, columns)), data in zip(ROS_KEYS.items(), camera, strict=True):
            text += "distortion_model: plumb_bob\n" if key == "distortion_coefficients" else ""
            text += f"{key}:\n  rows: {rows}\n  cols: {columns}\n  data: [{data}]\n"
        files[f"{side}.yaml"] = text
    lenses = tuple((numbers(k, 3, 3), numbers(d)) for k, d, _, _ in cameras)
    rotations = tuple(numbers(r, 3, 3) for _, _, r, _ in cameras)
    projections = tuple(numbers(p, 3, 4) for *_, p in cameras)
    baseline = -projections[1][0, 3] / projections[1][0, 0]
    return Published(files, size, True, lenses, rectified=(*rotations, *projections), baseline=baseline)


# virusapex/side_x_side_stereo, calibration/left.yaml and right.yaml: as camera_calibration writes arrays today.
SIDE_BY_SIDE = (
    ("836.43394,   0.     , 660.00529,\n           0.     , 831.46492, 522.99179,\n"
     "           0.     ,   0.     ,   1.     ",
     "-0.361451, 0.100867, 0.000652, 0.003983, 0.000000",
     " 0.99998404, -0.00543839,  0.00152885,\n          0.0054299 ,  0.99997012,  0.00550266,\n"
     "         -0.00155873, -0.00549427,  0.99998369",
     "727.05587,   0.     , 682.41444,   0.     ,\n           0.     , 727.05587, 528.28542,   0.     ,\n"
     "           0.     ,   0.     ,   1.     ,   0.     "),
    ("833.6247 ,   0.     , 645.46647,\n           0.     , 829.98537, 498.48897,\n"
     "           0.     ,   0.     ,   1.     ",
     "-0.358593, 0.101125, 0.002683, 0.003616, 0.000000",
     " 0.99992619, -0.00540036, -0.01088364,\n          0.00534043,  0.99997046, -0.00552765,\n"
     "          0.01091317,  0.00546912,  0.99992549",
     "727.05587,   0.     , 682.41444, -39.90555,\n           0.     , 727.05587, 528.28542,   0.     ,\n"
     "           0.     ,   0.     ,   1.     ,   0.     "),
)  # fmt: skip
# TankyFranky/PS4_Stereo_ROS_SLAM, calibration/left.yaml and right.yaml.
PLAYSTATION = (
    ("427.01341,   0.     , 311.09375,\n           0.     , 427.84206, 207.91179,\n"
     "           0.     ,   0.     ,   1.     ",
     "-0.006649, -0.036513, 0.000879, -0.001781, 0.000000",
     " 0.99999936, -0.00006695, -0.00112989,\n          0.00006833,  0.99999925,  0.0012244 ,\n"
     "          0.00112981, -0.00122448,  0.99999861",
     "432.62633,   0.     , 316.29929,   0.     ,\n           0.     , 432.62633, 206.75616,   0.     ,\n"
     "           0.     ,   0.     ,   1.     ,   0.     "),
    ("428.51521,   0.     , 315.17831,\n           0.     , 428.31858, 202.93596,\n"
     "           0.     ,   0.     ,   1.     ",
     "-0.003946, -0.051100, 0.001996, -0.001918, 0.000000",
     " 0.99989449, -0.00064095, -0.01451185,\n          0.00062318,  0.99999905, -0.00122899,\n"
     "          0.01451263,  0.00121982,  0.99989394",
     "432.62633,   0.     , 316.29929,  -35.11266,\n           0.     , 432.62633, 206.75616,   0.     ,\n"
     "           0.     ,   0.     ,   1.     ,   0.     "),
)  # fmt: skip
# willdzeng/zed_cpu_ros, config/left.yaml and right.yaml: one line for each matrix, as camera_calibration of ROS 1. The
# two are of different commits, and their baseline of 0.516 m is that of no ZED: it is only read here.
ZED_ON_ROS = (
    ("696.262741, 0.000000, 664.582790, 0.000000, 696.715205, 331.199610, 0.000000, 0.000000, 1.000000",
     "-0.174138, 0.025148, -0.000023, 0.001127, 0.000000",
     "0.999987, 0.000814, 0.005020, -0.000801, 0.999996, -0.002658, -0.005022, 0.002654, 0.999984",
     "696.388858, 0.000000, 648.123726, 0.000000, 0.000000, 696.388858, 345.289268, 0.000000, 0.000000, 0.000000, "
     "1.000000, 0.000000"),
    ("697.561169, 0.000000, 619.174651, 0.000000, 697.422254, 364.054801, 0.000000, 0.000000, 1.000000",
     "-0.167196, 0.022090, 0.000330, -0.000437, 0.000000",
     "0.999946, -0.000419, -0.010401, 0.000447, 0.999996, 0.002653, 0.010400, -0.002658, 0.999942",
     "696.388858, 0.000000, 648.123726, -359.466975, 0.000000, 696.388858, 345.289268, 0.000000, 0.000000, 0.000000, "
     "1.000000, 0.000000"),
)  # fmt: skip


def side_by_side(names=("narrow_stereo/left", "narrow_stereo/right")):
    return ros((1280, 960), SIDE_BY_SIDE, names)


PUBLISHED = {
    "OpenCV's sample": opencv(OPENCV_SAMPLE, SAMPLE_POSE, (640, 480)),
    "OpenCV's sample, 8 coefficients, Windows": opencv(SAMPLE_ON_WINDOWS, SAMPLE_POSE, (640, 480), rest=SAMPLE_REST),
    "OpenCV, 14 coefficients": opencv(PRIME, PRIME_POSE, (1280, 720), header="%YAML:1.0\n---\n"),
    "OpenCV, one file without header": opencv(
        RAVEN, RAVEN_POSE, (640, 480), stated="size:\n  width: 640\n  height: 480\n", header=""
    ),
    "EuRoC": euroc(),
    "Kalibr, RealSense D455": kalibr(D455, (640, 360), "radtan"),
    "Kalibr, TUM-VI": kalibr(TUM_VI, (512, 512), "equidistant"),
    "ROS, narrow_stereo": side_by_side(),
    "ROS, one name for both": side_by_side(("narrow_stereo", "narrow_stereo")),
    "ROS, PlayStation camera": ros((632, 400), PLAYSTATION, ("psvr/left", "psvr/right")),
    "ROS 1, ZED": ros((1280, 720), ZED_ON_ROS, ("camera/left", "narrow_stereo/right")),
}
BASELINES = {  # as published, in m or in squares of the board
    "OpenCV's sample": 3.3406, "EuRoC": 0.11007784, "Kalibr, RealSense D455": 0.09398, "Kalibr, TUM-VI": 0.1011,
    "ROS, narrow_stereo": 0.0549, "ROS, PlayStation camera": 0.0812,
}  # fmt: skip


def write(folder, published):
    for name, text in published.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / next(iter(published.files))


def decoded(maps):
    """Float maps of fixed-point ones, H x W x 2: 5 bits of a pixel's fraction each way."""
    whole, fraction = maps
    return whole + np.stack([fraction & 31, fraction >> 5 & 31], axis=-1) / 32


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_calibration_gives_the_rig_and_maps_of_opencv(tmp_path, name):
    published = PUBLISHED[name]
    found = open_calibration(write(tmp_path, published), None if published.stated else published.size)
    assert isinstance(found, Rectification)
    assert found.size == published.size
    (r_left, r_right, p_left, p_right), baseline = published.expected()
    np.testing.assert_allclose(found.rig.P_left(), p_left, atol=1e-7)
    np.testing.assert_allclose(found.rig.P_right(), p_right, atol=1e-7)
    assert found.rig.baseline == pytest.approx(baseline, rel=1e-9)
    assert found.rig.baseline == pytest.approx(BASELINES.get(name, baseline), abs=5e-5)
    undistort = cv2.fisheye.initUndistortRectifyMap if published.fisheye else cv2.initUndistortRectifyMap
    model = "equidistant" if published.fisheye else "plumb_bob"
    infos = []
    for side, ((k, d), r, p) in enumerate(zip(published.cameras, (r_left, r_right), (p_left, p_right), strict=True)):
        np.testing.assert_allclose(found.rotations[side], r, atol=1e-9)
        expected = np.stack(undistort(k, d, r, p[:, :3], published.size, cv2.CV_32FC1), axis=-1)
        np.testing.assert_allclose(decoded(found.maps[side]), expected, atol=1 / 32)
        infos.append(
            SimpleNamespace(
                width=published.size[0], height=published.size[1], distortion_model=model, d=d, k=k.ravel(),
                r=r.ravel(), p=p.ravel(),
            )
        )  # fmt: skip
    same = Rectification.from_camera_info(*infos)  # as the drivers of these rigs send them
    for one, other in zip(found.maps, same.maps, strict=True):
        assert np.abs(decoded(one) - decoded(other)).max() <= 1 / 32


def test_a_translation_in_squares_of_the_board_is_doubted(tmp_path, caplog):
    open_calibration(write(tmp_path, PUBLISHED["OpenCV's sample"]), (640, 480))
    assert "intrinsics.yml: the baseline is 3.34057 m" in caplog.text
    assert "squares of the board" in caplog.text
    caplog.clear()
    open_calibration(write(tmp_path, PUBLISHED["Kalibr, TUM-VI"]))
    assert not caplog.text


# ---- ROS files as people edit them --------------------------------------------------------------------------------

MODEL = "distortion_model: plumb_bob\n"


@pytest.mark.parametrize("change", [
    lambda text: text.replace("data: [836.43394,   0.     ,", "data: [ 725., 0., ").replace("\n", " \n"),
    lambda text: f"# written by hand\n{text}binning_x: 1\nroi: \n  x_offset: 0\n  do_rectify: True\n",
    lambda text: text.replace(MODEL, ""),  # ROS takes that for plumb_bob
    lambda text: text.replace("\n", "\r\n"),
    lambda text: "".join(sorted(re.findall(r"^\w[^\n]*\n(?: [^\n]*\n)*", text, re.M))),
])  # fmt: skip
def test_variants_of_ros_files_are_read_as_they_are_meant(tmp_path, change):
    published = side_by_side(("narrow_stereo", "narrow_stereo"))
    published.files = {name: change(text) for name, text in published.files.items()}
    path = write(tmp_path, published)
    found = open_calibration(path)
    focal = 725.0 if "725." in published.files["left.yaml"] else 836.43394
    assert [camera.matrix[0, 0] for camera in found.cameras] == [focal, 833.6247]
    assert found.cameras[0].distortion.tolist() == [-0.361451, 0.100867, 0.000652, 0.003983, 0.0]
    assert found.rig.baseline == pytest.approx(39.90555 / 727.05587)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("before", "after", "words"), [
    ("distortion_coefficients:", "distortion_coefficents:",
     "has 'distortion_coefficents' and no 'distortion_coefficients'"),
    ("distortion_coefficients:", "distortion_coeffs:", "has 'distortion_coeffs' and no 'distortion_coefficients'"),
    ("distortion_coefficients:", "lens:", "lacks distortion_coefficients"),
    ("camera_matrix:", "camera_matrx:", "has 'camera_matrx' and no 'camera_matrix'"),
    ("camera_matrix:", "K:", "lacks camera_matrix"),
    ("rectification_matrix:", "rectificaton_matrix:", "has 'rectificaton_matrix' and no 'rectification_matrix'"),
    ("rectification_matrix:", "R:", "lacks rectification_matrix"),
    ("distortion_model:", "distorsion_model:", "has 'distorsion_model' and no 'distortion_model'"),
    ("image_width:", "image_widht:", "has 'image_widht' and no 'image_width'"),
    ("image_width:", "width:", "lacks image_width"),
    ("image_width: 1280", "image_width: wide", "image_width is 'wide'"),
    ("image_height: 960", "image_height: -960", "image_height is -960"),
    ("  cols: 5\n  data:", "  cols: 5\n  dat:", "distortion_coefficients has no 'data'"),
    ("  cols: 4\n  data:", "  cols: 4\n  dat:", "projection_matrix has no 'data'"),
    ("           0.     ,   0.     ,   1.     ]\ndist", "           0.     ,   0.     ]\ndist",
     "camera_matrix.data has 8 numbers, expected 9"),
    ("0.     , 727.05587,", "727.05587,", "projection_matrix.data has 11 numbers, expected 12"),
    ("0.     , 727.05587,", "0.       727.05587,", "projection_matrix.data holds '0.       727.05587', not a number"),
])  # fmt: skip
def test_a_wrong_key_or_value_of_a_ros_file_is_named_with_the_file(tmp_path, side, before, after, words):
    published = side_by_side()
    name = f"{side}.yaml"
    assert before in published.files[name]
    published.files[name] = published.files[name].replace(before, after)
    path = write(tmp_path, published)
    with pytest.raises(FileError) as caught:
        open_calibration(path)
    assert str(caught.value).startswith(f"{tmp_path / name}: {words}")


def test_a_ros_file_without_the_projection_matrix_is_named(tmp_path):
    published = side_by_side()
    published.files["right.yaml"] = published.files["right.yaml"].replace("projection_matrix:", "projecton_matrix:")
    path = write(tmp_path, published)
    for read in (open_calibration, read_calibration):
        with pytest.raises(FileError, match=r"right\.yaml: has 'projecton_matrix' and no 'projection_matrix'"):
            read(path)
    published.files["left.yaml"] = published.files["left.yaml"].replace("projection_matrix:", "P:")
    with pytest.raises(FileError, match=r"left\.yaml: lacks projection_matrix"):
        read_calibration(write(tmp_path, published))
