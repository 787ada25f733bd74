"""Exposures go from the camera's events to durable, delivered files."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import astropy.io.fits
import numpy as np
import pytest

from platevault.domain.ids import FileKey, FileKind
from platevault.domain.lifecycles import Destination, FileState, SummaryState
from platevault.domain.messages import ImageRetrieval, IngestRequest, singles
from platevault.domain.places import archiver_queue, oods_queue
from platevault.sal.acks import CommandFailedError
from platevault.services.archiver import ArchiverConfiguration
from platevault.sim.pixels import amplifier_planes
from platevault.sim.recipe import ImageType, PixelRecipe
from platevault.testing.capture import CaptureRig

SENSORS = {"R00_SG0", "R00_SG1", "R22_S00", "R22_S01"}


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[CaptureRig]:
    async with CaptureRig(tmp_path) as rig:
        yield rig


def folder_of(rig: CaptureRig, image: str, root: Path | None = None) -> Path:
    return (root or rig.archive) / rig.camera.name / "20330517" / image


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def file_set(image: str) -> set[str]:
    return {f"{image}_expectedSensors.json"} | {
        f"{image}_{sensor}.{ending}" for sensor in SENSORS for ending in ("fits", "json")
    }


def primary(rig: CaptureRig, image: str, sensor: str) -> dict[str, object]:
    sidecar = folder_of(rig, image) / f"{image}_{sensor}.json"
    return dict(json.loads(sidecar.read_text()))


async def test_an_exposure_becomes_one_file_per_sensor_at_every_destination(
    rig: CaptureRig,
) -> None:
    await rig.corridor(forwarders=2)
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: rig.is_delivered(image))
    for root in (rig.archive, *rig.areas.values()):
        assert names_in(folder_of(rig, image, root)) == file_set(image)


async def test_pixels_and_headers_read_back_by_another_library(rig: CaptureRig) -> None:
    await rig.corridor()
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: rig.is_archived(image))
    for detector in rig.camera.detectors:
        path = folder_of(rig, image) / f"{image}_{detector.name}.fits"
        truth = amplifier_planes(
            rig.camera, detector, PixelRecipe(ImageType.BIAS), seed=7, image=image
        )
        with astropy.io.fits.open(path, checksum=True) as hdus:
            planes = np.stack([hdu.data for hdu in hdus[1:]])
            header = hdus[0].header
        np.testing.assert_array_equal(planes, truth)
        assert header["OBJECT"] == "from the Header Service"
        assert (header["RAFTBAY"], header["CCDSLOT"]) == (detector.raft, detector.slot)


async def test_the_sidecar_says_what_the_primary_header_says(rig: CaptureRig) -> None:
    await rig.corridor()
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: rig.is_archived(image))
    path = folder_of(rig, image) / f"{image}_R22_S01.fits"
    with astropy.io.fits.open(path) as hdus:
        header = hdus[0].header
    sidecar = primary(rig, image, "R22_S01")
    assert sidecar.pop("__CONTENT__") == "metadata"
    expected = {
        card.keyword: None if isinstance(card.value, astropy.io.fits.card.Undefined) else card.value
        for card in header.cards
        if card.keyword not in {"", "COMMENT"}
    }
    assert {key: sidecar[key] for key in sorted(sidecar)} == {
        key: expected[key] for key in sorted(expected)
    }
    assert "CHECKSUM" in sidecar


async def test_the_manifest_is_there_before_the_first_sensor(rig: CaptureRig) -> None:
    await rig.corridor()
    image = rig.image_name()
    await rig.begin(image)
    manifest = folder_of(rig, image) / f"{image}_expectedSensors.json"
    await rig.until(manifest.exists)
    assert names_in(folder_of(rig, image)) == {manifest.name}
    told = json.loads(manifest.read_text())
    assert told["obsId"] == image
    assert set(told["expectedSensors"]) == SENSORS


async def test_each_sensor_has_one_result_and_the_exposure_is_closed_once(
    rig: CaptureRig,
) -> None:
    await rig.corridor(forwarders=2)
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: bool(rig.events("exposureClosed")))
    await rig.pass_time(5.0)
    results = rig.events("imageRetrievalForArchiving", obsid=image)
    assert {f"{one.fields['raft']}_{one.fields['sensor']}" for one in results} == SENSORS
    assert len(results) == len(SENSORS)
    assert {one.fields["statusCode"] for one in results} == {0}
    assert [one.fields["status"] for one in rig.events("exposureClosed")] == [1]


async def test_a_result_comes_after_its_file_is_recorded(rig: CaptureRig) -> None:
    await rig.corridor()
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: bool(rig.events("imageRetrievalForArchiving")))
    first = rig.events("imageRetrievalForArchiving")[0].fields
    states = await rig.states(image)
    assert states[f"{first['raft']}_{first['sensor']}"] is FileState.WRITTEN


async def test_the_oods_is_asked_for_each_sensor_once(rig: CaptureRig) -> None:
    await rig.corridor()
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: rig.is_delivered(image))
    await rig.pass_time(1.0)
    asked: list[IngestRequest] = []
    async with rig.queue.consume(oods_queue(rig.camera.name), prefetch=50) as requests:
        for _ in range(await rig.queue.depth(oods_queue(rig.camera.name))):
            for message in singles((await anext(requests)).message):
                assert isinstance(message, IngestRequest)
                asked.append(message)
    assert sorted(message.sensor for message in asked) == sorted(SENSORS)
    held = names_in(folder_of(rig, image, rig.areas[Destination.OODS]))
    assert {Path(message.path).name for message in asked} <= held


async def test_copies_are_links_of_one_file(rig: CaptureRig) -> None:
    await rig.corridor()
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: rig.is_delivered(image))
    name = f"{image}_R22_S00.fits"
    inodes = {
        (folder_of(rig, image, root) / name).stat().st_ino
        for root in (rig.archive, *rig.areas.values())
    }
    assert len(inodes) == 1


async def test_a_header_may_come_before_the_pixels(rig: CaptureRig) -> None:
    await rig.corridor()
    image = rig.image_name()
    await rig.begin(image)
    await rig.pass_time(1.0)
    await rig.publish_header(image)
    await rig.pass_time(1.0)
    rig.read_out(image)
    await rig.pass_time(3.0)
    await rig.end(image)
    await rig.until(lambda: rig.is_archived(image))
    assert primary(rig, image, "R22_S00")["OBJECT"] == "from the Header Service"


async def test_a_header_may_come_long_after_the_pixels(rig: CaptureRig) -> None:
    await rig.corridor()
    image = rig.image_name()
    await rig.take(image, header=False)
    await rig.pass_time(15.0)
    assert not await rig.is_archived(image)
    await rig.publish_header(image)
    await rig.until(lambda: rig.is_archived(image), limit_s=4.0)
    assert primary(rig, image, "R22_S00")["OBJECT"] == "from the Header Service"
    assert not any(row.degraded for row in (await rig.files(image)).values())


async def test_without_a_header_the_image_is_written_with_what_the_camera_said(
    rig: CaptureRig,
) -> None:
    await rig.corridor()
    image = rig.image_name()
    await rig.take(image, header=False)
    await rig.until(lambda: rig.is_archived(image), limit_s=30.0)
    header = primary(rig, image, "R00_SG1")
    assert (header["OBSID"], header["IMGTYPE"], header["CCDSLOT"]) == (image, "BIAS", "SG1")
    assert all(row.degraded for row in (await rig.files(image)).values())
    await rig.until(lambda: bool(rig.events("exposureClosed")))
    results = rig.events("imageRetrievalForArchiving")
    assert [one.fields["statusCode"] for one in results] == [5610] * 4
    assert all("raft R" in one.fields["description"] for one in results)
    assert [one.fields["status"] for one in rig.events("exposureClosed")] == [2]


async def test_a_header_after_the_files_changes_none_of_them(rig: CaptureRig) -> None:
    await rig.corridor()
    image = rig.image_name()
    await rig.take(image, header=False)
    await rig.until(lambda: rig.is_archived(image), limit_s=30.0)
    before = {key: row.digest for key, row in (await rig.files(image)).items()}
    await rig.publish_header(image)
    await rig.until(lambda: bool(rig.logged("Header is not used")))
    await rig.pass_time(200.0)
    assert {key: row.digest for key, row in (await rig.files(image)).items()} == before


async def test_all_files_of_an_exposure_have_the_header_that_came_first(rig: CaptureRig) -> None:
    await rig.corridor()
    image = rig.image_name()
    await rig.begin(image)
    await rig.pass_time(0.5)
    for version in (1, 2):
        await rig.publish_header(image, version=version)
        await rig.pass_time(0.5)
    rig.read_out(image)
    await rig.pass_time(3.0)
    await rig.end(image)
    await rig.until(lambda: rig.is_archived(image))
    assert {primary(rig, image, sensor)["PROGRAM"] for sensor in SENSORS} == {"version 1"}
    assert rig.logged("Header is not used")


async def test_overlapping_exposures_do_not_mix(rig: CaptureRig) -> None:
    await rig.corridor(forwarders=2)
    images = [rig.image_name(number) for number in (1, 2, 3)]
    for image in images:
        await rig.begin(image)
    for image in images:
        rig.read_out(image)
    await rig.pass_time(3.0)
    for image in reversed(images):
        await rig.publish_header(image)
    for image in images:
        await rig.end(image)
    for image in images:
        await rig.until(lambda image=image: rig.is_archived(image))  # type: ignore[misc]
        assert {primary(rig, image, sensor)["OBSID"] for sensor in SENSORS} == {image}


async def test_an_end_without_a_start_is_enough(rig: CaptureRig) -> None:
    await rig.corridor()
    image = rig.image_name()
    rig.read_out(image)
    await rig.pass_time(3.0)
    await rig.end(image)
    await rig.publish_header(image)
    await rig.until(lambda: rig.is_archived(image))


async def test_events_that_come_twice_do_no_harm(rig: CaptureRig) -> None:
    await rig.corridor()
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: rig.is_delivered(image))
    before = {key: row.digest for key, row in (await rig.files(image)).items()}
    await rig.begin(image)
    await rig.end(image)
    await rig.pass_time(10.0)
    assert {key: row.digest for key, row in (await rig.files(image)).items()} == before
    assert {row.attempt for row in (await rig.files(image)).values()} == {1}
    assert len(rig.events("imageRetrievalForArchiving")) == len(SENSORS)
    assert not rig.logged("could not be handled")


async def test_another_exposure_of_the_same_name_is_refused(rig: CaptureRig) -> None:
    await rig.corridor()
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: rig.is_archived(image))
    before = {key: row.digest for key, row in (await rig.files(image)).items()}
    await rig.begin(image, timestampAcquisitionStart=1.0)
    await rig.until(lambda: bool(rig.logged("ConflictingExposureError")))
    assert "timestampAcquisitionStart" in rig.logged("ConflictingExposureError")[0]
    assert {key: row.digest for key, row in (await rig.files(image)).items()} == before
    record = await rig.ledger.exposure(image)
    assert record is not None
    assert record.exposure.facts["timestampAcquisitionStart"] != 1.0


@pytest.mark.parametrize("name", ["", "no name", "TC_O_20330517_1", "TC_O_20330517_999999"])
async def test_a_malformed_name_is_said_and_the_rest_goes_on(rig: CaptureRig, name: str) -> None:
    await rig.corridor()
    await rig.say(
        "startIntegration", **(rig.exposure_fields("TC_O_20330517_000009") | {"imageName": name})
    )
    await rig.until(lambda: bool(rig.logged("MalformedEventError")))
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: rig.is_archived(image))
    assert [one.exposure.image for one in await rig.ledger.exposures()] == [image]


async def test_an_image_of_another_camera_is_not_registered(rig: CaptureRig) -> None:
    await rig.corridor()
    await rig.begin("MC_O_20330517_000001")
    await rig.until(lambda: bool(rig.logged("StrangeImageError")))
    assert await rig.ledger.exposures() == []
    assert rig.state is SummaryState.ENABLED


async def test_only_the_enabled_detectors_are_expected(rig: CaptureRig) -> None:
    settings = ArchiverConfiguration(detectors=("R22_S01",))
    await rig.corridor(settings=settings)
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: rig.is_delivered(image))
    assert names_in(folder_of(rig, image)) == {
        f"{image}_expectedSensors.json",
        f"{image}_R22_S01.fits",
        f"{image}_R22_S01.json",
    }


async def test_a_sensor_that_the_camera_lacks_cannot_be_enabled(rig: CaptureRig) -> None:
    await rig.start(rig.archiver(settings=ArchiverConfiguration(detectors=("R99_S00",))))
    with pytest.raises(CommandFailedError, match="R99_S00"):
        await rig.command("start")
    assert rig.state is SummaryState.STANDBY


async def test_while_disabled_events_are_ignored_and_said_so(rig: CaptureRig) -> None:
    archiver = await rig.corridor()
    await rig.command("disable")
    image = rig.image_name()
    await rig.take(image)
    await rig.pass_time(5.0)
    assert await rig.ledger.exposures() == []
    assert len(rig.logged("Event ignored")) == 3
    assert archiver.ignored == 3


async def test_what_was_ignored_is_caught_up_after_enable(rig: CaptureRig) -> None:
    await rig.corridor()
    await rig.command("disable")
    image = rig.image_name()
    await rig.take(image)
    await rig.command("enable")
    await rig.until(lambda: rig.is_delivered(image), limit_s=20.0)
    assert primary(rig, image, "R22_S00")["OBJECT"] == "from the Header Service"
    record = await rig.ledger.exposure(image)
    assert record is not None
    assert record.exposure.facts["imageIndex"] == 1
    assert rig.logged("Unknown image found in the DAQ")


async def test_what_was_said_while_disabled_is_remembered(rig: CaptureRig) -> None:
    await rig.corridor()
    await rig.command("disable")
    image = rig.image_name()
    await rig.begin(image)
    await rig.step(0.1)
    await rig.command("enable")
    rig.read_out(image)
    await rig.pass_time(3.0)
    await rig.end(image)
    await rig.until(lambda: rig.is_registered(image))
    record = await rig.ledger.exposure(image)
    assert record is not None
    assert {"exposureTime", "timestampEndOfReadout"} <= record.exposure.facts.keys()


async def test_a_failure_after_a_success_is_not_told(rig: CaptureRig) -> None:
    await rig.corridor()
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: bool(rig.events("exposureClosed")))
    late = ImageRetrieval(
        camera=rig.camera.name,
        image=image,
        sensor="R22_S00",
        status_code=5611,
        description="from a worker that was cut off",
    )
    await rig.queue.send(archiver_queue(rig.camera.name), late)
    await rig.pass_time(1.0)
    assert await rig.queue.depth(archiver_queue(rig.camera.name)) == 0
    assert not rig.events("imageRetrievalForArchiving", statusCode=5611)


async def test_work_in_flight_is_finished_after_disable(rig: CaptureRig) -> None:
    await rig.corridor()
    image = rig.image_name()
    await rig.take(image)
    await rig.command("disable")
    await rig.until(lambda: rig.is_delivered(image))
    await rig.until(lambda: len(rig.events("imageRetrievalForArchiving")) == len(SENSORS))


async def test_a_restarted_archiver_goes_on_from_the_ledger(rig: CaptureRig) -> None:
    archiver = await rig.corridor()
    image = rig.image_name()
    await rig.begin(image)
    await rig.until(lambda: rig.is_registered(image))
    await rig.kill(archiver.name)
    rig.read_out(image)
    await rig.pass_time(3.0)
    await rig.end(image)  # nobody hears it
    await rig.start(rig.archiver())
    await rig.enable()
    await rig.until(lambda: rig.is_delivered(image), limit_s=60.0)


async def test_an_image_of_which_no_event_came_is_found_in_the_daq(rig: CaptureRig) -> None:
    await rig.corridor()
    image = rig.image_name()
    rig.read_out(image)
    await rig.pass_time(100.0)
    assert not await rig.is_registered(image)  # its events may only be late
    await rig.until(lambda: rig.is_delivered(image), limit_s=120.0)


async def test_a_camera_whose_clock_is_wrong_is_caught_up_all_the_same(rig: CaptureRig) -> None:
    rig.daq.step(86400.0)
    rig.read_out(rig.image_name())
    rig.daq.step(10.0)
    await rig.corridor()
    await rig.until(lambda: rig.is_delivered(rig.image_name()), limit_s=60.0)


async def test_an_image_with_a_free_name_in_the_daq_is_left_alone(rig: CaptureRig) -> None:
    rig.read_out("engineering-test")
    await rig.pass_time(200.0)
    await rig.corridor()
    await rig.pass_time(40.0)
    assert await rig.ledger.exposures() == []
    assert rig.state is SummaryState.ENABLED


async def test_an_exposure_that_is_never_read_out_is_late_then_given_up(rig: CaptureRig) -> None:
    settings = ArchiverConfiguration(unread_after_s=20.0, abandon_after_s=60.0, catch_up_s=5.0)
    await rig.corridor(settings=settings)
    image = rig.image_name()
    await rig.begin(image)
    await rig.until(lambda: bool(rig.events("exposureClosed")))
    assert rig.logged("Image was not read out")
    assert set((await rig.states(image)).values()) == {FileState.LATE}
    closed = rig.events("exposureClosed")[-1].fields
    assert (closed["status"], closed["written"]) == (3, 0)
    assert closed["missing"] == "R00SG0:R00SG1:R22S00:R22S01"
    await rig.pass_time(60.0)
    assert set((await rig.states(image)).values()) == {FileState.ABANDONED}


async def test_a_guider_read_as_a_full_frame_is_a_raw_file_named_by_its_slot(
    rig: CaptureRig,
) -> None:
    await rig.corridor()
    image = rig.image_name()
    await rig.take(image)
    await rig.until(lambda: rig.is_archived(image))
    row = (await rig.files(image))["R00_SG0"]
    assert row.key == FileKey(image, "R00_SG0", FileKind.RAW)
    assert Path(row.path).name == f"{image}_R00_SG0.fits"


async def test_a_destination_that_is_not_in_use_is_given_up_and_the_other_served(
    rig: CaptureRig,
) -> None:
    areas = {Destination.BACKBONE: rig.areas[Destination.BACKBONE]}
    await rig.start(await rig.controller(areas=areas))
    await rig.start(await rig.forwarder())
    await rig.start(rig.archiver())
    await rig.enable()
    image = rig.image_name()
    await rig.take(image)

    async def backbone_done() -> bool:
        states = await rig.states(image, Destination.BACKBONE)
        return set(states.values()) == {FileState.VERIFIED}

    await rig.until(backbone_done)
    assert set((await rig.states(image, Destination.OODS)).values()) == {FileState.ABANDONED}
