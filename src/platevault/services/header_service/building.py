"""Builds the header of one exposure from what was sampled and what its events say.

References
----------
Header contract, sections B1, B2 and B8; raw-fits contract, sections 5, 6 and 16.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from platevault.domain.camera import Camera, Detector
from platevault.domain.header_cards import (
    PRIMARY,
    card_of,
    extra_key,
    free_card,
    lay_out,
    sensor_section,
    sensor_values,
)
from platevault.domain.header_sources import (
    FixedKind,
    FixedSource,
    Source,
    TopicMode,
    TopicSource,
)
from platevault.domain.header_validation import (
    RejectedValueError,
    check_limits,
    contradictions,
    typed_value,
)
from platevault.domain.headers import (
    Card,
    Collected,
    HeaderDocument,
    HeaderStatus,
    HeaderValue,
    KeywordRecord,
)
from platevault.domain.ids import ImageName, InvalidNameError
from platevault.domain.keyed_lists import split_pairs
from platevault.domain.keywords import Capture, Keyword, KeywordSet, Required, Section
from platevault.services.header_service.assessing import CORRECTION, assessed
from platevault.services.header_service.computing import computed_value
from platevault.services.header_service.conversions import Found
from platevault.services.header_service.evaluation import Evaluation
from platevault.services.header_service.exposures import START, Correction, ExposureEvents
from platevault.services.header_service.sampling import Samples

_FOCAL_PLANE = "focalPlaneSummaryInfo"
#: Topics that are said again and again, so that one that was not heard will be.
_MEASURED = frozenset({TopicMode.SAMPLE, TopicMode.INTERPOLATE, TopicMode.BLOCK})
#: Outcomes that are worth less than a value from before a restart.
_SECOND_TO_KEPT = frozenset({Collected.MISSING, Collected.STALE, Collected.DEFAULTED})
#: Section and keyword.
Place = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Filled:
    row: Keyword
    found: Found
    source: str

    def record(self, section: str) -> KeywordRecord:
        found = self.found
        return KeywordRecord(
            section=section,
            keyword=self.row.keyword,
            collected=found.collected,
            source=self.source,
            sample_tai=found.sample_tai,
            age_s=found.age_s,
            problem=found.problem,
        )


class HeaderBuilder:
    """Makes header objects of one camera; the same input gives the same header.

    Parameters
    ----------
    camera
        The camera.
    keywords
        Its keyword set.
    texts
        Values of ``config:`` sources by name: ``origin``, ``facility``, ``observer``, ``tstand``.
    """

    def __init__(
        self, *, camera: Camera, keywords: KeywordSet, texts: Mapping[str, HeaderValue]
    ) -> None:
        self._camera = camera
        self.keywords = keywords
        self._texts = texts
        self._topic_rows = [
            row for row in keywords.captured if row.capture in {Capture.START, Capture.READOUT}
        ]

    def snapshot(self, events: ExposureEvents, samples: Samples) -> dict[Place, Found]:
        """Take the values of telemetry that are known by now, to survive a restart.

        Only values that came out well, of the exposure as a whole, from other topics than the
        events of the image.
        """
        evaluation = Evaluation(keywords=self.keywords, samples=samples, events=events)
        taken = {}
        for row in self._topic_rows:
            if row.section is not Section.PRIMARY or not isinstance(row.source, TopicSource):
                continue
            found = self._evaluated(row, row.source, evaluation, None)
            if found.collected is Collected.OK and found.sample_tai is not None:
                taken[PRIMARY, row.keyword] = found
        return taken

    def lacks_telemetry(
        self, events: ExposureEvents, samples: Samples, kept: Mapping[Place, Found]
    ) -> bool:
        """Tell whether a needed keyword reads a topic that was never heard, and was not kept."""
        for row in self._topic_rows:
            source = row.source
            if (
                not isinstance(source, TopicSource)
                or row.section is not Section.PRIMARY
                or row.required is Required.NO
                or source.component == self.keywords.camera_component
                or (PRIMARY, row.keyword) in kept
                or events.moment(row.capture) is None
            ):
                continue
            if self.keywords.policy(source.address).mode in _MEASURED and not len(
                samples.of(source.address)
            ):
                return True
        return False

    def build(
        self,
        events: ExposureEvents,
        samples: Samples,
        *,
        version: int,
        created_tai: float,
        kept: Mapping[Place, Found],
        missed: bool = False,
    ) -> HeaderDocument:
        """Build a header.

        Parameters
        ----------
        events
            Events and corrections of the exposure.
        samples
            Readings of every other topic.
        version
            Version of the header.
        created_tai
            Moment of the first version, which becomes DATE [s, TAI].
        kept
            Values of a `snapshot` before a restart, for those that cannot be found any more.
        missed
            See `Evaluation`.
        """
        evaluation = Evaluation(
            keywords=self.keywords, samples=samples, events=events, missed=missed
        )
        primary = self._primary(evaluation, events, kept)
        values = {keyword: filled.found.value for keyword, filled in primary.items()}
        for row in self.keywords.captured:
            if row.section is Section.PRIMARY and row.capture is Capture.COMPUTED:
                filled = self._computed(row, values, events.image, created_tai)
                filled = self._corrected(filled, events.corrections)
                primary[row.keyword] = filled
                values[row.keyword] = filled.found.value
        detectors = self._detectors(evaluation)
        sensors = self._sensors(evaluation, detectors)
        sections = {PRIMARY: self._laid_out(primary, Section.PRIMARY, self._extra(events))}
        for detector in detectors:
            section = sensor_section(detector)
            sections[section] = self._laid_out(sensors[section], Section.SENSOR, ())
        return self._document(events, version, sections, primary, sensors)

    # --- primary section --------------------------------------------------------------------------

    def _primary(
        self, evaluation: Evaluation, events: ExposureEvents, kept: Mapping[Place, Found]
    ) -> dict[str, _Filled]:
        primary: dict[str, _Filled] = {}
        for row in self.keywords.captured:
            if row.section is not Section.PRIMARY or row.capture is Capture.COMPUTED:
                continue
            filled = self._filled(row, evaluation, events.image, None)
            held = kept.get((PRIMARY, row.keyword))
            if held is not None and filled.found.collected in _SECOND_TO_KEPT:
                filled = _Filled(row, held, str(row.source))
            primary[row.keyword] = self._corrected(filled, events.corrections)
        for with_default in (True, False):  # a default may contradict as well
            values = {keyword: filled.found.value for keyword, filled in primary.items()}
            for keyword, why in contradictions(values, self._camera, events.image).items():
                if keyword not in primary:
                    continue
                filled = _rejected(primary[keyword], why)
                primary[keyword] = (
                    self._defaulted(filled, evaluation, events.image, None)
                    if with_default
                    else filled
                )
        return primary

    def _filled(
        self, row: Keyword, evaluation: Evaluation, image: str, detector: Detector | None
    ) -> _Filled:
        found = self._evaluated(row, row.source, evaluation, detector, image)
        filled = _Filled(row, found, str(row.source))
        return self._defaulted(filled, evaluation, image, detector)

    def _defaulted(
        self, filled: _Filled, evaluation: Evaluation, image: str, detector: Detector | None
    ) -> _Filled:
        row, found = filled.row, filled.found
        if row.default is None or found.collected in {Collected.OK, Collected.DEFAULTED}:
            return filled
        other = self._evaluated(row, row.default, evaluation, detector, image)
        if other.value is None:
            return filled
        collected = (
            Collected.OK if _is_fixed(row.source) and not found.value else Collected.DEFAULTED
        )
        return _Filled(
            row, replace(other, collected=collected, problem=found.problem), str(row.default)
        )

    def _evaluated(
        self,
        row: Keyword,
        source: Source,
        evaluation: Evaluation,
        detector: Detector | None,
        image: str = "",
    ) -> Found:
        if isinstance(source, FixedSource):
            value = self._fixed(source, image, detector)
            found = Found(value) if value is not None else _missing(f"{source} is not set")
        elif source.monitor:
            found = evaluation.monitored(source)
        else:
            located = evaluation.locate(source, row.capture, row.max_age_s)
            found = evaluation.value(source, located, detector.compact_name if detector else "")
        return _checked(row, found)

    def _fixed(self, source: FixedSource, image: str, detector: Detector | None) -> HeaderValue:
        match source.kind:
            case FixedKind.STATIC:
                return source.text
            case FixedKind.CONFIG:
                return self._texts.get(source.text)
            case FixedKind.CAMERA:
                if source.text.startswith("constants."):
                    return self._camera.constants[source.text.removeprefix("constants.")]
                value = getattr(self._camera, source.text)
                return value if isinstance(value, int | float | str) else None
            case FixedKind.DETECTOR:
                return self._of_detector(source.text, detector)
            case FixedKind.IMAGE:
                return _of_image(source.text, image)
            case FixedKind.RULE:
                return None

    def _of_detector(self, name: str, detector: Detector | None) -> HeaderValue:
        if detector is None:
            return None
        match name:
            case "vendor" | "model":
                return str(getattr(detector.type, name))
            case "board_name":
                return self._camera.board_of(detector.name).lsst_name or None
            case "board_serial":
                return self._camera.board_of(detector.name).serial or None
            case _:
                return str(getattr(detector, name)) or None

    def _computed(
        self, row: Keyword, values: Mapping[str, HeaderValue], image: str, created_tai: float
    ) -> _Filled:
        assert isinstance(row.source, FixedSource)
        value = computed_value(
            row.source.text, values, image=image, created_tai=created_tai, camera=self._camera
        )
        found = Found(value) if value is not None else _missing(f"{row.source.text} has no input")
        return _Filled(row, _checked(row, found), str(row.source))

    def _corrected(self, filled: _Filled, corrections: Iterable[Correction]) -> _Filled:
        for correction in corrections:
            keyword = filled.row.keyword
            if keyword in correction.values:
                note = f"{correction.reason} ({correction.author})"
                found = _checked(filled.row, Found(correction.values[keyword], problem=note))
                filled = _Filled(filled.row, found, CORRECTION)
        return filled

    def _extra(self, events: ExposureEvents) -> tuple[Card, ...]:
        """Pass on keys of the take command that the schema does not know, and corrections."""
        cards: dict[str, Card] = {}
        keys = events.carrier(START, "additionalKeys")
        if keys is not None:
            fields = keys[0].fields
            pairs = split_pairs(str(fields[keys[1]]), str(fields.get("additionalValues") or ""))
            known = {
                row.source.key
                for row in self.keywords.captured
                if isinstance(row.source, TopicSource)
            }
            for key, text in pairs.items():
                card = free_card(extra_key(key), text) if key not in known else None
                if card is not None:
                    cards[card.keyword] = card
        rows = self.keywords.by_keyword
        for correction in events.corrections:
            for keyword, value in correction.values.items():
                card = free_card(keyword, value)
                if card is not None and (Section.PRIMARY, card.keyword) not in rows:
                    cards[card.keyword] = replace(card, comment=correction.reason)
        return tuple(cards.values())

    # --- sensor sections --------------------------------------------------------------------------

    def _detectors(self, evaluation: Evaluation) -> tuple[Detector, ...]:
        """Give the sensors that the camera says it has; all of its description if it says none."""
        for row in self.keywords.captured:
            source = row.source
            if isinstance(source, TopicSource) and source.topic == _FOCAL_PLANE:
                located = evaluation.locate(source, row.capture)
                named = set(evaluation.sensors(located))
                chosen = tuple(one for one in self._camera.detectors if one.compact_name in named)
                return chosen or self._camera.detectors
        return self._camera.detectors

    def _sensors(
        self, evaluation: Evaluation, detectors: Sequence[Detector]
    ) -> dict[str, dict[str, _Filled]]:
        filled: dict[str, dict[str, _Filled]] = {sensor_section(one): {} for one in detectors}
        for row in self.keywords.captured:
            if row.section is not Section.SENSOR:
                continue
            source = row.source
            located = (
                evaluation.locate(source, row.capture, row.max_age_s)
                if isinstance(source, TopicSource)
                else None
            )
            for detector in detectors:
                if located is not None and isinstance(source, TopicSource):
                    value = evaluation.value(source, located, detector.compact_name)
                    one = _Filled(row, _checked(row, value), str(source))
                    one = self._defaulted(one, evaluation, "", detector)
                elif row.capture is Capture.COMPUTED:
                    known = sensor_values(self._camera, detector).get(row.keyword)
                    one = _Filled(row, _checked(row, Found(known)), str(source))
                else:
                    one = self._filled(row, evaluation, "", detector)
                filled[sensor_section(detector)][row.keyword] = one
        return filled

    # --- document ---------------------------------------------------------------------------------

    def _laid_out(
        self, filled: Mapping[str, _Filled], section: Section, extra: Iterable[Card]
    ) -> tuple[Card, ...]:
        groups: dict[str, list[Card]] = {}
        for row in self.keywords.keywords:
            if row.section is not section or row.capture is Capture.FILE:
                continue
            one = filled.get(row.keyword)
            value = None if one is None else one.found.value
            if value is not None or not row.omitted:
                groups.setdefault(row.group, []).append(card_of(row, value))
        groups.setdefault("keys", []).extend(extra)
        return lay_out(groups)

    def _document(
        self,
        events: ExposureEvents,
        version: int,
        sections: Mapping[str, Sequence[Card]],
        primary: Mapping[str, _Filled],
        sensors: Mapping[str, Mapping[str, _Filled]],
    ) -> HeaderDocument:
        records = [one.record(PRIMARY) for one in primary.values()]
        for row in self.keywords.captured:
            if row.section is Section.SENSOR:
                records += [cards[row.keyword].record(name) for name, cards in sensors.items()]
        document = HeaderDocument(
            image=events.image,
            camera=self._camera.name,
            version=version,
            status=HeaderStatus.MINIMAL,
            sections=sections,
            records=tuple(records),
        )
        return assessed(document, self.keywords)


def _is_fixed(source: Source) -> bool:
    return isinstance(source, FixedSource)


def _rejected(filled: _Filled, why: str) -> _Filled:
    found = replace(filled.found, value=None, collected=Collected.REJECTED, problem=why)
    return replace(filled, found=found)


def _missing(problem: str) -> Found:
    return Found(None, Collected.MISSING, problem)


def _checked(row: Keyword, found: Found) -> Found:
    """Give the value its type, or reject it."""
    if found.value is None:
        return found
    try:
        value = typed_value(row.keyword, row.type, found.value)
        problem = check_limits(row, value)
    except RejectedValueError as error:
        value, problem = None, str(error)
    if problem:
        return replace(found, value=None, collected=Collected.REJECTED, problem=problem)
    return found if value is found.value else replace(found, value=value)


def _of_image(part: str, image: str) -> HeaderValue:
    if part == "name":
        return image
    try:
        name = ImageName.parse(image)
    except InvalidNameError:
        return None
    match part:
        case "day_obs":
            return f"{name.day_obs:08d}"
        case "sequence":
            return name.sequence
        case _:
            return str(getattr(name, part))
