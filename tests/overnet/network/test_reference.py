import numpy as np
import torch

from overnet.network.reference import reference


class Constant(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, batch, scale):
        size = (round(side * scale) for side in batch.shape[2:])
        return torch.tensor([-0.5, 100.6 / 255, 2.0]).view(1, 3, 1, 1).expand(1, 3, *size)


def test_upscaled_images_are_clipped_and_rounded():
    image = reference(Constant(), np.zeros((2, 3, 3), np.uint8), 2)
    assert (image.dtype, image.shape) == (np.uint8, (4, 6, 3))
    assert (image == [0, 101, 255]).all()
    assert image.flags.c_contiguous
