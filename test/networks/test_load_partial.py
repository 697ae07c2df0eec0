"""A network that begins with the weights of one with other sizes."""

from __future__ import annotations

import torch
from torch import nn

from fg_depth_ros.networks.checkpoint import load_partial


def layers(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 2, 1))


def test_a_wider_network_computes_what_the_smaller_one_did():
    torch.manual_seed(0)
    small, wide = layers(4), layers(9)
    assert load_partial(wide, small.state_dict()) == []
    image = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(wide(image), small(image))


def test_so_does_one_with_a_transposed_convolution_whose_weights_have_the_inputs_first():
    def decoder(width: int) -> nn.Sequential:
        middle = nn.ConvTranspose2d(width, width + 1, 4, 2, 1)
        return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), middle, nn.Conv2d(width + 1, 2, 3))

    torch.manual_seed(0)
    small, wide = decoder(4), decoder(9)
    assert load_partial(wide, small.state_dict()) == []
    image = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(wide(image), small(image))
    assert bool((wide[2].weight[:, 5:] != 0).all())  # the new channels can learn


def test_the_new_channels_can_learn():
    torch.manual_seed(0)
    small, wide = layers(4), layers(9)
    load_partial(wide, small.state_dict())
    wide(torch.rand(1, 3, 8, 8)).sum().backward()
    assert bool((wide[2].weight.grad[:, 4:] != 0).any())
    assert bool((wide[0].weight[4:] != 0).any())


def test_a_narrower_network_gets_the_leading_channels_and_what_is_new_is_named():
    torch.manual_seed(0)
    wide, small = layers(9), nn.Sequential(*layers(4), nn.Conv2d(2, 5, 1))
    assert load_partial(small, wide.state_dict()) == ["3.weight", "3.bias"]
    torch.testing.assert_close(small[0].weight, wide[0].weight[:4])
