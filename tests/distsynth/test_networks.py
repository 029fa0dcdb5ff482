"""The U-Net, the segmentor and StarGAN's generator equal transcriptions of the published layers, written as functions of the tensors in
`state_dict()` without any module: outputs, gradients and running statistics. A wrong transcription is detected."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distsynth.networks.segmentor import Segmentor
from distsynth.networks.stargan import Generator
from distsynth.networks.unet import UNet

BEFORE, AFTER = "activation convolution norm", "convolution norm activation"  # the order in a layer: pix2pix, the others
NORMS = ["instance", "batch", "batch at rest"]


class Layers:
    """A network's tensors, each to be used once, and what the published layers do with them."""

    def __init__(self, network: nn.Module, norm: str, order: str) -> None:
        self.tensors: dict[str, Tensor] = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        self.parameters = [self.tensors[name].requires_grad_() for name, _ in network.named_parameters()]
        self.left, self.norm, self.order = set(self.tensors), norm, order

    def take(self, name: str) -> Tensor:
        self.left.remove(name)
        return self.tensors[name]

    def layer(self, x: Tensor, convolution: str, norm: str = "", bias: bool = False, slope: float = 0.0, **how: Any) -> Tensor:
        """Steps in the transcription's order; `slope` of the activation below zero (1: no activation); without `norm` no norm."""
        convolve = F.conv_transpose2d if how.pop("back", False) else F.conv2d
        for step in self.order.split():
            if step == "activation":
                x = F.leaky_relu(x, slope)
            elif step == "convolution":
                weight, shift = self.take(f"{convolution}.weight"), self.take(f"{convolution}.bias") if bias else None
                x = convolve(x, weight, shift, **{"stride": 2, "padding": 1, **how})
            elif norm:
                x = self.normalised(x, norm)
        return x

    def normalised(self, x: Tensor, name: str) -> Tensor:
        dims = (2, 3) if "instance" in self.norm else (0, 2, 3)
        mean, variance = x.mean(dims, keepdim=True), x.var(dims, correction=0, keepdim=True)
        if "batch" in self.norm:
            old, spread, updates = (
                self.take(f"{name}.{kind}") for kind in ("running_mean", "running_var", "num_batches_tracked")
            )
            if self.norm == "batch at rest":
                mean, variance = old.view_as(mean), spread.view_as(variance)
            else:
                count = x.numel() / x.shape[1]
                self.tensors[f"{name}.running_mean"] = 0.9 * old + 0.1 * mean.flatten()
                self.tensors[f"{name}.running_var"] = 0.9 * spread + 0.1 * variance.flatten() * count / (count - 1)
                self.tensors[f"{name}.num_batches_tracked"] = updates + 1
        x = (x - mean) / torch.sqrt(variance + 1e-5)
        if self.norm == "instance":  # pix2pix's, without learnt parameters
            return x
        return x * self.take(f"{name}.weight")[:, None, None] + self.take(f"{name}.bias")[:, None, None]


def unet(t: Layers, x: Tensor, depth: int, direct: bool) -> Tensor:
    """Isola et al. 2017; concatenated are the upsampled features and the skip, in the published code the other way round."""
    given, skips, deepest = x, [], depth - 1
    for level in range(depth):
        name, end = f"down.{level}", level in (0, deepest)
        convolution, slope = (f"{name}.1", 0.2) if level else (f"{name}.0", 1)
        x = t.layer(x, convolution, "" if end else f"{name}.2", bias=end, slope=slope)
        skips.append(x)
    x = skips.pop()
    for index in range(depth):
        x = torch.cat([x, skips.pop()], 1) if index else x
        last = index == deepest
        x = t.layer(x, f"up.{index}.1", "" if last else f"up.{index}.2", bias=last, back=True)
    if direct:
        x = torch.cat([x, t.layer(given, "enter", bias=True, slope=1, stride=1)], 1)
        x = t.layer(F.leaky_relu(x, 0.2), "leave.1", bias=True, slope=1, stride=1)
        x = t.layer(F.leaky_relu(x, 0.2), "leave.3", bias=True, slope=1, stride=1)
    return torch.tanh(x)


def segmentor(t: Layers, x: Tensor) -> Tensor:
    """Xin et al. 2020, except that biases before a norm are left out after the first level, which has no instance norm; for an odd side the last
    pixel is not made when upsampling."""
    skips, even = [], []
    for level in range(4):
        even.append([1 - side % 2 for side in x.shape[2:]])
        x = t.layer(x, f"down.{level}.0", f"down.{level}.1" if level or "batch" in t.norm else "", bias=level == 0)
        skips.append(x)
    x = skips.pop()
    for level in range(3):
        x = t.layer(x, f"up.{level}", f"norms.{level}", back=True, output_padding=even.pop())
        x = torch.cat([x, skips.pop()], 1)
    return torch.sigmoid(t.layer(x, "up.3", bias=True, slope=1, back=True, output_padding=even.pop()))


