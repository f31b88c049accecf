"""The gate: what an exported file must hold before it gets its name. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from overnet.export.precision.calibration import middle, own_images
from overnet.export.verify.comparison import Parity, check_images
from overnet.types import Image


@dataclass(frozen=True)
class Tolerance:
    """At least so near the reference, in dB and in grey levels.

    Attributes:
        least_psnr_db: of the file's images against the reference's.
        most_levels: the largest difference allowed, in grey levels.
        diverging_db: signal-to-noise ratio from which on a tensor inside counts as diverging, when the gate has failed
            and the cause is looked for.
    """

    least_psnr_db: float
    diverging_db: float
    most_levels: int = 255

    def __str__(self) -> str:
        levels = "" if self.most_levels == 255 else f", and at most {self.most_levels} grey level"
        return f"at least {self.least_psnr_db:g} dB{levels}"

    def holds(self, parity: Parity) -> bool:
        """Whether a measurement passes."""
        return parity.psnr_db >= self.least_psnr_db and parity.largest_difference <= self.most_levels

    def refusal(self, name: str, parity: Parity) -> str:
        """What to say of a file that does not pass."""
        return (
            f"{name} is refused: it differs from {parity.reference} by up to {parity.largest_difference} grey levels, "
            f"{parity.psnr_db:.1f} dB (in {parity.measured_by}), and {self} is needed"
        )


# FP32 differs in the order of additions alone. 50 dB is a mean error of 0.8 grey levels: nothing that one could see.
# INT8 is judged by what it costs against the ground truth (`overnet.export.precision.layer_choice`); here is only a
# floor under that.
TOLERANCES = {
    "fp32": Tolerance(60, diverging_db=60, most_levels=1),
    "fp16": Tolerance(50, diverging_db=30),
    "bf16": Tolerance(45, diverging_db=20),
    "int8": Tolerance(30, diverging_db=10),
}


# Of the package's photographs, the middle: a graph that is wrong is wrong there too, and all of them take longer.
_PHOTOGRAPH_SIDE = 64


def gate_images() -> list[Image]:
    """What every file is compared on: real photographs, and drawn images that are hard in one way each."""
    return [*(middle(image, _PHOTOGRAPH_SIDE) for image in own_images()), *check_images()]
