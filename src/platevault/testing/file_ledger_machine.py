"""A state machine that compares a ledger with an oracle, which shares no code with it."""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from typing_extensions import override

from platevault.domain.errors import PlatevaultError
from platevault.domain.ids import FileKey, FileKind
from platevault.domain.inventory import Exposure
from platevault.domain.lifecycles import Destination, FileState
from platevault.ports.file_ledger import Change, FileLedger, Staged

#: Where a file may go, as the documentation draws it.
_LIFE = {
    "expected": "written late ready sending abandoned dead",
    "late": "written ready sending abandoned dead",
    "written": "ready held sending corrupt removed verified",
    "held": "ready abandoned",
    "ready": "sending held abandoned",
    "sending": "sent written retry dead ready",
    "sent": "verified retry dead",
    "verified": "catalogued retry dead corrupt removed",
    "catalogued": "removed corrupt",
    "retry": "ready sending dead abandoned",
    "dead": "ready abandoned",
    "corrupt": "ready dead",
    "abandoned": "ready",
    "removed": "ready",
}
#: What needs nothing more, by place and kind of file.
_DONE = {
    ("archive", "raw"): "written verified catalogued",
    ("archive", "sidecar"): "written verified catalogued",
    ("oods", "raw"): "catalogued",
    ("oods", "sidecar"): "verified catalogued",
    ("backbone", "raw"): "verified catalogued",
    ("backbone", "sidecar"): "verified catalogued",
}
_IN_PLACE = "written sent verified catalogued"
_FAILURES = "retry dead ready"
_STATES = sorted(_LIFE)
_DIGESTS = (None, "", "md5:aa", "md5:bb")

_EXPOSURE = Exposure("CC_O_20250415_000001", "LSSTComCam", 20250415, 1, {"R22_S00": "SCIENCE"})
_KINDS = ("raw", "sidecar")

_Place = tuple[str, str]  # kind, destination
_places = st.tuples(st.sampled_from(_KINDS), st.sampled_from(["archive", "oods", "backbone"]))
_fences = st.integers(0, 4)


def _key(kind: str) -> FileKey:
    return FileKey(_EXPOSURE.image, "R22_S00", FileKind(kind))


class _Refused(Exception):  # noqa: N818 - it is a verdict of the oracle, no error
    def __init__(self, *names: str) -> None:
        super().__init__(*names)
        self.names = set(names)


