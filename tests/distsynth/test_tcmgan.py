"""TC-MGAN: each loss moves its own network, and equals a literal transcription of the published update rule."""

import numpy as np
import pytest
import torch
from torch import Tensor
from workbench import CPU, leaves, losses_of

from distsynth.config import compose
from distsynth.data.batch import Batch
from distsynth.data.randomness import sample_keys
from distsynth.methods.segment import Segment
from distsynth.methods.tcmgan import TCMGAN, critic_depth
from distsynth.training.engine import Engine
from preprocess.shared.errors import SettingError

WIDTHS = ["method.generator.width=4", "method.critic.width=4", "method.segmentor.width=2", "method.generator.depth=3"]
SIZE = (32, 32)
ELEVEN = {"d_loss", "g_loss", "s_loss", "d_real", "d_fake", "d_cls", "d_gp", "g_fake", "g_cls", "g_rec", "g_seg"}


def make(*words: str) -> TCMGAN:
    config = compose([*WIDTHS, *words])
    return TCMGAN(config.method, config.variant, SIZE, 0)


def batch_for(method: TCMGAN, n: int = 4, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    brain = torch.zeros(n, 1, *SIZE)
    brain[..., 6:26, 6:26] = 1
    tumour = torch.zeros(n, 1, *SIZE)
    tumour[..., 10:16, 10:16] = 1
    inputs, outputs = len(method.variant.inputs), len(method.variant.outputs)
    images = torch.rand(n, inputs + outputs, *SIZE, generator=g) * 2 * brain - 1
    return Batch(images[:, :inputs], images[:, inputs:], brain, tumour, sample_keys(np.arange(n), seed))


@pytest.mark.parametrize("variant", ["siso", "simo", "simo_t1", "mimo", "miso_flair", "miso_t1c"])
def test_every_variant_makes_every_output_confined_to_the_brain(variant: str) -> None:
    method = make(f"variant={variant}")
    batch = batch_for(method)
    made = method.synthesise(batch.sources, batch.brain)
    assert made.shape == (4, len(method.variant.outputs), *SIZE)
    assert (made[(batch.brain == 0).expand_as(made)] == -1).all()
    inside = made[(batch.brain == 1).expand_as(made)]
    assert inside.abs().max() <= 1
    assert inside.std() > 0
    if len(method.variant.outputs) > 1:
        assert not torch.equal(made[:, 0], made[:, 1])  # the label says which is wanted


@pytest.mark.parametrize(
    ("objective", "network"),
    [("pretraining", "segmentor"), ("critic", "critic"), ("generator", "generator"), ("segmentor", "segmentor")],
)
def test_a_loss_trains_all_of_its_own_network_and_no_other(objective: str, network: str) -> None:
    method = make()
    loss, _ = losses_of(method, batch_for(method))[objective]
    loss.backward()
    for name, child in method.named_children():
        for parameter, value in child.named_parameters():
            reached = value.grad is not None and bool(value.grad.abs().sum() > 0)
            assert reached == (name == network), f"{objective} on {name}.{parameter}"


def test_the_eleven_losses_of_the_reports_tables() -> None:
    method = make()
    batch = batch_for(method)
    terms = {}
    for name in ("critic", "generator", "segmentor"):
        terms |= losses_of(method, batch)[name][1]
    assert set(terms) == ELEVEN


class Cross:
    """Cross-entropy of independent classes, written out."""

    def __init__(self, label: Tensor) -> None:
        self.label = label

    def __call__(self, logits: Tensor) -> Tensor:
        chance = torch.sigmoid(logits)
        return -(self.label * torch.log(chance) + (1 - self.label) * torch.log(1 - chance)).sum()


class Overlap:
    """The Dice loss, written out."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def __call__(self, probability: Tensor) -> Tensor:
        return 1 - (2 * (probability * self.mask).sum() + 1) / (probability.sum() + self.mask.sum() + 1)


def literal(method: TCMGAN, batch: Batch) -> dict[str, Tensor]:
    """The published rule, written out sample by sample, with the sums and means spelled out."""
    outputs = len(method.variant.outputs)
    if at_once := method.settings.targets == "all":
        chosen = [(i, k) for i in range(len(batch)) for k in range(outputs)]
    else:
        chosen = list(enumerate((batch.uniform("target") * outputs).long().tolist()))
    share = method.pairs(batch)[0].uniform("penalty").tolist()
    n = len(chosen)
    sums = dict.fromkeys(["d_real", "d_fake", "d_cls", "d_gp", "g_fake", "g_cls", "g_rec", "g_seg", "s_fake", "s_real"], 0.0)
    for place, (i, k) in enumerate(chosen):
        real = batch.targets[i, k][None, None]
        label = torch.zeros(1, outputs)
        label[0, k] = 1
        maps = label[:, :, None, None].expand(1, outputs, *SIZE)
        source, brain, tumour = batch.sources[i : i + 1], batch.brain[i : i + 1], batch.tumour[i : i + 1]
        made = method.generator(source)[:, k : k + 1] if at_once else method.generator(torch.cat([source, maps], 1))
        fake = torch.where(brain > 0, made, torch.tensor(-1.0))
        beside = [source, tumour] if method.settings.critic.sees_tumour else [source]
        value_real, class_real = method.critic(torch.cat([real, *beside], 1))
        value_fake, class_fake = method.critic(torch.cat([fake, *beside], 1))
        between = (share[place] * real + (1 - share[place]) * fake).detach().requires_grad_()
        (slope,) = torch.autograd.grad(method.critic(torch.cat([between, *beside], 1))[0], between, create_graph=True)
        segmented_fake, segmented_real = (method.segmentor(torch.cat([x, maps], 1)) for x in (fake, real))
        cross, dice = Cross(label), Overlap(tumour)
        of_sample = {
            "d_real": -value_real.sum(), "d_fake": value_fake.sum(), "d_cls": cross(class_real), "d_gp": (slope.norm() - 1) ** 2,
            "g_fake": -value_fake.sum(), "g_cls": cross(class_fake), "g_rec": (real - fake).abs().sum(), "g_seg": dice(segmented_fake),
            "s_fake": dice(segmented_fake), "s_real": dice(segmented_real),
        }  # fmt: skip
        for name, value in of_sample.items():
            sums[name] = sums[name] + value / n
    w, s = method.weights, method.settings.segmentor
    sums["d_loss"] = sums["d_real"] + sums["d_fake"] + w.cls * sums["d_cls"] + w.gp * sums["d_gp"]
    sums["g_loss"] = sums["g_fake"] + w.cls * sums["g_cls"] + w.rec * sums["g_rec"] + w.seg * sums["g_seg"]
    sums["s_loss"] = s.weight_synthesised * sums.pop("s_fake") + s.weight_real * sums.pop("s_real")
    return sums  # type: ignore[return-value]


@pytest.mark.parametrize("variant", ["simo", "mimo", "miso_t1c"])
@pytest.mark.parametrize("words", [["method=tcmgan"], ["method=tcmgan_authors"], ["method.targets=all"]])
def test_the_losses_equal_the_literal_rule(variant: str, words: list[str]) -> None:
    method = make(f"variant={variant}", *words, "method.segmentor.norm=instance").double()
    batch = doubled(batch_for(method))
    expected = literal(method, batch)
    for name in ("critic", "generator", "segmentor"):
        _, terms = losses_of(method, batch)[name]
        for term, value in terms.items():
            assert value.item() == pytest.approx(expected[term].item(), rel=1e-6), term


def doubled(batch: Batch) -> Batch:
    return batch.map(lambda tensor: tensor.double(), batch.keys)


# A setting, another value of it. Each must change the update as the literal rule with that value does.
FLIPS = [
    "method.weights.cls=3", "method.weights.gp=2", "method.weights.rec=.5", "method.weights.seg=1", "method.critic.sees_tumour=true",
    "method.segmentor.weight_synthesised=.2", "method.segmentor.weight_real=.9", "method.targets=all", "method.generator.width=6",
    "method.generator.depth=2", "method.generator.direct=true", "method.critic.width=6", "method.critic.depth=3",
    "method.segmentor.width=3", "method.segmentor.norm=batch",
]  # fmt: skip


def after_an_update(method: TCMGAN, by_hand: bool) -> dict[str, Tensor]:
    """The weights after one joint update, by the engine or by the published procedure: critic, generator, segmentor, each with its Adam and
    its own forward passes."""
    config = compose(WIDTHS)
    stage = method.stages(config.train)[-1]
    batch = doubled(batch_for(method))
    engine = Engine(method, stage, config.train, CPU)
    if not by_hand:
        stage.update(batch, engine)
        return method.state_dict()
    networks = {"d_loss": method.critic, "g_loss": method.generator, "s_loss": method.segmentor}
    for name, network in networks.items():
        optimiser = torch.optim.Adam(network.parameters(), stage.lr, config.train.betas)
        optimiser.zero_grad()
        literal(method, batch)[name].backward(inputs=list(network.parameters()))
        optimiser.step()
    return method.state_dict()


@pytest.mark.parametrize("flip", FLIPS)
def test_every_setting_changes_an_update_as_the_literal_rule_does(flip: str) -> None:
    ours, literally, unchanged = make(flip).double(), make(flip).double(), make().double()
    statistics = flip.endswith("norm=batch")
    if (
        statistics
    ):  # the literal rule goes slice by slice, and a batch's statistics need the batch: those of the whole stay as they are
        ours.segmentor.eval(), literally.segmentor.eval()
    after, expected, before = after_an_update(ours, False), after_an_update(literally, True), after_an_update(unchanged, False)
    for name, value in expected.items():
        assert torch.allclose(after[name], value, rtol=0, atol=1e-7), name
    same = [n for n, v in before.items() if n in after and v.shape == after[n].shape and torch.equal(v, after[n])]
    assert len(same) < len(before), "the setting changes nothing"


def test_no_setting_is_left_out() -> None:
    """Those of the pre-training belong to its stage."""
    pretraining = {"segmentor.epochs": 3, "segmentor.batch": 6, "segmentor.lr": 0.02}
    flipped = {flip.partition("=")[0].removeprefix("method.") for flip in FLIPS}
    assert set(leaves(make().settings)) - {"name"} == flipped | pretraining.keys()
    method = make(*(f"method.{name}={value}" for name, value in pretraining.items()))
    first, second = method.stages(compose(WIDTHS).train)
    assert {"segmentor.epochs": first.epochs, "segmentor.batch": first.batch, "segmentor.lr": first.lr} == pretraining
    assert (second.name, second.lr) == ("joint", compose(WIDTHS).train.lr)
    assert [stage.name for stage in make("method.segmentor.epochs=0").stages(compose(WIDTHS).train)] == ["joint"]


def test_the_critic_may_see_the_tumour() -> None:
    blind, seeing = make(), make("method.critic.sees_tumour=true")
    batch = batch_for(blind)
    moved = Batch(batch.sources, batch.targets, batch.brain, batch.tumour.roll(3, -1), batch.keys)
    values = {m: [losses_of(m, b)["critic"][0].item() for b in (batch, moved)] for m in (blind, seeing)}
    assert values[blind][0] == values[blind][1]
    assert values[seeing][0] != values[seeing][1]


def test_the_generators_loss_does_not_change_the_segmentors_statistics() -> None:
    """The published code keeps the segmentor in training mode, so that its generator changes the segmentor's running statistics."""
    method = make("method.segmentor.norm=batch", "method.segmentor.epochs=0").train()
    method.segmentor.requires_grad_(False)  # so that the update only has the critic's and the generator's steps
    before = {k: v.clone() for k, v in method.segmentor.state_dict().items()}
    losses_of(method, batch_for(method))
    assert all(torch.equal(v, before[k]) for k, v in method.segmentor.state_dict().items())
    assert method.segmentor.training


def test_initial_weights_depend_only_on_the_seed() -> None:
    torch.manual_seed(1)
    first = make().state_dict()
    torch.manual_seed(2)
    second = make().state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_initial_weights_are_the_published_ones() -> None:
    """The generator's from N(0, .02), Kaiming for critic and segmentor, torch's defaults for the segmentor's transposed convolutions."""
    words = ["method.generator.width=16", "method.critic.width=16", "method.segmentor.width=16"]
    method, segment = make(*words), compose(["method=segment", "method.width=16"])
    spread = {name: float(w.std()) for name, w in method.state_dict().items() if w.dim() == 4 and w.numel() > 4000}
    expected = {}
    for name in spread:
        weight = method.get_parameter(name)
        fan_in = weight[0].numel()  # of a transposed convolution what torch takes for it
        kind = "generator" if name.startswith("generator") else "up" if name.startswith("segmentor.up") else "convolution"
        expected[name] = {"generator": 0.02, "up": (1 / 3 / fan_in) ** 0.5, "convolution": (2 / fan_in) ** 0.5}[kind]
    assert {name.partition(".")[0] for name in spread} == {"generator", "critic", "segmentor"}
    assert spread == pytest.approx(expected, rel=0.06)
    alone = Segment(segment.method, segment.variant, SIZE, 0).segmentor.state_dict()
    assert all(torch.equal(value, alone[name]) for name, value in method.segmentor.state_dict().items())


@pytest.mark.parametrize(("size", "generator", "critic"), [((128, 128), 7, 5), ((160, 160), 5, 5), ((54, 54), 3, 4)])
def test_depths_follow_the_image(size: tuple[int, int], generator: int, critic: int) -> None:
    settings = compose([]).method
    assert (TCMGAN.stride(settings, size), critic_depth(settings, size)) == (1 << generator, critic)


def test_too_deep_a_critic_is_refused() -> None:
    with pytest.raises(SettingError, match=r"method\.critic\.depth=7 is too deep for slices of 32x32: at most 5"):
        make("method.critic.depth=7")


def test_full_size_networks_have_the_published_parameters() -> None:
    """U-Net 41.82 M with 4 channels in, critic 11.20 M, segmentor 6.13 M; ours lack the biases before a norm, which have no effect."""
    config = compose(["variant=simo", "method=tcmgan_authors"])
    method = TCMGAN(config.method, config.variant, (128, 128), 0)
    millions = {name: sum(p.numel() for p in net.parameters()) / 1e6 for name, net in method.named_children()}
    assert millions == pytest.approx({"generator": 41.82, "critic": 11.20, "segmentor": 6.13}, abs=0.01)
