"""Small super-resolution networks of the kinds that others have, as their ONNX files: float, one image in and out.

They have random weights, beside which a path carries the image through, so that the results are enlarged images.
"""

import warnings
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def passing(convolution, channels=3, gain=1.0, repeat=1):
    """Let the first channels through a convolution; with `repeat`, each to so many outputs, as a shuffle needs them."""
    with torch.no_grad():
        convolution.weight *= 0.2
        if convolution.bias is not None:
            convolution.bias *= 0.2
        row, column = (side // 2 for side in convolution.weight.shape[2:])
        for output in range(channels * repeat):
            convolution.weight[output, output // repeat, row, column] += gain
    return convolution


def enlarging(last, kernel):
    """Let three channels through a transposed convolution, enlarged by a separable kernel."""
    kernel = torch.tensor(kernel)
    with torch.no_grad():
        last.weight *= 0.1
        for channel in range(3):
            last.weight[channel, channel] += kernel[:, None] * kernel
    return last


class Espcn(nn.Module):
    """Luma in and out, tanh, a shuffle (Shi et al. 2016)."""

    scale, channels = 3, 1

    def __init__(self):
        super().__init__()
        self.first = passing(nn.Conv2d(1, 16, 5, padding=2), 1, 0.2)
        self.second = passing(nn.Conv2d(16, 8, 3, padding=1), 1)
        self.last = passing(nn.Conv2d(8, 9, 3, padding=1), 1, 5.0, 9)

    def forward(self, x):
        return functional.pixel_shuffle(self.last(torch.tanh(self.second(torch.tanh(self.first(x))))), 3)


class Fsrcnn(nn.Module):
    """PReLU, and a transposed convolution at the end (Dong et al. 2016)."""

    scale, channels = 2, 3

    def __init__(self):
        super().__init__()
        convolutions = [nn.Conv2d(3, 24, 5, padding=2), nn.Conv2d(24, 8, 1), nn.Conv2d(8, 8, 3, padding=1)]
        convolutions += [nn.Conv2d(8, 24, 1)]
        self.body = nn.Sequential(
            *[layer for one in convolutions for layer in (passing(one), nn.PReLU(one.out_channels))]
        )
        last = nn.ConvTranspose2d(24, 3, 9, stride=2, padding=4, output_padding=1)
        self.last = enlarging(last, [0, 0, 0, 0.5, 1, 0.5, 0, 0, 0])

    def forward(self, x):
        return self.last(self.body(x))


class Edsr(nn.Module):
    """Levels from 0 to 255, their mean taken off, residual blocks (Lim et al. 2017); with `attention`, RCAN's too."""

    scale, channels = 2, 3

    def __init__(self, attention=False):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([114.4, 111.5, 103.0]).reshape(1, 3, 1, 1))
        self.first = passing(nn.Conv2d(3, 16, 3, padding=1))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)) for _ in range(2)
        )
        self.weighing = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1), nn.Sigmoid())
            for _ in range(2 * attention)
        )
        self.grow, self.last = (
            passing(nn.Conv2d(16, 64, 3, padding=1), 16, 1, 4),
            passing(nn.Conv2d(16, 3, 3, padding=1)),
        )

    def forward(self, x):
        x = first = self.first(x - self.mean)
        for index, block in enumerate(self.blocks):
            found = block(x)
            x = x + 0.1 * (found * self.weighing[index](found) if self.weighing else found)
        return self.last(functional.pixel_shuffle(self.grow(x * 0.1 + first), 2)) + self.mean


class Rrdb(nn.Module):
    """Dense blocks in residual blocks, nearest enlargement twice (Wang et al. 2018)."""

    scale, channels = 4, 3
    dense: Any

    def __init__(self):
        super().__init__()
        self.first = passing(nn.Conv2d(3, 16, 3, padding=1))
        self.dense = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(16 + 8 * k, 16 if k == 3 else 8, 3, padding=1) for k in range(4)) for _ in range(2)
        )
        self.up = nn.ModuleList(passing(nn.Conv2d(16, 16, 3, padding=1)) for _ in range(2))
        self.last = passing(nn.Conv2d(16, 3, 3, padding=1))

    def forward(self, x):
        x = first = self.first(x)
        for dense in self.dense:
            found = [x]
            for convolution in dense[:-1]:
                found.append(functional.leaky_relu(convolution(torch.cat(found, 1)), 0.2))
            x = x + 0.2 * dense[-1](torch.cat(found, 1))
        x = first + 0.2 * (x - first)
        for convolution in self.up:
            x = functional.leaky_relu(convolution(functional.interpolate(x, scale_factor=2, mode="nearest")), 0.2)
        return self.last(x)


