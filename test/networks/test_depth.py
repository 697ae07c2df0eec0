"""The depth networks: what they say, which camera they say it for, and published encoders."""

from __future__ import annotations

import pytest
import torch

from fg_depth_ros.networks import (
    DEPTH_MODELS,
    CheckpointError,
    ModelCard,
    create_model,
    depth_of,
    load_model,
    load_resnet,
    save_checkpoint,
)
from fg_depth_ros.networks.depth import inverse_from_logits, start_logit
from fg_depth_ros.networks.depthnet_efficient import EfficientNetLite0

NAMES = sorted(DEPTH_MODELS)


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def network(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model(name, focal=100.0, width=96, height=64).eval()


def test_depth_and_inverse_by_hand() -> None:
    inverse = torch.tensor([0.5, 0.1])
    assert depth_of(inverse, 100.0, 100.0).tolist() == pytest.approx([2.0, 10.0])
    # Twice the focal length shows everything twice as large: what looks 2 m away is 4 m away.
    assert depth_of(inverse, 100.0, 200.0).tolist() == pytest.approx([4.0, 20.0])
    # d = f B / Z: with f 320 px, B 0.25 m and Z 8 m it is 10 px, and the inverse d / (B f_canonical) for any f.
    assert float(depth_of(torch.tensor(10 / (0.25 * 100.0)), 100.0, 320.0)) == pytest.approx(8.0)


def test_logits_to_inverse_by_hand() -> None:
    logits = torch.tensor([-40.0, 0.0, 40.0, start_logit()])
    assert inverse_from_logits(logits).tolist() == pytest.approx([0.01, 0.01 + 9.99 / 2, 10.0, 0.1], rel=1e-5)


def test_a_fresh_network_says_ten_metres(network: torch.nn.Module) -> None:
    with torch.inference_mode():
        answer = network(torch.rand(1, 3, 64, 96))
    assert answer.inverse.shape == (1, 1, 64, 96)
    assert answer.inverse.dtype == torch.float32
    assert answer.levels is None
    assert float(answer.inverse.mean()) == pytest.approx(0.1, rel=0.3)


def test_training_gives_four_levels_and_every_weight_a_gradient(network: torch.nn.Module) -> None:
    network.train()
    answer = network(torch.rand(2, 3, 64, 96))
    assert answer.levels is not None
    assert answer.levels[0] is answer.inverse
    assert [tuple(level.shape[-2:]) for level in answer.levels] == [(64, 96), (32, 48), (16, 24), (8, 12)]
    network.zero_grad()
    sum((level * torch.rand_like(level)).sum() for level in answer.levels).backward()  # type: ignore[union-attr]
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    network.eval()


def test_another_size_of_the_image_is_answered_at_that_size(network: torch.nn.Module) -> None:
    with torch.inference_mode():
        assert network(torch.rand(1, 3, 96, 32)).inverse.shape == (1, 1, 96, 32)
        with pytest.raises(ValueError, match="multiples of 32 px, got 90x64"):
            network(torch.rand(1, 3, 64, 90))


@pytest.mark.parametrize("compact", ["depthnet_lite", "depthnet_efficient"])
def test_where_a_thing_stands_in_the_picture_matters(compact: str) -> None:
    """The same texture everywhere: only its place can make a difference inside the picture."""
    torch.manual_seed(1)
    net = create_model(compact, focal=100.0, width=320, height=320).eval()
    with torch.no_grad():
        net.depth.weight.normal_(std=0.5)  # type: ignore[union-attr]
        inverse = net(torch.full((1, 3, 320, 320), 0.5)).inverse[0, 0]
    # Far from all borders, where zero padding is not seen.
    assert float((inverse[120, 160] - inverse[200, 160]).abs()) > 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"focal": 0.0}, "focal must be a positive number of pixels, got 0"),
        ({"width": 100}, "width must be a positive multiple of 32 px, got 100"),
        ({"height": 0}, "height must be a positive multiple of 32 px, got 0"),
        ({"nonsense": 1}, "has no option 'nonsense'; it has focal, width, height"),
    ],
)
def test_bad_options_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model("depthnet_lite", **options)
    with pytest.raises(ValueError, match=message):
        create_model("depthnet_r18", **options)


