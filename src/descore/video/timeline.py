"""When the frames of a video are shown, measured from the times of its packets."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

_ROUNDING = 1.5e-3  # seconds by which a regular time may be off, since Matroska and FLV store milliseconds
_NTSC = Fraction(1000, 1001)


def measure_times(
    ticks: NDArray[np.int64], durations: NDArray[np.int64], tick: Fraction, declared: Iterable[Fraction | None]
) -> tuple[float, tuple[float, ...]]:
    """Measure the frame rate of a video, and the time of each frame unless the rate is constant.

    The rate is constant if every time is where the rate puts it, up to the rounding of stored times and half a frame,
    and the last frame is not held.

    Args:
        ticks: [n], when each frame is shown, ascending, in ticks; the last comes after the first.
        durations: [n], for how long the file says that each frame is shown, in ticks.
        tick: Unit of the times, in seconds.
        declared: Frame rates that the header names, in frames per second; the first that fits is taken.

    Returns:
        Frames per second, and the time of each frame in seconds after the first; no times where frame i is shown at
        i / rate.

    >>> measure_times(np.array([0, 33, 67, 100]), np.ones(4), Fraction(1, 1000), [Fraction(1000)])
    (30.0, ())
    >>> measure_times(np.array([0, 10, 20, 70]), np.array([10, 10, 50, 30]), Fraction(1, 100), [Fraction(10)])
    (4.0, (0.0, 0.1, 0.2, 0.7))
    """
    units = ticks - ticks[0]
    times = units * tick.numerator / tick.denominator
    mean = (len(times) - 1) / float(times[-1])
    last = _last_duration(units, durations, tick)
    for rate in (*declared, Fraction(round(mean)), round(mean / _NTSC) * _NTSC):
        if rate and _fits(times, rate, tick) and last <= 1.5 / rate:
            return float(rate), ()
    return len(times) / (float(times[-1]) + (last or 1 / mean)), tuple(times.tolist())


def _last_duration(units: NDArray[np.int64], durations: NDArray[np.int64], tick: Fraction) -> float:
    """Return for how long the last frame is shown, in seconds; 0 if the durations are not those of the other frames."""
    # Many files state the durations of a constant rate, or those of the order of decoding.
    off = int(np.abs(units[:-1] + durations[:-1] - units[1:]).max()) * tick
    return float(int(durations[-1]) * tick) if off <= max(float(tick), _ROUNDING) else 0.0


def _fits(times: NDArray[np.float64], rate: Fraction, tick: Fraction) -> bool:
    off = np.abs(times - np.arange(len(times)) / float(rate)).max()
    return bool(off <= min(max(float(tick), _ROUNDING), 0.5 / float(rate)) + 1e-9)