class Compact(nn.Module):
    """A chain with PReLU, and the image enlarged by its nearest pixels (SRVGGNetCompact of Real-ESRGAN)."""

    scale, channels = 2, 3
    body: Any

    def __init__(self):
        super().__init__()
        widths = [3, 16, 16, 16]
        layers = [layer for a, b in pairwise(widths) for layer in (nn.Conv2d(a, b, 3, padding=1), nn.PReLU(b, 0.1))]
        self.body = nn.Sequential(*layers, nn.Conv2d(16, 3 * self.scale**2, 3, padding=1))
        with torch.no_grad():
            self.body[-1].weight *= 0.3
            for layer in self.body[::2]:
                layer.bias *= 0.1

    def forward(self, x):
        nearest = functional.interpolate(x, scale_factor=self.scale, mode="nearest")
        return functional.pixel_shuffle(self.body(x), self.scale) + nearest


class CompactX4(Compact):
    """The same for x4."""

    scale = 4


class Span(nn.Module):
    """Attention without parameters, from a sigmoid of the features (Wan et al. 2024); RGB from 0 to 1, its mean off."""

    scale, channels = 2, 3
    blocks: Any

    def __init__(self):
        super().__init__()
        self.first = passing(nn.Conv2d(3, 16, 3, padding=1))
        self.blocks = nn.ModuleList(nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(3)) for _ in range(3))
        self.join = passing(nn.Conv2d(64, 16, 1))
        self.grow = passing(nn.Conv2d(16, 12, 3, padding=1), 3, 1, 4)

    def forward(self, x):
        found = [self.first(x - 0.5)]
        for one, two, three in self.blocks:
            features = three(functional.silu(two(functional.silu(one(found[-1])))))
            found.append((features + found[-1]) * (torch.sigmoid(features) - 0.5))
        return functional.pixel_shuffle(self.grow(self.join(torch.cat(found, 1))), 2) + 0.5


class LargeKernels(nn.Module):
    """LayerNorm over channels, large depthwise kernels, GELU, numbers from -1 to 1 (as LKDN, ConvNeXt)."""

    scale, channels = 2, 3

    def __init__(self):
        super().__init__()
        self.first = passing(nn.Conv2d(3, 16, 3, padding=1))
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(2))
        self.near = nn.ModuleList(nn.Conv2d(16, 16, 5, padding=2, groups=16) for _ in range(2))
        self.far = nn.ModuleList(nn.Conv2d(16, 16, 7, padding=9, groups=16, dilation=3) for _ in range(2))
        self.mix = nn.ModuleList(nn.Conv2d(16, 16, 1) for _ in range(2))
        self.grow = passing(nn.Conv2d(16, 12, 3, padding=1), 3, 1, 4)

    def forward(self, x):
        x = first = self.first(x)
        for norm, near, far, mix in zip(self.norms, self.near, self.far, self.mix, strict=True):
            found = norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            x = x + mix(functional.gelu(far(near(found)))) * found
        return functional.pixel_shuffle(self.grow(0.1 * x + first), 2)


