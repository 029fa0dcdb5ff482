"""The segmentor on its own: TC-MGAN's pre-training, weight for weight, scored by the Dice of the whole tumour."""

from dataclasses import fields

import pytest
import torch
from torch import Tensor
from workbench import CPU, losses_of, paired

from distsynth.config import compose
from distsynth.data.batch import Batch
from distsynth.methods.contract import Method
from distsynth.methods.registry import method as registered
from distsynth.methods.segment import Segment, SegmentSettings, TumourFinder
from distsynth.networks.segmentor import Segmentor
from distsynth.training.engine import Engine
from preprocess.shared.errors import SettingError

SIZE = (32, 32)
SMALL = ["method=segment", "method.width=2", "train.lr=0.01"]
TCMGAN = [
    "method=tcmgan",
    "method.generator.width=2",
    "method.critic.width=2",
    "method.segmentor.width=2",
    "method.segmentor.lr=0.01",
]
FLIPS = {"width": 3, "norm": "batch"}


def make(*words: str) -> TumourFinder:
    config = compose(list(words))
    made = registered(config.method.name)(config.method, config.variant, SIZE, 0).double().train()
    assert isinstance(made, TumourFinder)
    return made


def pretrained(method: TumourFinder, batches: list[Batch], *words: str) -> dict[str, Tensor]:
    train = compose(list(words)).train
    stage = method.stages(train)[0]
    engine = Engine(method, stage, train, CPU)
    for batch in batches:
        stage.update(batch, engine)
    return {name: value for name, value in method.state_dict().items() if name.startswith("segmentor.")}


def test_segment_equals_tcmgans_pretraining_weight_for_weight() -> None:
    """Same initial weights, same batches (keyed by the stage's name), same losses: bit for bit."""
    alone, within = make(*SMALL), make(*TCMGAN)
    batches = [paired(alone, 4, seed) for seed in range(3)]
    stages = [method.stages(compose(words).train)[0] for method, words in ((alone, SMALL), (within, TCMGAN))]
    assert [(s.name, s.split, s.objectives, s.lr) for s in stages] == [("segmentor", "segmentor", ("pretraining",), 0.01)] * 2
    first, second = pretrained(alone, batches, *SMALL), pretrained(within, batches, *TCMGAN)
    assert all(torch.equal(first[name], second[name]) for name in first.keys() | second.keys())


@pytest.mark.parametrize("words", [(), ("method.width=3",), ("method.norm=batch",), ("variant=miso_flair",), ("variant=mimo",)])
def test_two_updates_equal_the_literal_rule(words: tuple[str, ...]) -> None:
    method = make(*SMALL, *words)
    outputs = len(method.variant.outputs)
    batches = [paired(method, 1 if "method.norm=batch" in words else 4, seed) for seed in (0, 1)]
    s = compose([*SMALL, *words]).method
    network = Segmentor(1 + outputs, s.width, s.norm).double()
    network.load_state_dict(method.segmentor.state_dict())
    adam = torch.optim.Adam(network.parameters(), 0.01, (0.9, 0.999))
    for batch in batches:
        n, drawn = len(batch), batch.uniform("target").tolist()
        loss = torch.tensor(0.0, dtype=torch.float64)
        for i in range(n):
            index = int(drawn[i] * outputs)
            maps = torch.zeros(1, outputs, *SIZE)
            maps[0, index] = 1
            predicted, mask = network(torch.cat([batch.targets[i, index][None, None], maps], 1)), batch.tumour[i]
            loss = loss + (1 - (2 * (predicted[0] * mask).sum() + 1) / (predicted.sum() + mask.sum() + 1)) / n
        adam.zero_grad()
        loss.backward()
        adam.step()
    weights = pretrained(method, batches, *SMALL, *words)
    for name, value in network.state_dict().items():
        assert torch.allclose(weights[f"segmentor.{name}"].double(), value.double(), rtol=0, atol=1e-9), name


def test_every_setting_has_an_effect() -> None:
    assert {field.name for field in fields(SegmentSettings)} - {"name"} == FLIPS.keys()
    plain = make(*SMALL)
    batch = paired(plain, 4)
    before = pretrained(plain, [batch], *SMALL)
    for key, value in FLIPS.items():
        changed = pretrained(make(*SMALL, f"method.{key}={value}"), [batch], *SMALL)
        assert not (changed.keys() == before.keys() and all(torch.equal(changed[name], before[name]) for name in before)), key


def test_the_loss_reaches_every_weight() -> None:
    method = make(*SMALL)
    losses_of(method, paired(method, 12))["pretraining"][0].backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in method.parameters())


@pytest.mark.parametrize(("shift", "dice"), [(0, 1.0), (3, 0.5), (6, 0.0)])
def test_dice_is_of_the_whole_volume(shift: int, dice: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segmentor whose output is the tumour shifted by so many columns, in every slice but the empty ones; more slices than run in one
    batch."""
    method = make(*SMALL)
    patient = paired(method, 20)
    patient.tumour[:5] = 0
    shown = patient.map(lambda tensor: tensor.clone(), patient.keys)
    shown.targets[:] = patient.tumour.roll(shift, -1).expand_as(shown.targets)
    monkeypatch.setattr(method, "segment", lambda image, target: image * 0.2 + 0.4)
    scores = method.find_tumour(shown)
    assert scores == {f"{name}/tumour/dice": pytest.approx(dice, abs=2e-3) for name in ("t1", "t1c", "flair")}


def test_each_modality_is_segmented_under_its_own_label() -> None:
    method = make(*SMALL).eval()
    patient, seen = paired(method, 3), []
    method.segmentor.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    method.find_tumour(patient)
    assert len(seen) == 3
    for index, given in enumerate(seen):
        assert torch.equal(given[:, 0], patient.targets[:, index])
        assert given[:, 1:].mean((0, 2, 3)).tolist() == [float(i == index) for i in range(3)]


def test_it_makes_no_images() -> None:
    method = make(*SMALL)
    assert isinstance(method, Segment)
    assert (Segment.images, Method.images) == (False, True)
    with pytest.raises(SettingError, match="finds tumours and makes no images"):
        method.synthesise(*(getattr(paired(method, 4), name) for name in ("sources", "brain")))


@pytest.mark.parametrize("words", [["method=segment"], ["method=tcmgan"]])
def test_slices_that_are_too_small_are_refused(words: list[str]) -> None:
    config = compose(words)
    with pytest.raises(SettingError, match="the segmentor's 4 levels need slices of 17 x 17 pixels, not 16 x 16"):
        registered(config.method.name)(config.method, config.variant, (16, 16), 0)
    Segmentor(4, 2, "instance")(torch.rand(1, 4, 17, 17))
    with pytest.raises(ValueError, match="more than 1 spatial element"):  # what the refusal prevents
        Segmentor(4, 2, "instance")(torch.rand(1, 4, 16, 16))


def test_the_preset_is_tcmgans_pretraining() -> None:
    config = compose(["method=segment", "variant=simo"])
    (stage,) = Segment(config.method, config.variant, SIZE, 0).stages(config.train)
    assert (stage.epochs, stage.batch, stage.lr, stage.split) == (30, 5, 1e-4, "segmentor")