class _Oracle:
    """The rules once more, on dictionaries."""

    def __init__(self) -> None:
        self.files: dict[_Place, dict[str, Any]] = {
            place: {
                "state": "expected",
                "path": "",
                "size_bytes": 0,
                "digest": "",
                "degraded": False,
                "attempt": 0,
                "fence": 0,
                "reason": "",
                "changed_tai": 0.0,
            }
            for place in itertools.product(_KINDS, ("archive", "oods", "backbone"))
        }
        self.attempts: dict[tuple[_Place, int], dict[str, Any]] = {}

    def begin(self, places: list[_Place], fence: int, now_tai: float) -> list[tuple[_Place, int]]:
        reasons = set()
        for place in places:
            file = self.files[place]
            if fence and fence < file["fence"]:
                reasons.add("StaleFenceError")
            elif file["state"] in _DONE[place[1], place[0]].split():
                continue
            elif file["state"] != "sending" and "sending" not in _LIFE[file["state"]].split():
                reasons.add("StateConflictError")
        if reasons:
            raise _Refused(*reasons)
        opened = []
        for place in places:
            file = self.files[place]
            if file["state"] in _DONE[place[1], place[0]].split():
                continue
            still_open = self.attempts.get((place, file["attempt"]))
            if still_open is not None and still_open["outcome"] == "":
                still_open |= {"outcome": "lost", "ended_tai": now_tai}
            number = file["attempt"] + 1
            file |= {
                "state": "sending",
                "attempt": number,
                "fence": max(fence, file["fence"]),
                "reason": "",
                "changed_tai": now_tai,
            }
            self.attempts[place, number] = {
                "fence": fence,
                "started_tai": now_tai,
                "ended_tai": None,
                "staged_digest": "",
                "outcome": "",
                "error": "",
            }
            opened.append((place, number))
        return opened

    def stage(self, place: _Place, number: int, digest: str) -> None:
        attempt = self.attempts.get((place, number))
        if attempt is not None and attempt["outcome"] == "lost":
            raise _Refused("StaleFenceError")
        if attempt is None or attempt["outcome"]:
            raise _Refused("StateConflictError")
        attempt["staged_digest"] = digest

    def apply(self, changes: list[tuple[_Place, dict[str, Any]]], now_tai: float) -> None:
        trial = copy.deepcopy((self.files, self.attempts))
        reasons: set[str] = set()
        for place, change in changes:
            reasons |= self._change(*trial, place, change, now_tai)
        if reasons:
            raise _Refused(*reasons)
        self.files, self.attempts = trial

    @staticmethod
    def _change(
        files: dict[_Place, dict[str, Any]],
        attempts: dict[tuple[_Place, int], dict[str, Any]],
        place: _Place,
        change: dict[str, Any],
        now_tai: float,
    ) -> set[str]:
        file, to = files[place], change["to"]
        before = file["state"]
        stale = 0 < change["fence"] < file["fence"]
        if stale:
            done_already = before == to and change["digest"] == file["digest"] != ""
            return set() if done_already else {"StaleFenceError"}
        if before != to and to not in _LIFE[before].split():
            return {"StateConflictError"}
        held = before in _IN_PLACE.split() and to in _IN_PLACE.split()
        if held and change["digest"] and file["digest"] not in {"", change["digest"]}:
            return {"StateConflictError"}
        file |= {"state": to, "reason": change["reason"]}
        file["fence"] = max(file["fence"], change["fence"])
        file |= {
            name: change[name]
            for name in ("path", "size_bytes", "digest", "degraded")
            if change[name] is not None
        }
        if before != to:
            file["changed_tai"] = now_tai
            attempt = attempts.get((place, file["attempt"]))
            if attempt is not None and attempt["outcome"] == "":
                failed = to in _FAILURES.split()
                attempt |= {
                    "ended_tai": now_tai,
                    "outcome": "failed" if failed else "done",
                    "error": change["reason"] if failed else "",
                }
        return set()


