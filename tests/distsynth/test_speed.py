"""The published procedures that our updates are timed against end with the same weights as ours."""

from collections.abc import Iterator

import pytest
import torch
from workbench import CPU

from distsynth.bench.speed import Ours, Plain, SpeedSettings
from distsynth.config import compose

TCMGAN = ["method.generator.width=4", "method.critic.width=4", "method.segmentor.width=2"]
STARGAN = ["method.generator.width=4", "method.generator.blocks=2", "method.critic.width=4", "method.n_critic=2"]


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("words", [
    ["method=tcmgan", *TCMGAN], ["method=tcmgan_authors", *TCMGAN], ["method=tcmgan", "variant=miso_t1c", *TCMGAN],
    ["method=stargan", *STARGAN],
])  # fmt: skip
def test_the_published_procedure_ends_with_our_weights(words: list[str]) -> None:
    """And with the same batch statistics."""
    config = compose([*words, "train.lr=1e-3"])
    settings = SpeedSettings(pixels=32, slices=3)
    sides = [kind(config, settings, CPU) for kind in (Plain, Ours)]
    before = {name: value.clone() for name, value in sides[0].method.state_dict().items()}
    for side in sides:
        side.turn(0, 4)
    plain, ours = (side.method.state_dict() for side in sides)
    for name, value in plain.items():
        assert torch.allclose(ours[name], value, rtol=0, atol=1e-9), name
    assert not any(torch.equal(plain[name], value) for name, value in before.items() if name.endswith("weight"))


def test_each_side_has_its_own_tf32_setting_in_its_turn() -> None:
    """On a GPU torch uses TF32 for float32 convolutions by default, as the published codes do; our engine turns it off."""
    config, settings = compose(["method=tcmgan", *TCMGAN]), SpeedSettings(pixels=32, slices=1)
    seen = []
    sides = [kind(config, settings, CPU) for kind in (Plain, Ours)]
    for side in sides:
        side.update = lambda _: seen.append(torch.backends.cudnn.allow_tf32)  # type: ignore[assignment, func-returns-value]
    for side in [*sides, *sides]:
        side.turn(0, 1)
    assert seen == [True, False, True, False]
