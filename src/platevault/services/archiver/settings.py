"""Settings of an Archiver, taken at ``start``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ArchiverConfiguration(BaseModel):
    """What an Archiver may be told at ``start``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    detectors: tuple[str, ...] = Field(
        (), description="sensors that are archived, such as R22_S01; empty: all of the camera"
    )
    forwarders: int = Field(4, ge=1, description="Forwarders to pair with at most")
    controller_timeout_s: float = Field(
        10.0, gt=0, description="limit of an Archive Controller answer [s]"
    )
    association_timeout_s: float = Field(5.0, gt=0, description="limit of a pairing answer [s]")
    lease_s: float = Field(10.0, gt=0, description="life of a pairing lease [s]")
    watch_s: float = Field(1.0, gt=0, description="time between looks at the Forwarders [s]")
    health_s: float = Field(
        10.0, gt=0, description="time between health checks of the Archive Controller [s]"
    )
    header_timeout_s: float = Field(
        20.0, ge=0, description="wait for the header after endReadout, then write without [s]"
    )
    board_timeout_s: float = Field(
        120.0, gt=0, description="time after which a board that is not done is sent out again [s]"
    )
    retry_s: float = Field(
        30.0, gt=0, description="pause before a failed sensor is tried again; doubled each time [s]"
    )
    retry_ceiling_s: float = Field(900.0, gt=0, description="longest such pause [s]")
    catch_up_s: float = Field(30.0, gt=0, description="time between looks for missing files [s]")
    catch_up_boards: int = Field(
        32, ge=1, description="boards of catch-up that may wait in the work queue"
    )
    fault_after_s: float = Field(
        300.0, ge=0, description="an outage that lasts longer is a fault; 0: never [s]"
    )
    unread_after_s: float = Field(
        600.0, gt=0, description="time from startIntegration until a missing endReadout is late [s]"
    )
    abandon_after_s: float = Field(
        216000.0, gt=0, description="time until an exposure that was never read out is given up [s]"
    )
