"""FlowNet's layers a second time, from the papers' tables and without any module of the package.

``public_tensors`` makes random weights under the names and in the shapes that the public files have; the functions
below compute the answer from such a dictionary with plain convolutions and loops.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

ENCODER = {  # name: channels in, channels out, kernel, stride
    "conv1": (3, 64, 7, 2), "conv2": (64, 128, 5, 2), "conv3": (128, 256, 5, 2), "conv3_1": (256, 256, 3, 1),
    "conv4": (256, 512, 3, 2), "conv4_1": (512, 512, 3, 1), "conv5": (512, 512, 3, 2), "conv5_1": (512, 512, 3, 1),
    "conv6": (512, 1024, 3, 2), "conv6_1": (1024, 1024, 3, 1),
}  # fmt: skip
SMALL = {
    "conv0": (6, 64, 3, 1), "conv1": (64, 64, 3, 2), "conv1_1": (64, 128, 3, 1), "conv2": (128, 128, 3, 2),
    "conv2_1": (128, 128, 3, 1), "conv3": (128, 256, 3, 2), **{k: v for k, v in ENCODER.items() if k > "conv3"},
}  # fmt: skip
DECODER = (
    (5, 512, 512),
    (4, 512, 256),
    (3, 256, 128),
    (2, 128, 64),
)  # level, channels of the skip, of the deconvolution
FUSION = {
    "conv0": (11, 64), "conv1": (64, 64), "conv1_1": (64, 128), "conv2": (128, 128), "conv2_1": (128, 128)
}  # fmt: skip
FLOWNET2 = {
    "FlowNet2CS": ("flownetc", "flownets_1"),
    "FlowNet2CSS": ("flownetc", "flownets_1", "flownets_2"),
    "FlowNet2": ("flownetc", "flownets_1", "flownets_2", "flownets_d", "flownetfusion"),
}
ARCHITECTURES = (
    "flownets",
    "flownets_bn",
    "flownetc",
    "flownetc_bn",
    "FlowNet2S",
    "FlowNet2C",
    "FlowNet2SD",
    *FLOWNET2,
)
MEAN = torch.tensor([0.45, 0.432, 0.411]).view(1, 3, 1, 1)


def public_tensors(arch: str, width: float = 1 / 16, seed: int = 0, counted: bool = True) -> dict[str, torch.Tensor]:
    """Random weights as a public file of this architecture holds them."""
    generator = torch.Generator().manual_seed(seed)
    nvidia, batch_norm = arch.startswith("FlowNet2"), arch.endswith("_bn")
    tensors: dict[str, torch.Tensor] = {}

    def channels(count: int) -> int:
        return max(1, round(count * width))

    def uniform(*shape: int, low: float = -1.0, high: float = 1.0) -> torch.Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    def layer(key: str, cin: int, cout: int, kernel: int, bias: bool, transposed: bool = False) -> None:
        size = (3 / (cin * kernel * kernel)) ** 0.5 * (2 if transposed else 1)
        shape = (cin, cout, kernel, kernel) if transposed else (cout, cin, kernel, kernel)
        tensors[f"{key}.weight"] = size * uniform(*shape)
        if bias:
            tensors[f"{key}.bias"] = uniform(cout, low=-0.2, high=0.2)

    def conv(key: str, cin: int, cout: int, kernel: int) -> None:
        layer(f"{key}.0", cin, cout, kernel, bias=not batch_norm)
        if batch_norm:
            tensors[f"{key}.1.weight"], tensors[f"{key}.1.bias"] = uniform(cout, low=0.5, high=1.5), uniform(cout)
            tensors[f"{key}.1.running_mean"] = uniform(cout, low=-0.3, high=0.3)
            tensors[f"{key}.1.running_var"] = uniform(cout, low=0.5, high=2.0)
            if counted:
                tensors[f"{key}.1.num_batches_tracked"] = torch.tensor(7)

    def net(prefix: str, kind: str, inputs: int, flow_bias: bool) -> None:
        for name, (cin, cout, kernel, _) in (SMALL if kind == "d" else ENCODER).items():
            entering = inputs if cin in (3, 6) else channels(cin)
            if name == "conv3_1" and kind == "c":
                conv(f"{prefix}conv_redir", channels(256), channels(32), 1)
                entering = channels(32) + 441
            conv(f"{prefix}{name}", entering, channels(cout), kernel)
        layer(f"{prefix}predict_flow6", channels(1024), 2, 3, nvidia)
        below = channels(1024)
        for level, skip, decoded in DECODER:
            joined = channels(skip) + channels(decoded) + 2
            layer(f"{prefix}deconv{level}.0", below, channels(decoded), 4, nvidia, transposed=True)
            layer(f"{prefix}upsampled_flow{level + 1}_to_{level}", 2, 2, 4, flow_bias, transposed=True)
            if kind == "d":
                layer(f"{prefix}inter_conv{level}.0", joined, channels(decoded), 3, True)
            layer(f"{prefix}predict_flow{level}", channels(decoded) if kind == "d" else joined, 2, 3, nvidia)
            below = joined

    def fusion(prefix: str) -> None:
        for name, (cin, cout) in FUSION.items():
            conv(f"{prefix}{name}", cin if cin == 11 else channels(cin), channels(cout), 3)
        below = channels(128)
        for level, skip, decoded in ((1, 128, 32), (0, 64, 16)):
            joined = channels(skip) + channels(decoded) + 2
            layer(f"{prefix}deconv{level}.0", below, channels(decoded), 4, True, transposed=True)
            layer(f"{prefix}upsampled_flow{level + 1}_to_{level}", 2, 2, 4, True, transposed=True)
            layer(f"{prefix}inter_conv{level}.0", joined, channels(decoded), 3, True)
            layer(f"{prefix}predict_flow{level}", channels(decoded), 2, 3, True)
            below = joined
        layer(f"{prefix}predict_flow2", channels(128), 2, 3, True)

    if arch in FLOWNET2:
        for part in FLOWNET2[arch]:
            if part == "flownetfusion":
                fusion(f"{part}.")
            elif part == "flownetc":
                net(f"{part}.", "c", 3, True)
            else:
                net(f"{part}.", part[9], *((6, True) if part == "flownets_d" else (12, False)))
    elif arch == "FlowNet2SD":
        net("", "d", 6, True)
    else:
        kind = "c" if arch.removesuffix("_bn").lower().endswith("c") else "s"
        net("", kind, 3 if kind == "c" else 6, nvidia and kind == "c")
    return tensors


def answer(arch: str, tensors: dict[str, torch.Tensor], first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Flow N x 2 x H x W px of N x 3 x H x W RGB frames in [0, 1], sides multiples of 64."""
    if arch.startswith("FlowNet2"):
        mean = (first + second).mean((2, 3), keepdim=True) / 2
        first, second = first - mean, second - mean
    else:
        first, second = first - MEAN, second - MEAN
    pair = torch.cat([first, second], 1)
    if arch == "FlowNet2SD":
        return 20 * bilinear(flow_d(tensors, "", pair))
    if arch not in FLOWNET2:
        c = arch.removesuffix("_bn").lower().endswith("c")
        return 20 * bilinear(flow_c(tensors, "", first, second) if c else flow_s(tensors, "", pair))
    flow = bilinear(20 * flow_c(tensors, "flownetc.", first, second))
    flow = 20 * flow_s(tensors, "flownets_1.", stacked(first, second, flow))
    if arch == "FlowNet2CS":
        return bilinear(flow)
    large = nearest(20 * flow_s(tensors, "flownets_2.", stacked(first, second, bilinear(flow))))
    if arch == "FlowNet2CSS":
        return large
    small = nearest(flow_d(tensors, "flownets_d.", pair) / 20)
    lengths, errors = [], []
    for flow in (small, large):
        lengths.append((flow**2).sum(1, keepdim=True).sqrt())
        errors.append(((first - read(second, flow)) ** 2).sum(1, keepdim=True).sqrt())
    return fused(tensors, "flownetfusion.", torch.cat([first, small, large, *lengths, *errors], 1))


