"""Work queues on RabbitMQ."""

from platevault.adapters.rabbitmq.settings import QueueKind, RabbitSettings
from platevault.adapters.rabbitmq.work_queue import RabbitWorkQueue

__all__ = ["QueueKind", "RabbitSettings", "RabbitWorkQueue"]