def generator(t: Layers, x: Tensor, blocks: int, direct: bool) -> Tensor:
    """Choi et al. 2018, table 4."""
    h = t.layer(x, "first", "body.0", stride=1, padding=3)
    for at in (2, 5):
        h = t.layer(h, f"body.{at}", f"body.{at + 1}")
    for at in range(8, 8 + blocks):
        inner = t.layer(h, f"body.{at}.body.0", f"body.{at}.body.1", stride=1)
        h = h + t.layer(inner, f"body.{at}.body.3", f"body.{at}.body.4", stride=1, slope=1)
    for at in (8 + blocks, 11 + blocks):
        h = t.layer(h, f"body.{at}", f"body.{at + 1}", back=True)
    if not direct:
        return torch.tanh(t.layer(h, "leave", slope=1, stride=1, padding=3))
    h = t.layer(F.leaky_relu(torch.cat([h, x], 1), 0.2), "leave.1", bias=True, slope=1, stride=1)
    return torch.tanh(t.layer(F.leaky_relu(h, 0.2), "leave.3", bias=True, slope=1, stride=1))


def differences(
    network: nn.Module, norm: str, order: str, x: Tensor, literal: Callable[..., Tensor], *how: Any
) -> dict[str, float]:
    """The largest difference of the output, of each gradient and, after training, of each running statistic."""
    network.double().train(norm != "batch at rest")
    with torch.no_grad():  # scales of 1, shifts and statistics of 0 would hide errors
        for tensor in [*network.parameters(), *(b for b in network.buffers() if b.is_floating_point())]:
            tensor.add_(torch.rand_like(tensor) - 0.5, alpha=0.6)
    t, x = Layers(network, norm, order), x.requires_grad_()
    output, expected = network(x), literal(t, x, *how)
    assert not t.left or order not in (BEFORE, AFTER), f"not used: {t.left}"
    weights = torch.randn_like(output)
    own = torch.autograd.grad(output, [x, *network.parameters()], weights)
    theirs = torch.autograd.grad(expected, [x, *t.parameters], weights, allow_unused=True, materialize_grads=True)
    names = ["input", *(name for name, _ in network.named_parameters())]
    pairs = {"output": (output, expected)}
    pairs |= {f"gradient of {name}": (a, b) for name, a, b in zip(names, own, theirs, strict=True)}
    pairs |= {name: (buffer, t.tensors[name]) for name, buffer in network.named_buffers() if name in t.tensors}
    return {name: float((a - b).detach().abs().max()) for name, (a, b) in pairs.items()}


def images(channels: int, height: int, width: int) -> Tensor:
    return torch.rand(3, channels, height, width, dtype=torch.float64) * 2 - 1


def of_unet(
    order: str, norm: str = "instance", depth: int = 3, direct: bool = False, inputs: int = 2, outputs: int = 1
) -> dict[str, float]:
    torch.manual_seed(0)
    network = UNet(inputs, outputs, 2, depth, direct, norm.split()[0])
    return differences(network, norm, order, images(inputs, 32, 64), unet, depth, direct)


def of_segmentor(order: str, norm: str = "instance", height: int = 32, width: int = 32) -> dict[str, float]:
    torch.manual_seed(0)
    kind = "learnt instance" if norm == "instance" else norm
    return differences(Segmentor(4, 2, norm.split()[0]), kind, order, images(4, height, width), segmentor)


def of_generator(order: str, labels: str = "image", blocks: int = 2, direct: bool = False, outputs: int = 1) -> dict[str, float]:
    """The labels are constant in the whole image, as in StarGAN, or inside a brain."""
    torch.manual_seed(0)
    x = images(4, 16, 24)
    x[:, 1:] = torch.eye(3, dtype=torch.float64)[:, :, None, None]
    if labels == "brain":
        x[:, 1:, :4] = x[:, 1:, :, 18:] = 0
    network = Generator(4, outputs, 2, blocks=blocks, direct=direct, constant=3 if labels == "image" else 0)
    return differences(network, "learnt instance", order, x, generator, blocks, direct)


def same(differing: dict[str, float]) -> None:
    assert {name: value for name, value in differing.items() if not value < 1e-10} == {}


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (4, 1), (2, 3)])
@pytest.mark.parametrize(("norm", "depth", "direct"), [*product(NORMS, (1, 2, 3, 5), (False, True))])
def test_the_unet_is_the_published_one(norm: str, depth: int, direct: bool, inputs: int, outputs: int) -> None:
    same(of_unet(BEFORE, norm, depth, direct, inputs, outputs))


@pytest.mark.parametrize("size", [(32, 32), (17, 17), (33, 46), (21, 40), (50, 35)])
@pytest.mark.parametrize("norm", NORMS)
def test_the_segmentor_is_the_published_one_at_odd_sizes_too(norm: str, size: tuple[int, int]) -> None:
    same(of_segmentor(AFTER, norm, *size))


@pytest.mark.parametrize(
    ("labels", "blocks", "direct", "outputs"), [*product(("image", "brain"), (0, 1, 3), (False, True), (1, 2))]
)
def test_stargans_generator_is_the_published_one(labels: str, blocks: int, direct: bool, outputs: int) -> None:
    same(of_generator(AFTER, labels, blocks, direct, outputs))


@pytest.mark.parametrize("wrong", ["activation moved", "norm dropped", "activation dropped"])
@pytest.mark.parametrize("of", [of_unet, of_segmentor, of_generator])
def test_a_wrong_transcription_is_detected(of: Callable[[str], dict[str, float]], wrong: str) -> None:
    right = (BEFORE if of is of_unet else AFTER).split()
    differing = of("convolution activation norm" if "moved" in wrong else " ".join(step for step in right if step not in wrong))
    assert differing["output"] > 1e-3
    assert differing["gradient of input"] > 1e-3