def stacked(first: torch.Tensor, second: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    warped = read(second, flow)
    error = ((first - warped) ** 2).sum(1, keepdim=True).sqrt()
    return torch.cat([first, second, warped, flow / 20, error], 1)


def flow_s(t: dict[str, torch.Tensor], prefix: str, x: torch.Tensor) -> torch.Tensor:
    conv2 = conv(t, f"{prefix}conv2", conv(t, f"{prefix}conv1", x, 2), 2)
    conv3 = conv(t, f"{prefix}conv3_1", conv(t, f"{prefix}conv3", conv2, 2))
    return refined(t, prefix, conv2, conv3)


def flow_d(t: dict[str, torch.Tensor], prefix: str, x: torch.Tensor) -> torch.Tensor:
    conv1 = conv(t, f"{prefix}conv1_1", conv(t, f"{prefix}conv1", conv(t, f"{prefix}conv0", x), 2))
    conv2 = conv(t, f"{prefix}conv2_1", conv(t, f"{prefix}conv2", conv1, 2))
    conv3 = conv(t, f"{prefix}conv3_1", conv(t, f"{prefix}conv3", conv2, 2))
    return refined(t, prefix, conv2, conv3)


def flow_c(t: dict[str, torch.Tensor], prefix: str, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    seen = []
    for frame in (first, second):
        conv2 = conv(t, f"{prefix}conv2", conv(t, f"{prefix}conv1", frame, 2), 2)
        seen.append((conv2, conv(t, f"{prefix}conv3", conv2, 2)))
    (conv2, a), (_, b) = seen
    costs = leaky(correlation(a, b))
    joined = torch.cat([conv(t, f"{prefix}conv_redir", a), costs], 1)
    return refined(t, prefix, conv2, conv(t, f"{prefix}conv3_1", joined))


def refined(t: dict[str, torch.Tensor], prefix: str, conv2: torch.Tensor, conv3: torch.Tensor) -> torch.Tensor:
    conv4 = conv(t, f"{prefix}conv4_1", conv(t, f"{prefix}conv4", conv3, 2))
    conv5 = conv(t, f"{prefix}conv5_1", conv(t, f"{prefix}conv5", conv4, 2))
    features = conv(t, f"{prefix}conv6_1", conv(t, f"{prefix}conv6", conv5, 2))
    flow = plain(t, f"{prefix}predict_flow6", features)
    for level, skip in ((5, conv5), (4, conv4), (3, conv3), (2, conv2)):
        up = transposed(t, f"{prefix}upsampled_flow{level + 1}_to_{level}", flow)
        features = torch.cat([skip, leaky(transposed(t, f"{prefix}deconv{level}.0", features)), up], 1)
        inter = f"{prefix}inter_conv{level}.0"
        seen = plain(t, inter, features) if f"{inter}.weight" in t else features
        flow = plain(t, f"{prefix}predict_flow{level}", seen)
    return flow


def fused(t: dict[str, torch.Tensor], prefix: str, x: torch.Tensor) -> torch.Tensor:
    conv0 = conv(t, f"{prefix}conv0", x)
    conv1 = conv(t, f"{prefix}conv1_1", conv(t, f"{prefix}conv1", conv0, 2))
    features = conv(t, f"{prefix}conv2_1", conv(t, f"{prefix}conv2", conv1, 2))
    flow = plain(t, f"{prefix}predict_flow2", features)
    for level, skip in ((1, conv1), (0, conv0)):
        up = transposed(t, f"{prefix}upsampled_flow{level + 1}_to_{level}", flow)
        features = torch.cat([skip, leaky(transposed(t, f"{prefix}deconv{level}.0", features)), up], 1)
        flow = plain(t, f"{prefix}predict_flow{level}", plain(t, f"{prefix}inter_conv{level}.0", features))
    return flow


def conv(t: dict[str, torch.Tensor], key: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
    x = plain(t, f"{key}.0", x, stride)
    if f"{key}.1.weight" in t:
        mean, variance, gain, bias = (
            t[f"{key}.1.{name}"].view(1, -1, 1, 1) for name in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean) / (variance + 1e-5).sqrt() * gain + bias
    return leaky(x)


def plain(t: dict[str, torch.Tensor], key: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
    weight = t[f"{key}.weight"]
    return F.conv2d(x, weight, t.get(f"{key}.bias"), stride, weight.shape[-1] // 2)


def transposed(t: dict[str, torch.Tensor], key: str, x: torch.Tensor) -> torch.Tensor:
    return F.conv_transpose2d(x, t[f"{key}.weight"], t.get(f"{key}.bias"), 2, 1)


def leaky(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, x, 0.1 * x)


def correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """FlowNetC's layer, place by place: channel 21 * i + j compares with (y + 2i - 20, x + 2j - 20)."""
    n, _, h, w = a.shape
    out = torch.zeros(n, 441, h, w, dtype=a.dtype)
    for y in range(h):
        for x in range(w):
            for i in range(21):
                for j in range(21):
                    y2, x2 = y + 2 * i - 20, x + 2 * j - 20
                    if 0 <= y2 < h and 0 <= x2 < w:
                        out[:, 21 * i + j, y, x] = (a[:, :, y, x] * b[:, :, y2, x2]).mean(1)
    return out


def read(picture: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Bilinear at (x + u, y + v), pixel by pixel; coordinates outside count as the border's."""
    n, _, h, w = picture.shape
    out = torch.zeros_like(picture)
    for i in range(n):
        for y in range(h):
            for x in range(w):
                px, py = x + flow[i, 0, y, x], y + flow[i, 1, y, x]
                x0, y0 = int(px.floor()), int(py.floor())
                fx, fy = px - x0, py - y0
                for dy, wy in ((0, 1 - fy), (1, fy)):
                    for dx, wx in ((0, 1 - fx), (1, fx)):
                        row, column = min(max(y0 + dy, 0), h - 1), min(max(x0 + dx, 0), w - 1)
                        out[i, :, y, x] += wy * wx * picture[i, :, row, column]
    return out


def bilinear(flow: torch.Tensor) -> torch.Tensor:
    return F.interpolate(flow, scale_factor=4, mode="bilinear", align_corners=False)


def nearest(flow: torch.Tensor) -> torch.Tensor:
    return flow.repeat_interleave(4, 2).repeat_interleave(4, 3)
