"""Which work queue a site has, if it outlives its processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from platevault.adapters.one_host import SqliteWorkQueue
from platevault.compose.ledgers import client_missing
from platevault.compose.settings import Settings
from platevault.ports.clock import Clock

if TYPE_CHECKING:
    from platevault.adapters.rabbitmq import RabbitWorkQueue


def sqlite_queue(settings: Settings, *, clock: Clock) -> SqliteWorkQueue:
    """Give the queue in a file of this host, not yet open."""
    return SqliteWorkQueue(settings.queue_path, clock=clock)


def rabbit_queue(settings: Settings, *, clock: Clock) -> RabbitWorkQueue:
    """Give the queue on RabbitMQ, not yet open."""
    try:
        from platevault.adapters.rabbitmq import QueueKind, RabbitSettings, RabbitWorkQueue
    except ImportError as error:
        raise client_missing("rabbitmq", error) from error
    part = settings.rabbitmq
    return RabbitWorkQueue(
        settings=RabbitSettings(
            user=part.user,
            password=part.secret,
            hosts=part.hosts,
            port=part.port,
            virtual_host=part.virtual_host,
            tls=part.tls,
            ca_file=part.ca_file,
            cert_file=part.cert_file,
            key_file=part.key_file,
            queue_kind=QueueKind(part.queue_kind),
            delivery_limit=part.delivery_limit,
        ),
        clock=clock,
    )
