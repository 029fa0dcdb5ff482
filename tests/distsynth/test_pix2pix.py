"""pix2pix: one update equals a plain, literal transcription of the published rule, whatever the settings; images come with keyed noise."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor
from workbench import CPU, leaves, losses_of, paired, receptive_field

from distsynth.config import compose
from distsynth.data.batch import Batch
from distsynth.methods.pix2pix import Pix2Pix, Pix2PixSettings
from distsynth.networks.patchgan import PatchGAN, check_layers
from distsynth.networks.unet import UNet
from distsynth.training.engine import Engine
from preprocess.shared.errors import SettingError

SIZE = (32, 32)
SMALL = ["method=pix2pix", "method.generator.width=4", "method.generator.depth=3", "method.discriminator.width=4",
         "method.discriminator.layers=2", "train.lr=0.01"]  # fmt: skip
FLIPS = {
    "generator.width": 6,
    "generator.depth": 2,
    "generator.dropout": 0.25,
    "generator.direct": True,
    "discriminator.width": 6,
    "discriminator.layers": 1,
    "weights.l1": 10,
    "weights.discriminator": 1,
    "norm": "batch",
    "gan": "lsgan",
}
AT_TEST_ONLY = {"noise_at_test"}


def make(*words: str) -> Pix2Pix:
    config = compose([*SMALL, *words])
    return Pix2Pix(config.method, config.variant, SIZE, 0).double().train()


class Literal:
    """The published rule, one sample after the other, on networks built from the settings, starting with the method's weights."""

    def __init__(self, method: Pix2Pix, *words: str) -> None:
        config = compose([*SMALL, *words])
        s = self.settings = config.method
        inputs, outputs = len(config.variant.inputs), len(config.variant.outputs)
        self.G = UNet(inputs, outputs, s.generator.width, s.generator.depth, s.generator.direct, s.norm, s.generator.dropout)
        self.D = PatchGAN(inputs + outputs, s.discriminator.width, s.discriminator.layers, s.norm)
        for network, own in ((self.G, method.generator), (self.D, method.discriminator)):
            network.double().load_state_dict(own.state_dict())
        self.for_G, self.for_D = (
            torch.optim.Adam(network.parameters(), config.train.lr, config.train.betas) for network in (self.G, self.D)
        )

    def adversarial(self, source: Tensor, image: Tensor, real: bool) -> Tensor:
        """The mean adversarial loss over the patches."""
        answer = self.D(torch.cat([source, image], 1))
        if self.settings.gan == "lsgan":
            return ((answer - (1 if real else 0)) ** 2).mean()
        chance = torch.sigmoid(answer)
        return -torch.log(chance if real else 1 - chance).mean()

    def update(self, batch: Batch) -> dict[str, Tensor]:
        n, seeds = len(batch), batch.seeds("dropout")
        samples = [(batch.sources[i : i + 1], batch.targets[i : i + 1]) for i in range(n)]
        fakes = [
            torch.where(batch.brain[i : i + 1] > 0, self.G(source, seeds[i : i + 1]), torch.tensor(-1.0))
            for i, (source, _) in enumerate(samples)
        ]
        terms = dict.fromkeys(["d_real", "d_fake", "g_gan", "g_l1"], torch.tensor(0.0))
        for (source, target), fake in zip(samples, fakes, strict=True):
            terms["d_real"] = terms["d_real"] + self.adversarial(source, target, True) / n
            terms["d_fake"] = terms["d_fake"] + self.adversarial(source, fake.detach(), False) / n
        terms["d_loss"] = self.settings.weights.discriminator * (terms["d_real"] + terms["d_fake"])
        self.for_D.zero_grad()
        terms["d_loss"].backward()
        self.for_D.step()
        for (source, target), fake in zip(samples, fakes, strict=True):
            terms["g_gan"] = terms["g_gan"] + self.adversarial(source, fake, True) / n
            terms["g_l1"] = terms["g_l1"] + (target - fake).abs().sum() / target.numel() / n
        terms["g_loss"] = terms["g_gan"] + self.settings.weights.l1 * terms["g_l1"]
        self.for_G.zero_grad()
        terms["g_loss"].backward()
        self.for_G.step()
        return terms

    def weights(self) -> dict[str, Tensor]:
        return {f"{name}.{key}": value for name, network in (("generator", self.G), ("discriminator", self.D))
                for key, value in network.state_dict().items()}  # fmt: skip


