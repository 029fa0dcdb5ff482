"""Drawing one of what is allowed, and stacks in which what a patient lacks is blank."""

import numpy as np
import torch

from distsynth.data.batch import Batch
from distsynth.data.randomness import sample_keys
from distsynth.methods.contrasts import choose, images_of, present_of


def test_each_of_the_allowed_is_as_likely_and_no_other_is_chosen() -> None:
    allowed = torch.tensor([False, True, False, True, True])
    share = torch.arange(3000) / 3000
    found = choose(allowed.expand(3000, -1), share)
    assert torch.bincount(found, minlength=5).tolist() == [0, 1000, 0, 1000, 1000]
    assert choose(torch.tensor([[True, False], [False, True]]), torch.tensor([0.999, 0.0])).tolist() == [0, 1]


def test_what_a_patient_lacks_is_blank_and_without_a_word_of_it_there_is_all() -> None:
    batch = Batch(torch.rand(2, 1, 4, 4), torch.rand(2, 2, 4, 4), torch.ones(2, 1, 4, 4), torch.zeros(2, 1, 4, 4),
                  sample_keys(np.arange(2), 0))  # fmt: skip
    assert present_of(batch).all()
    assert torch.equal(images_of(batch), torch.cat([batch.sources, batch.targets], 1))
    lacking = batch.having(present=torch.tensor([[1.0, 1, 1], [1, 0, 1]]))
    assert (images_of(lacking)[1, 1] == -1).all()
    assert torch.equal(images_of(lacking)[0], images_of(batch)[0])
