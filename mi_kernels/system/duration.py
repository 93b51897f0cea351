"""Durations, as people read them."""

from __future__ import annotations


def show_about(seconds: float) -> str:
    """Formats an estimate with one or two digits: "about 4 s", "about 40 s", "about 12 min", "about 2.5 h".

    Example:
        >>> from mi_kernels.system.duration import show_about
        >>> [show_about(s) for s in (0.2, 43, 700, 9000)]
        ['about 1 s', 'about 45 s', 'about 12 min', 'about 2.5 h']
    """
    if seconds < 9.5:
        return f"about {max(1, round(seconds))} s"
    if seconds < 87.5:
        return f"about {5 * round(seconds / 5)} s"
    if seconds < 90 * 60:
        return f"about {max(2, round(seconds / 60))} min"
    return f"about {round(seconds / 1800) / 2:g} h"


def show_left(seconds: float) -> str:
    """Formats the time that is left: "40 s", "12 min 5 s", "2 h 30 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole // 60 % 60} min"


def show_clock(seconds: float) -> str:
    """Formats a duration for a table, in hours, minutes and seconds.

    Example:
        >>> from mi_kernels.system.duration import show_clock
        >>> show_clock(3725.6)
        '1:02:06'
    """
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
