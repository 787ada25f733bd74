"""Weather and seeing as smooth functions of time, repeatable for a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Pressure at the site [Pa] (measured: real headers hold 73760 to 74390).
_PRESSURE_PA = 74100.0


@dataclass(frozen=True, slots=True)
class WeatherReport:
    """Weather at one moment.

    Attributes
    ----------
    temperature_deg_c
        Air temperature [deg C].
    pressure_pa
        Air pressure [Pa].
    humidity_percent
        Relative humidity [%].
    wind_m_s, wind_deg
        Speed [m/s] and direction it comes from [deg], north 0, east 90.
    seeing_arcsec
        FWHM at zenith, 500 nm [arcsec].
    """

    temperature_deg_c: float
    pressure_pa: float
    humidity_percent: float
    wind_m_s: float
    wind_deg: float
    seeing_arcsec: float


class Weather:
    """Slow waves of each quantity, with phases from the seed.

    Parameters
    ----------
    seed
        Chooses the phases.
    """

    def __init__(self, seed: int) -> None:
        self._phases = np.random.default_rng([seed, 0x77656174]).uniform(0, 2 * np.pi, (6, 3))

    def at(self, tai: float) -> WeatherReport:
        """Give the weather at a moment [s, TAI]."""
        hours = tai / 3600.0
        periods_h = np.array([7.3, 1.9, 0.37])
        waves = np.sin(2 * np.pi * hours / periods_h + self._phases) @ np.array([1.0, 0.4, 0.1])
        return WeatherReport(
            temperature_deg_c=float(9.0 + 2.5 * waves[0]),
            pressure_pa=float(_PRESSURE_PA + 120.0 * waves[1]),
            humidity_percent=float(35.0 + 12.0 * waves[2]),
            wind_m_s=float(5.0 + 2.0 * waves[3]),
            wind_deg=float((20.0 + 40.0 * waves[4]) % 360.0),
            seeing_arcsec=float(0.75 + 0.12 * waves[5]),
        )
