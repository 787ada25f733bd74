"""The OODS as a commandable component: catalogues while ENABLED, and tells each result."""

from __future__ import annotations

from pathlib import Path

from platevault.csc.configuration import ConfigurationSource
from platevault.csc.csc import Csc
from platevault.domain.camera import Camera
from platevault.domain.ids import SensorName
from platevault.domain.lifecycles import SummaryState
from platevault.domain.messages import ImageInOods
from platevault.ports.clock import Clock
from platevault.ports.file_ledger import FileLedger
from platevault.ports.image_writer import LinkStore
from platevault.ports.ingest import Ingest
from platevault.ports.sample_bus import SampleBus
from platevault.ports.work_queue import WorkQueue
from platevault.runtime.service import StopToken
from platevault.runtime.steps import Steps
from platevault.sal.schema import Interfaces
from platevault.services.oods.service import Oods

#: Error code of a fault of the OODS.
OODS_FAILED = 5800


class OodsCsc(Csc):
    """``<XX>OODS`` of a camera.

    While it is not ENABLED requests wait on their queue, and files wait in the ledger.

    Parameters
    ----------
    camera
        Whose files; its ``components.oods`` is the component.
    bus, interfaces, clock, version, configuration
        As for `Csc`.
    initial_state
        State it goes to at its start.
    ingest, ledger, queue, links, quarantine, steps, gather_s, gather_limit_s, reconcile_s
        As for `Oods`.
    """

    def __init__(
        self,
        *,
        camera: Camera,
        bus: SampleBus,
        interfaces: Interfaces,
        clock: Clock,
        version: str,
        ingest: Ingest,
        ledger: FileLedger,
        queue: WorkQueue,
        links: LinkStore,
        quarantine: Path,
        configuration: ConfigurationSource | None = None,
        steps: Steps | None = None,
        gather_s: float = 0.5,
        gather_limit_s: float = 2.0,
        reconcile_s: float = 30.0,
        initial_state: SummaryState = SummaryState.STANDBY,
    ) -> None:
        super().__init__(
            component=camera.components.oods,
            bus=bus,
            interfaces=interfaces,
            clock=clock,
            version=version,
            configuration=configuration,
            initial_state=initial_state,
        )
        self._camera = camera
        self._oods = Oods(
            camera=camera,
            ingest=ingest,
            ledger=ledger,
            queue=queue,
            links=links,
            quarantine=quarantine,
            clock=clock,
            steps=steps,
            gather_s=gather_s,
            gather_limit_s=gather_limit_s,
            reconcile_s=reconcile_s,
            announce=self._announce,
        )
        self.while_enabled(self._catalogue, name="catalogue", error_code=OODS_FAILED)

    async def _catalogue(self, stop: StopToken) -> None:
        await self._oods.run(stop, _nothing)

    async def _announce(self, result: ImageInOods) -> None:
        sensor = SensorName.parse(result.sensor)
        await self.publish(
            "imageInOODS",
            force=True,
            camera=self._camera.name,
            obsid=result.image,
            raft=sensor.raft,
            sensor=sensor.slot,
            statusCode=result.status_code,
            description=result.description,
        )


def _nothing() -> None:
    pass
