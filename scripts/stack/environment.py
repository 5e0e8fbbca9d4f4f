"""Which settings each process of a local stack gets: the one table to extend when a process learns a new one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.stack.service import Kind, Service


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that some process has to be told about the others."""

    mongo_url: str
    redis_url: str
    amqp_url: str
    dev_key_file: Path
    services: Sequence[Service]

    def targets(self, kind: Kind) -> str:
        """The addresses of all processes of a kind, separated by commas; empty when there is none."""
        return ",".join(service.address for service in self.services if service.kind is kind)


def environment_of(service: Service, plan: Plan) -> dict[str, str]:
    """The variables of one process. Targets of a kind that does not run are left out, not set to nothing."""
    common = {
        "PARLEY_RUNTIME_ENVIRONMENT": "development",
        "PARLEY_RUNTIME_LOG_FORMAT": "json",
        "PARLEY_RUNTIME_ADMIN_PORT": str(service.admin_port),
    }
    by_kind: Mapping[Kind, Mapping[str, str]] = {
        Kind.CHAT: {
            "PARLEY_CHAT_LISTEN": service.address,
            "PARLEY_CHAT_STORE_URL": plan.mongo_url,
            "PARLEY_CHAT_BUS_URL": plan.redis_url,
            "PARLEY_CHAT_LAST_READ_URL": plan.redis_url,
            "PARLEY_CHAT_QUEUE_URL": plan.amqp_url,
            "PARLEY_CHAT_PRESENCE_TARGETS": plan.targets(Kind.PRESENCE),
        },
        Kind.PRESENCE: {
            "PARLEY_PRESENCE_LISTEN": service.address,
            "PARLEY_PRESENCE_STORE_URL": plan.redis_url,
        },
        Kind.NOTIFY: {
            "PARLEY_NOTIFY_LISTEN": service.address,
            "PARLEY_NOTIFY_QUEUE_URL": plan.amqp_url,
            "PARLEY_NOTIFY_STORE_URL": plan.mongo_url,
            "PARLEY_NOTIFY_PRESENCE_TARGETS": plan.targets(Kind.PRESENCE),
        },
        Kind.EDGE: {
            "PARLEY_EDGE_LISTEN": service.address,
            "PARLEY_EDGE_DEV_TOKENS": "true",
            "PARLEY_EDGE_DEV_KEY_FILE": str(plan.dev_key_file),
            "PARLEY_EDGE_CHAT_TARGETS": plan.targets(Kind.CHAT),
            "PARLEY_EDGE_PRESENCE_TARGETS": plan.targets(Kind.PRESENCE),
            "PARLEY_EDGE_NOTIFY_TARGETS": plan.targets(Kind.NOTIFY),
        },
    }
    return common | {name: value for name, value in by_kind[service.kind].items() if value}