def test_weights_come_back_with_their_camera(tmp_path, name: str, network: torch.nn.Module) -> None:
    save_checkpoint(tmp_path / "w.safetensors", network, ModelCard(name, network.options))  # type: ignore[arg-type]
    again, card = load_model(tmp_path / "w.safetensors")
    assert (again.focal, again.width, again.height) == (100.0, 96, 64)
    assert card.options["focal"] == 100.0
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(again(image).inverse, network(image).inverse)


def test_parameters_of_the_published_encoders() -> None:
    """ResNet-18 and -50 have 11,689,512 and 25,557,032 parameters with their classifier of 1000 classes."""
    for name, whole, features in (("depthnet_r18", 11_689_512, 512), ("depthnet_r50", 25_557_032, 2048)):
        encoder = create_model(name).encoder
        classifier = 1000 * features + 1000
        assert sum(p.numel() for p in encoder.parameters()) == whole - classifier  # type: ignore[union-attr]

    # EfficientNet-Lite0: 4,652,008 with the last 1 x 1 convolution (320 -> 1280), its batch norm and the classifier.
    classifier = 320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    assert sum(p.numel() for p in EfficientNetLite0().parameters()) == 4_652_008 - classifier


@pytest.mark.parametrize("compact", ["depthnet_lite", "depthnet_efficient"])
def test_the_light_ones_are_light(compact: str) -> None:
    parameters = sum(p.numel() for p in create_model(compact).parameters())
    assert parameters <= 6_000_000
    assert 4 * parameters <= 16_000_000  # bytes of its weights file


def test_the_mobile_encoder_answers_at_five_resolutions_and_knows_small_images() -> None:
    encoder = EfficientNetLite0().eval()
    with torch.inference_mode():
        levels = encoder(torch.rand(2, 3, 32, 96))
    assert [tuple(level.shape) for level in levels] == [
        (2, channels, 16 >> i, 48 >> i) for i, channels in enumerate(encoder.channels)
    ]


def test_a_depthwise_gradient_in_mixed_precision_is_that_of_float32_but_for_rounding() -> None:
    block = EfficientNetLite0().blocks[3].train()  # 5 x 5, stride 2
    assert block.depthwise.conv.kernel_size == (5, 5)
    image = torch.rand(4, block.expand.conv.in_channels, 32, 48)

    def gradients(mixed: bool) -> torch.Tensor:
        block.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            result = block(image)
        assert result.dtype == (torch.bfloat16 if mixed else torch.float32)
        (result.float() * torch.linspace(-1, 1, result.shape[-1])).sum().backward()
        return block.depthwise.conv.weight.grad.flatten()

    exact, mixed = gradients(mixed=False), gradients(mixed=True)
    assert torch.nn.functional.cosine_similarity(exact, mixed, dim=0) > 0.99
    assert 0.97 < mixed.norm() / exact.norm() < 1.03


def test_published_weights_start_the_encoder(tmp_path) -> None:
    torch.manual_seed(2)
    published = dict(create_model("depthnet_r18").encoder.state_dict())  # type: ignore[union-attr]
    published |= {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    torch.save(published, tmp_path / "resnet18.pth")
    torch.manual_seed(3)
    network = create_model("depthnet_r18")
    load_resnet(network, tmp_path / "resnet18.pth")
    started = network.encoder.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(started[name], published[name]) for name in started)


def test_a_file_that_is_no_encoder_is_refused(tmp_path) -> None:
    network = create_model("depthnet_r18")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "garbage.pth").write_bytes(b"not a checkpoint at all")
    (tmp_path / "garbage.safetensors").write_bytes(b"neither")
    for name in ("other.pth", "garbage.pth", "garbage.safetensors", "missing.pth"):
        with pytest.raises(CheckpointError, match=rf"{name} holds no weights of this ResNet"):
            load_resnet(network, tmp_path / name)
    with pytest.raises(CheckpointError, match="not a DepthNetLite"):
        load_resnet(create_model("depthnet_lite"), tmp_path / "other.pth")
