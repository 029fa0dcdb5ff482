"""Drawing one of the allowed entries, and stacks in which contrasts that a patient lacks are blank."""

import numpy as np
import torch

from distsynth.data.batch import Batch
from distsynth.data.randomness import sample_keys
from distsynth.methods.contrasts import choose, images_of, present_of


def test_allowed_entries_are_equally_likely_and_no_others_are_chosen() -> None:
    allowed = torch.tensor([False, True, False, True, True])
    share = torch.arange(3000) / 3000
    chosen = choose(allowed.expand(3000, -1), share)
    assert torch.bincount(chosen, minlength=5).tolist() == [0, 1000, 0, 1000, 1000]
    assert choose(torch.tensor([[True, False], [False, True]]), torch.tensor([0.999, 0.0])).tolist() == [0, 1]


def test_missing_contrasts_are_blank_and_by_default_none_is_missing() -> None:
    batch = Batch(torch.rand(2, 1, 4, 4), torch.rand(2, 2, 4, 4), torch.ones(2, 1, 4, 4), torch.zeros(2, 1, 4, 4),
                  sample_keys(np.arange(2), 0))  # fmt: skip
    assert present_of(batch).all()
    assert torch.equal(images_of(batch), torch.cat([batch.sources, batch.targets], 1))
    lacking = batch.having(present=torch.tensor([[1.0, 1, 1], [1, 0, 1]]))
    assert (images_of(lacking)[1, 1] == -1).all()
    assert torch.equal(images_of(lacking)[0], images_of(batch)[0])
