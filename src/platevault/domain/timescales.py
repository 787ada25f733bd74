"""TAI inside, UTC for people and for the observing day.

References
----------
IERS Bulletin C (leap seconds); SITCOMTN-032 (observing day).
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, datetime, timedelta

#: Unix second [s, UTC] from which each value of TAI-UTC [s] holds (IERS Bulletin C).
_LEAP_SECONDS: tuple[tuple[int, int], ...] = (
    (63072000, 10), (78796800, 11), (94694400, 12), (126230400, 13), (157766400, 14),
    (189302400, 15), (220924800, 16), (252460800, 17), (283996800, 18), (315532800, 19),
    (362793600, 20), (394329600, 21), (425865600, 22), (489024000, 23), (567993600, 24),
    (631152000, 25), (662688000, 26), (709948800, 27), (741484800, 28), (773020800, 29),
    (820454400, 30), (867715200, 31), (915148800, 32), (1136073600, 33), (1230768000, 34),
    (1341100800, 35), (1435708800, 36), (1483228800, 37),
)  # fmt: skip
_UTC_STARTS = [start for start, _ in _LEAP_SECONDS]
_TAI_STARTS = [start + offset for start, offset in _LEAP_SECONDS]

#: Modified Julian date of the unix epoch [d].
MJD_UNIX_EPOCH = 40587.0
#: Hours after midnight UTC at which a new observing day begins (SITCOMTN-032).
DAY_OBS_ROLLOVER_H = 12


def tai_from_utc(utc_unix_s: float) -> float:
    """Convert unix seconds [s, UTC] to TAI unix seconds [s, TAI]."""
    index = bisect_right(_UTC_STARTS, utc_unix_s) - 1
    return utc_unix_s + (_LEAP_SECONDS[index][1] if index >= 0 else 10)


def utc_from_tai(tai_s: float) -> float:
    """Convert TAI unix seconds [s, TAI] to unix seconds [s, UTC]."""
    index = bisect_right(_TAI_STARTS, tai_s) - 1
    return tai_s - (_LEAP_SECONDS[index][1] if index >= 0 else 10)


def mjd(seconds: float) -> float:
    """Give the modified Julian date [d] of unix seconds, in the scale of ``seconds``."""
    return MJD_UNIX_EPOCH + seconds / 86400.0


def isot(seconds: float) -> str:
    """Format unix seconds as ``YYYY-MM-DDThh:mm:ss.sss``, in the scale of ``seconds``."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=round(seconds * 1000.0))
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}"


def day_obs_of(tai_s: float) -> int:
    """Give the observing day YYYYMMDD of a moment [s, TAI]: the UTC date 12 hours earlier."""
    utc = utc_from_tai(tai_s) - DAY_OBS_ROLLOVER_H * 3600
    return int((datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=utc)).strftime("%Y%m%d"))