class FileLedgerMachine(RuleBasedStateMachine):
    """Does the same to a ledger and to the oracle, and compares all rows after each step."""

    store: ClassVar[Any]

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._oracle = _Oracle()
        self._now = 0.0
        self._opener: Callable[[], AbstractAsyncContextManager[FileLedger]] = self.store()
        self._opened: AbstractAsyncContextManager[FileLedger] | None = None
        self._open()
        self._runner.run(
            self._ledger.register(
                _EXPOSURE, files=[_key(kind) for kind in _KINDS], now_tai=self._now
            )
        )

    def _open(self) -> None:
        opened = self._opener()
        self._ledger = self._runner.run(opened.__aenter__())
        self._opened = opened

    def _close(self) -> None:
        if self._opened is not None:
            self._runner.run(self._opened.__aexit__(None, None, None))
            self._opened = None

    @override
    def teardown(self) -> None:
        self._close()
        self._runner.close()

    def _agree(self, expected: _Refused | None, actual: PlatevaultError | None) -> None:
        if expected is None:
            assert actual is None, actual
        else:
            assert type(actual).__name__ in expected.names, (expected.names, actual)

    @rule(
        kinds=st.lists(st.sampled_from(_KINDS), min_size=1, max_size=2, unique=True),
        destination=st.sampled_from(["archive", "oods", "backbone"]),
        fence=_fences,
    )
    def begin(self, kinds: list[str], destination: str, fence: int) -> None:
        self._now += 1.0
        expected, actual, opened = None, None, []
        try:
            opened = self._oracle.begin([(kind, destination) for kind in kinds], fence, self._now)
        except _Refused as verdict:
            expected = verdict
        try:
            attempts = self._runner.run(
                self._ledger.begin(
                    [_key(kind) for kind in kinds],
                    Destination(destination),
                    worker="f1",
                    fence=fence,
                    now_tai=self._now,
                )
            )
            assert [((one.key.kind, one.destination), one.number) for one in attempts] == opened
        except PlatevaultError as error:
            actual = error
        self._agree(expected, actual)

    @rule(place=_places, number=st.integers(1, 4), digest=st.sampled_from(["md5:aa", "md5:bb"]))
    def stage(self, place: _Place, number: int, digest: str) -> None:
        expected, actual = None, None
        try:
            self._oracle.stage(place, number, digest)
        except _Refused as verdict:
            expected = verdict
        try:
            self._runner.run(
                self._ledger.stage(
                    [Staged(_key(place[0]), Destination(place[1]), number, "/t", 3, digest)]
                )
            )
        except PlatevaultError as error:
            actual = error
        self._agree(expected, actual)

    @rule(
        changes=st.dictionaries(
            _places,
            st.fixed_dictionaries(
                {
                    "to": st.sampled_from(_STATES),
                    "fence": _fences,
                    "digest": st.sampled_from(_DIGESTS),
                    "path": st.sampled_from([None, "/p"]),
                    "size_bytes": st.sampled_from([None, 5]),
                    "degraded": st.sampled_from([None, True, False]),
                    "reason": st.sampled_from(["", "why"]),
                }
            ),
            min_size=1,
            max_size=3,
        )
    )
    def apply(self, changes: dict[_Place, dict[str, Any]]) -> None:
        self._apply(changes)

    @rule(place=_places, fence=_fences, data=st.data())
    def advance(self, place: _Place, fence: int, data: st.DataObject) -> None:
        """Take a step that the file's life allows, so that every state is visited."""
        to = data.draw(st.sampled_from(_LIFE[self._oracle.files[place]["state"]].split()))
        self._apply(
            {
                place: {
                    "to": to,
                    "fence": fence,
                    "digest": "md5:aa",
                    "path": None,
                    "size_bytes": None,
                    "degraded": None,
                    "reason": "",
                }
            }
        )

    def _apply(self, changes: dict[_Place, dict[str, Any]]) -> None:
        self._now += 1.0
        expected, actual = None, None
        try:
            self._oracle.apply([*changes.items()], self._now)
        except _Refused as verdict:
            expected = verdict
        wanted = [
            Change(
                _key(kind),
                Destination(destination),
                FileState(change["to"]),
                fence=change["fence"],
                path=change["path"],
                size_bytes=change["size_bytes"],
                digest=change["digest"],
                degraded=change["degraded"],
                reason=change["reason"],
            )
            for (kind, destination), change in changes.items()
        ]
        try:
            self._runner.run(self._ledger.apply(wanted, now_tai=self._now))
        except PlatevaultError as error:
            actual = error
        self._agree(expected, actual)

    @rule()
    def reopen(self) -> None:
        self._close()
        self._open()

    @invariant()
    def every_row_agrees(self) -> None:
        if self._opened is None:
            return
        files = self._runner.run(self._ledger.files(image=_EXPOSURE.image))
        assert {
            (record.key.kind.value, record.destination.value): {
                "state": record.state.value,
                "path": record.path,
                "size_bytes": record.size_bytes,
                "digest": record.digest,
                "degraded": record.degraded,
                "attempt": record.attempt,
                "fence": record.fence,
                "reason": record.reason,
                "changed_tai": record.changed_tai,
            }
            for record in files
        } == self._oracle.files
        attempts = self._runner.run(self._ledger.attempts(_EXPOSURE.image))
        assert {
            ((one.key.kind.value, one.destination.value), one.number): {
                "fence": one.fence,
                "started_tai": one.started_tai,
                "ended_tai": one.ended_tai,
                "staged_digest": one.staged_digest,
                "outcome": one.outcome,
                "error": one.error,
            }
            for one in attempts
        } == self._oracle.attempts
        moments = [one.started_tai for one in attempts]
        assert moments == sorted(moments)
        unfinished = self._runner.run(self._ledger.exposures(unfinished=True))
        assert bool(unfinished) == any(
            file["state"] not in f"{_DONE[place[1], place[0]]} dead abandoned removed".split()
            for place, file in self._oracle.files.items()
        )