class Windows(nn.Module):
    """Attention within windows of 8 x 8, the second shifted by 4 (Liang et al. 2021): multiples of 8 only."""

    scale, channels = 2, 3

    def __init__(self):
        super().__init__()
        self.first = passing(nn.Conv2d(3, 16, 3, padding=1))
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(2))
        self.qkv = nn.ModuleList(nn.Linear(16, 48) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.grow = passing(nn.Conv2d(16, 12, 3, padding=1), 3, 1, 4)

    def attend(self, x: Tensor, index: int) -> Tensor:
        n, h, w, c = x.shape
        windows = x.view(n, h // 8, 8, w // 8, 8, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 64, c)
        q, k, v = self.qkv[index](windows).reshape(-1, 64, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(q @ k.transpose(-2, -1) * (c // 2) ** -0.5, -1)
        windows = self.out[index]((weights @ v).transpose(1, 2).reshape(-1, 64, c))
        return windows.view(n, h // 8, w // 8, 8, 8, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)

    def forward(self, x):
        first = self.first(x)
        x = first.permute(0, 2, 3, 1)
        for index, norm in enumerate(self.norms):
            found = norm(x)
            if index:
                found = self.attend(functional.pad(found, (0, 0, 4, 4, 4, 4)), index)[:, 4:-4, 4:-4]
            else:
                found = self.attend(found, index)
            x = x + found
        return functional.pixel_shuffle(self.grow(0.1 * x.permute(0, 3, 1, 2) + first), 2)


class Statistics(nn.Module):
    """Weighs its channels by their variance over the image, which tiles cannot be given (as SMFANet)."""

    scale, channels = 2, 3

    def __init__(self):
        super().__init__()
        self.first, self.mix = passing(nn.Conv2d(3, 16, 3, padding=1)), nn.Conv2d(16, 16, 1)
        self.grow = passing(nn.Conv2d(16, 12, 3, padding=1), 3, 1, 4)

    def forward(self, x):
        x = self.first(x)
        spread = ((x - x.mean((2, 3), keepdim=True)) ** 2).amax((2, 3), keepdim=True)
        return functional.pixel_shuffle(self.grow(x + self.mix(x) * spread), 2)


class Unshuffle(nn.Module):
    """Works on blocks of 2 x 2 pixels (Real-ESRGAN x2), so that sides have to be even."""

    scale, channels = 2, 3

    def __init__(self):
        super().__init__()
        self.first = passing(nn.Conv2d(12, 16, 3, padding=1), 12)
        self.last = nn.Conv2d(16, 48, 3, padding=1)
        with torch.no_grad():
            self.last.weight *= 0.2
            for output in range(48):
                channel, row, column = output // 16, output // 4 % 4 // 2, output % 4 // 2
                self.last.weight[output, channel * 4 + row * 2 + column, 1, 1] += 1

    def forward(self, x):
        return functional.pixel_shuffle(
            self.last(functional.leaky_relu(self.first(functional.pixel_unshuffle(x, 2)))), 4
        )


class Unpadded(nn.Module):
    """Convolutions without padding, which cut off 7 pixels of each side (the upconv_7 of waifu2x)."""

    scale, channels = 2, 3

    def __init__(self):
        super().__init__()
        widths = (3, 16, 16, 16, 16, 16, 16)
        convolutions = [passing(nn.Conv2d(a, b, 3)) for a, b in pairwise(widths)]
        self.body = nn.Sequential(*[layer for one in convolutions for layer in (one, nn.LeakyReLU(0.1))])
        self.last = enlarging(nn.ConvTranspose2d(16, 3, 4, stride=2, padding=3), [0.25, 0.75, 0.75, 0.25])

    def forward(self, x):
        return self.last(self.body(x))


class Pooling(nn.Module):
    """Weighs features by a pooled map of them, of which a small image has no pixel (the ESA of RFDN and RLFN)."""

    scale, channels = 2, 3

    def __init__(self):
        super().__init__()
        self.first = passing(nn.Conv2d(3, 32, 3, padding=1))
        self.reduce, self.mix = nn.Conv2d(32, 16, 3, stride=2), nn.Conv2d(16, 32, 3, padding=1)
        self.grow = passing(nn.Conv2d(32, 12, 3, padding=1), 3, 1, 4)

    def forward(self, x):
        x = self.first(x)
        found = self.mix(functional.max_pool2d(self.reduce(x), 7, 3))
        found = functional.interpolate(found, x.shape[2:], mode="bilinear", align_corners=False)
        return functional.pixel_shuffle(self.grow(x * (1 + 0.1 * torch.sigmoid(found))), 2)


class Denoiser(nn.Module):
    """Takes noise off an image, whose size stays (DnCNN)."""

    scale, channels = 1, 3

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1))

    def forward(self, x):
        return x - 0.2 * self.body(x)


class Normalised(nn.Module):
    """Features of length 1 at each pixel, where 1e-12 keeps a length above 0 (FDAT, Swin v2)."""

    scale, channels = 2, 3

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.grow = passing(nn.Conv2d(19, 12, 3, padding=1), 3, 1, 4)

    def forward(self, x):
        found = functional.normalize(functional.relu(self.first(x)), dim=1)
        return functional.pixel_shuffle(self.grow(torch.cat([x, 0.1 * found], 1)), 2)


class Traced(nn.Module):
    """Attention within windows of 8 x 8 whose number was computed in Python, so that the file keeps the example's."""

    scale, channels = 2, 3

    def __init__(self):
        super().__init__()
        self.windows = Windows()

    def forward(self, x):
        rows, columns = int(x.shape[2]), int(x.shape[3])
        return self.windows(x.reshape(1, 3, rows, columns))


# The range of each network's numbers is 0..1 unless it is given.
NETWORKS = {
    "espcn": Espcn,
    "fsrcnn": Fsrcnn,
    "edsr": Edsr,
    "rrdb": Rrdb,
    "compact": Compact,
    "compact_x4": CompactX4,
    "span": Span,
    "large_kernels": LargeKernels,
    "windows": Windows,
    "attention": lambda: Edsr(attention=True),
    "statistics": Statistics,
    "unshuffle": Unshuffle,
    "unpadded": Unpadded,
    "pooling": Pooling,
    "denoiser": Denoiser,
    "traced": Traced,
    "normalised": Normalised,
}


def network(name):
    """One of `NETWORKS` in PyTorch, the same every time."""
    torch.manual_seed(11)
    return NETWORKS[name]().eval()


def write_onnx(path, name, *, size=None, opset=17, half=False):
    """Export a network to its ONNX file; `size` fixes height and width, `half` computes in FP16."""
    model = network(name)
    image = torch.rand(1, model.channels, *(size or (64, 64)))
    if half:
        model, image = model.half(), image.half()
    axes = {"input": {0: "n", 2: "h", 3: "w"}, "output": {0: "n", 2: "H", 3: "W"}} if size is None else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (image,),
            str(path),
            input_names=["input"],
            output_names=["output"],
            dynamic_axes=axes,
            opset_version=opset,
            dynamo=False,
        )
    return path
