"""A Jetson's power rails: which of them, or which sum, is the power that a board takes.

The names are those of NVIDIA's device trees, as sysfs shows them.
"""

from __future__ import annotations

from collections.abc import Mapping

# Rails that all others hang on. VIN is of Thor's carrier board (its INA238), VDD_IN of modules of the Nano and NX
# sizes, POM_5V_IN of the first Nano.
_TOTALS = {
    "VIN": "the module and its carrier board (VIN)",
    "VDD_IN": "the whole module (VDD_IN)",
    "POM_5V_IN": "the whole module (POM_5V_IN)",
}
# A channel that measures nothing.
_NOT_CONNECTED = "NC"
# AGX Orin's memory is fed by its 5 V input, which is a rail as well: not to be counted twice.
_PARTS_OF = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}


def total_power(rails_milliwatts: Mapping[str, float]) -> tuple[float, str] | None:
    """The power of a board in watts, and what that covers, in words; None where no rail is known.

    Args:
        rails_milliwatts: by rail. May be below 0 a little: Thor's GPU rail is when it is off.
    """
    for name, words in _TOTALS.items():
        if name in rails_milliwatts:
            return rails_milliwatts[name] / 1000, words
    counted = {
        name: milliwatts
        for name, milliwatts in rails_milliwatts.items()
        if name != _NOT_CONNECTED and _PARTS_OF.get(name) not in rails_milliwatts
    }
    if not counted:
        return None
    return sum(counted.values()) / 1000, f"the module's rails {', '.join(sorted(counted))} together"
