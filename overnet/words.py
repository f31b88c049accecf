"""Counts and durations as messages write them."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural where it is not 1: ``1 frame``, ``0 frames``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a time in two units at most: ``7 s``, ``12 min``, ``3 h 5 min``; below half a second ``less than 1 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{rest} s" if rest else "less than 1 s"
