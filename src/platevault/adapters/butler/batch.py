"""The files of one ingest call: which may go in, and what is wrong with the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from platevault.adapters.butler.facts import BadMetadataError, ExposureFacts, exposure_facts
from platevault.adapters.butler.raw_file import check_file, read_metadata
from platevault.domain.camera import Camera, Detector
from platevault.domain.headers import HeaderValue
from platevault.domain.ids import ImageName
from platevault.ports.ingest import BadFileError, IngestFile, IngestResult


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that may be ingested.

    Attributes
    ----------
    number
        Its place in the call.
    file, detector
        The file, and whose it is.
    facts
        What its header says of the exposure.
    """

    number: int
    file: IngestFile
    detector: Detector
    facts: ExposureFacts


@dataclass(slots=True)
class Batch:
    """The files of one call.

    Attributes
    ----------
    files
        As given.
    candidates
        Those of which nothing bad is known so far.
    problems
        What is wrong with the others, by place in ``files``.
    """

    files: Sequence[IngestFile]
    candidates: list[Candidate] = field(default_factory=list)
    problems: dict[int, BadFileError] = field(default_factory=dict)

    @classmethod
    def inspect(cls, camera: Camera, image: ImageName, files: Sequence[IngestFile]) -> Batch:
        """Look at every file and read what its header says."""
        batch = cls(files)
        seen: set[str] = set()
        for number, file in enumerate(files):
            try:
                if file.sensor in seen:
                    raise BadFileError("Sensor was given twice", sensor=file.sensor)
                seen.add(file.sensor)
                batch.candidates.append(_inspect(number, file, camera, image))
            except BadFileError as error:
                batch.problems[number] = error
        return batch

    def usual_facts(self) -> ExposureFacts:
        """Give what most candidates say; the first of equals."""
        return Counter(candidate.facts for candidate in self.candidates).most_common(1)[0][0]

    def reject(self, candidate: Candidate, error: BadFileError) -> None:
        """Take a candidate out."""
        self.candidates.remove(candidate)
        self.problems[candidate.number] = error

    def reject_facts(self, facts: ExposureFacts, error: BadFileError) -> None:
        """Take out every candidate that says ``facts``."""
        for candidate in tuple(self.candidates):
            if candidate.facts == facts:
                self.reject(candidate, error)

    def reject_missing(self) -> None:
        """Look again, and take out what is gone or broken."""
        for candidate in tuple(self.candidates):
            try:
                check_file(candidate.file.path)
            except BadFileError as error:
                self.reject(candidate, error)

    def results(self, dataset_ids: Mapping[int, str]) -> list[IngestResult]:
        """Give the result of each file, from the dataset ids by detector id."""
        ids = {c.number: dataset_ids[c.detector.id] for c in self.candidates}
        return [self._result(number, file, ids) for number, file in enumerate(self.files)]

    def _result(self, number: int, file: IngestFile, ids: Mapping[int, str]) -> IngestResult:
        error = self.problems.get(number)
        if error is None:
            return IngestResult(file.sensor, dataset_id=ids[number])
        bad_metadata = isinstance(error, BadMetadataError)
        return IngestResult(file.sensor, problem=str(error), bad_metadata=bad_metadata)


def _inspect(number: int, file: IngestFile, camera: Camera, image: ImageName) -> Candidate:
    detector = camera.detector_by_name.get(file.sensor)
    if detector is None:
        raise BadMetadataError(
            "Sensor is not in the camera", sensor=file.sensor, camera=camera.name
        )
    # A direct ingest takes a relative path for one below the repository.
    absolute = IngestFile(Path(file.path).absolute(), file.sensor, file.sidecar)
    check_file(absolute.path)
    metadata = read_metadata(absolute.path, file.sidecar)
    _check_sensor(metadata, detector)
    facts = exposure_facts(metadata, camera=camera, image=image)
    return Candidate(number, absolute, detector, facts)


def _check_sensor(metadata: Mapping[str, HeaderValue], detector: Detector) -> None:
    for keyword, expected in (("RAFTBAY", detector.raft), ("CCDSLOT", detector.slot)):
        value = metadata.get(keyword)
        if value != expected:
            raise BadMetadataError(
                "Header is of another sensor", field=keyword, value=value, expected=expected
            )