def trained(method: Pix2Pix, batches: list[Batch], *words: str) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Weights after an update for each batch, and the mean losses."""
    train = compose([*SMALL, *words]).train
    (stage,) = method.stages(train)
    engine = Engine(method, stage, train, CPU)
    for number, batch in enumerate(batches):
        stage.update(batch, engine)
        engine.running_losses.updates = number + 1
    return method.state_dict(), engine.losses_since_last(len(batches))


@pytest.mark.parametrize("words", [(), *((f"method.{key}={value}",) for key, value in FLIPS.items()), ("variant=mimo",)])
def test_two_updates_equal_the_literal_rule(words: tuple[str, ...]) -> None:
    """Batch norm at the published batch of 1: the rule is written sample by sample, which is only then the same."""
    method = make(*words)
    batches = [paired(method, 1 if "method.norm=batch" in words else 3, seed) for seed in (0, 1)]
    literal = Literal(method, *words)
    terms = [literal.update(batch) for batch in batches]
    weights, losses = trained(method, batches, *words)
    for name, value in literal.weights().items():
        assert torch.allclose(weights[name].double(), value.double(), rtol=0, atol=1e-9), name
    for name, value in losses.items():
        assert value == pytest.approx(sum(float(update[name].detach()) for update in terms) / 2, rel=1e-6), name


def test_every_setting_has_an_effect() -> None:
    """Each is changed above, and changing it changes the update."""
    assert set(leaves(Pix2PixSettings())) - {"name"} == FLIPS.keys() | AT_TEST_ONLY
    before = make()
    plain, _ = trained(deepcopy(before), [paired(before, 1)])
    for key, value in FLIPS.items():
        changed, _ = trained(make(f"method.{key}={value}"), [paired(before, 1)])
        same = changed.keys() == plain.keys() and all(torch.equal(changed[name], plain[name]) for name in plain)
        assert not same, key


@pytest.mark.parametrize("name", ["discriminator", "generator"])
def test_a_loss_trains_all_of_its_own_network_and_no_other(name: str) -> None:
    method = make()
    loss, _ = losses_of(method, paired(method))[name]
    loss.backward()
    for network, child in method.named_children():
        for parameter, value in child.named_parameters():
            reached = value.grad is not None and bool(value.grad.abs().sum() > 0)
            assert reached == (network == name), f"{name} on {network}.{parameter}"


def test_an_update_runs_the_generator_once() -> None:
    method, runs = make(), []
    method.generator.register_forward_hook(lambda *_: runs.append("generator"))
    trained(method, [paired(method)])
    assert runs == ["generator"]


@pytest.mark.parametrize("variant", ["siso", "simo", "simo_t1", "mimo", "miso_flair", "miso_t1c"])
def test_every_variant_makes_all_outputs_at_once_confined_to_the_brain(variant: str) -> None:
    method = make(f"variant={variant}").eval()
    batch = paired(method)
    made = method.synthesise(batch.sources, batch.brain)
    assert made.shape == batch.targets.shape
    assert (made[(batch.brain == 0).expand_as(made)] == -1).all()
    inside = made[(batch.brain == 1).expand_as(made)]
    assert inside.abs().max() <= 1
    assert inside.std() > 0


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_noise_stays_on_at_test_time_and_is_the_same_for_the_same_slice(norm: str) -> None:
    """In any batch. With batch norm, the statistics are the slice's own and are not stored."""
    method = make(f"method.norm={norm}").eval()
    batch = paired(method)
    before = deepcopy(method.state_dict())
    whole = method.synthesise(batch.sources, batch.brain)
    alone = torch.cat([method.synthesise(batch.sources[i : i + 1], batch.brain[i : i + 1]) for i in range(3)])
    assert torch.allclose(whole, alone, rtol=0, atol=1e-12)
    twice = method.synthesise(batch.sources[[0, 0]], batch.brain[[0, 0]])
    assert torch.equal(twice[0], twice[1])
    quiet = make(f"method.norm={norm}", "method.noise_at_test=false").eval()
    assert not torch.allclose(whole, quiet.synthesise(batch.sources, batch.brain), atol=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert not any(module.training for module in method.modules())


def test_at_test_time_batch_norm_takes_the_slices_own_statistics() -> None:
    """With scales of 1 it is then instance norm, and without noise it uses the running statistics of training."""
    batch = paired(make(), 2)
    normed, quiet = make("method.norm=batch", "method.generator.dropout=0"), make("method.generator.dropout=0")
    for name, value in normed.generator.state_dict().items():
        if name in quiet.generator.state_dict():
            quiet.generator.state_dict()[name].copy_(value)
    for module in normed.generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
    made, expected = (method.eval().synthesise(batch.sources, batch.brain) for method in (normed, quiet))
    assert torch.allclose(made, expected, rtol=0, atol=1e-9)
    normed.settings.noise_at_test = False
    assert not torch.allclose(normed.synthesise(batch.sources, batch.brain), expected, atol=1e-3)


def test_full_size_networks_have_the_published_parameters() -> None:
    """U-Net-256 54.41 M and the 70x70 discriminator 2.77 M for 3 channels in and 3 out, as the published code prints them."""
    generator, discriminator = UNet(3, 3, 64, 8, norm="batch"), PatchGAN(6, 64, 3, "batch")
    millions = [sum(p.numel() for p in network.parameters()) / 1e6 for network in (generator, discriminator)]
    assert millions == pytest.approx([54.414, 2.769], abs=1e-3)
    assert discriminator(torch.zeros(1, 6, 256, 256)).shape == (1, 1, 30, 30)


@pytest.mark.parametrize(("layers", "pixels"), [(1, 16), (2, 34), (3, 70)])
def test_the_patches_are_the_published_ones(layers: int, pixels: int) -> None:
    """Computed from the convolutions, and measured: the gradient of one output with respect to the image has that width."""
    network = PatchGAN(1, 2, layers, "batch").double().eval()
    assert receptive_field(network) == pixels
    image = torch.rand(1, 1, 160, 160, dtype=torch.float64, requires_grad=True)
    answers = network(image)[0, 0]
    answers[answers.shape[0] // 2, answers.shape[1] // 2].backward()
    assert image.grad is not None
    rows = image.grad[0, 0].abs().sum(1).nonzero().flatten()
    assert int(rows[-1] - rows[0]) + 1 == pixels


@pytest.mark.parametrize(
    ("size", "depth", "layers"), [((256, 256), 8, 6), ((160, 160), 5, 5), ((32, 40), 3, 3), ((54, 54), 3, 4)]
)
def test_depths_follow_the_image(size: tuple[int, int], depth: int, layers: int) -> None:
    assert Pix2Pix.stride(compose(SMALL[:1]).method, size) == 1 << depth
    check_layers(layers, size)
    network = PatchGAN(1, 2, layers)
    assert min(network(torch.rand(1, 1, *size)).shape) == 1
    with pytest.raises(SettingError, match=f"layers={layers + 1} needs slices of at least {3 << layers + 1} pixels"):
        check_layers(layers + 1, size)
    with pytest.raises((ValueError, RuntimeError)):  # what the refusal prevents
        PatchGAN(1, 2, layers + 1)(torch.rand(1, 1, *size))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["method.discriminator.layers=4"],
            r"method\.discriminator\.layers=4 needs slices of at least 48 pixels and these, padded, are 32x32: set fewer",
        ),
        (["method.generator.dropout=1"], r"method\.generator\.dropout=1.* must be at least 0 and below 1"),
        (["method.discriminator.layers=0"], r"method\.discriminator\.layers=0 must be at least 1"),
    ],
)
def test_invalid_settings_are_refused(words: list[str], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        make(*words)


@pytest.mark.parametrize("preset", ["pix2pix", "pix2pix_published"])
def test_the_presets_train_as_published(preset: str) -> None:
    train = compose([f"method={preset}"]).train
    assert (train.epochs, train.batch, train.lr, train.betas) == (200, 1, 2e-4, (0.5, 0.999))
