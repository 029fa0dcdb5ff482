"""The pool of past fakes (Shrivastava et al. 2017, section 2.3) on which CycleGAN's discriminators are trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distsynth.ranks.world import gathered


class Pool(nn.Module):
    """Up to `size` images, the same on every rank because the pool takes in the global batch. Part of the method's state."""

    images: Tensor  # (stored, C, H, W)

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("images", torch.zeros(0), persistent=False)  # it grows: saved as extra state

    @torch.no_grad()
    def exchange(self, images: Tensor, share: Tensor) -> Tensor:
        """The images to show a discriminator instead of this rank's images (B, C, H, W); `share` (B,) in [0, 1) is drawn per sample.

        Samples are processed in the order of the global batch. While the pool is not full, an image is added and shown. Afterwards, with
        probability 1/2 it is shown and not stored; otherwise it replaces a random image of the pool, and that image is shown. Nothing is
        read back from a GPU.
        """
        if not self.size:
            return images
        (everyone, own), (drawn, _) = gathered(images), gathered(share)
        shown = []
        for index in range(len(everyone)):
            image, number = everyone[index : index + 1], drawn[index : index + 1]
            if len(self.images) < self.size:
                self.images = torch.cat([self.images, image]) if len(self.images) else image.clone()
                shown.append(image)
                continue
            place = ((2 * number - 1) * self.size).long().clamp(0, self.size - 1)
            old, swapped = self.images.index_select(0, place), (number >= 0.5).view(1, 1, 1, 1)
            shown.append(torch.where(swapped, old, image))
            self.images = self.images.index_copy(0, place, torch.where(swapped, image, old))
        return torch.cat(shown[own])

    def get_extra_state(self) -> Tensor:
        return self.images

    def set_extra_state(self, state: Tensor) -> None:
        self.images = state.to(self.images)
