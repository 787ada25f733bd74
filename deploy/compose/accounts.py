"""Make an account for each service on each server, with the rights it needs and no others.

Run by `compose.yaml` before the services; running it again changes nothing but passwords. Reads
passwords from files `<server>_<account>` in one directory.
"""

from __future__ import annotations

import argparse
import base64
import json
import urllib.parse
import urllib.request
from collections.abc import Iterable
from pathlib import Path

from platevault.compose.cameras import load_camera

#: What leases and presence call, within scripts and outside of them.
REDIS_COMMANDS = (
    "eval", "evalsha", "script|load", "ping", "time", "get", "set", "del", "hget", "hset", "hmget",
    "zadd", "zrem", "zrange", "zremrangebyscore", "pexpireat", "client|setname",
    "hello", "auth",
)  # fmt: skip
KAFKA_ACCOUNTS = ("archiver", "header-service", "oods", "observatory", "observer")
REDIS_ACCOUNTS = (
    "archiver", "archive-controller", "forwarder", "header-service", "oods", "observatory",
)  # fmt: skip
POSTGRES_ACCOUNTS = ("archiver", "archive-controller", "forwarder", "oods", "observatory")
#: Reads Kafka and PostgreSQL, for displays and analysis; no service of ours uses it.
OBSERVER = "observer"
#: Queues that each account takes from and makes (`platevault.domain.places`).
RABBITMQ_QUEUES = {
    "archiver": (r"archiver\..*",),
    "archive-controller": (r"archive_controller(\.later)?",),
    "forwarder": (r"forwarder\..*", r"work\..*"),
    "oods": (r"oods\..*",),
}
RABBITMQ_ACCOUNTS = tuple(RABBITMQ_QUEUES)
#: What every consumer needs besides: a queue of its own for roll calls, dead letters to send.
_ROLL_CALL = (r"amq\.gen.*", r"platevault\.roll_call", r"platevault\.dead")
#: Looks through the dead letters, under a lock.
_DEAD_LETTERS = (r"platevault\.dead_letters(\.lock)?",)
#: Owns what is in the database; nobody logs in as it.
POSTGRES_OWNER = "platevault"
#: Fields of a camera's components that each account publishes for; the observatory commands all,
#: the observer nobody.
KAFKA_WRITES = {"archiver": "archiver", "header-service": "header_service", "oods": "oods"}


def secret(secrets: Path, server: str, account: str) -> str:
    """Read a password."""
    return (secrets / f"{server}_{account}").read_text(encoding="utf-8").strip()


def make_postgres(address: str, secrets: Path) -> None:
    """Make the owner, and roles that act as the owner, so that any of them may be first."""
    import psycopg
    from psycopg import sql

    host, _, port = address.partition(":")
    with psycopg.connect(
        host=host, port=int(port or 5432), user="postgres", dbname="platevault",
        password=secret(secrets, "postgres", "admin"), autocommit=True,
    ) as connection:  # fmt: skip
        connection.execute("CREATE EXTENSION IF NOT EXISTS btree_gist")
        for role in (POSTGRES_OWNER, *POSTGRES_ACCOUNTS, OBSERVER):
            known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role])
            if known.fetchone() is None:
                connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
        owner = sql.Identifier(POSTGRES_OWNER)
        connection.execute(sql.SQL("GRANT CREATE ON DATABASE platevault TO {}").format(owner))
        for role in (*POSTGRES_ACCOUNTS, OBSERVER):
            name = sql.Identifier(role)
            password = sql.Literal(secret(secrets, "postgres", role))
            connection.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(name, password))
        for what in ("SELECT ON TABLES", "USAGE ON SCHEMAS"):
            connection.execute(
                sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {} GRANT " + what + " TO {}").format(
                    owner, sql.Identifier(OBSERVER)
                )
            )
        # Those rights hold for what is made from now on; a running site has tables already.
        made = connection.execute(
            "SELECT nspname FROM pg_namespace WHERE nspowner = %s::regrole", [POSTGRES_OWNER]
        ).fetchall()
        for (schema,) in made:
            for what in ("USAGE ON SCHEMA", "SELECT ON ALL TABLES IN SCHEMA"):
                connection.execute(
                    sql.SQL("GRANT " + what + " {} TO {}").format(
                        sql.Identifier(schema), sql.Identifier(OBSERVER)
                    )
                )
        for role in POSTGRES_ACCOUNTS:
            name = sql.Identifier(role)
            connection.execute(sql.SQL("GRANT {} TO {}").format(owner, name))
            connection.execute(sql.SQL("ALTER ROLE {} SET role = {}").format(name, owner))


def make_redis(address: str, secrets: Path) -> None:
    """Make accounts that reach keys of one namespace by the commands that are used."""
    import redis

    host, _, port = address.partition(":")
    with redis.Redis(
        host=host, port=int(port or 6379), password=secret(secrets, "redis", "admin")
    ) as client:
        for account in REDIS_ACCOUNTS:
            client.execute_command(
                "ACL", "SETUSER", account, "reset", "on",
                f">{secret(secrets, 'redis', account)}", "~{platevault}:*",
                *(f"+{command}" for command in REDIS_COMMANDS),
            )  # fmt: skip
        if client.config_get("aclfile").get("aclfile"):
            client.execute_command("ACL", "SAVE")


def make_rabbitmq(url: str, secrets: Path) -> None:
    """Make a virtual host, and accounts that take from their own queues and no others.

    The broker's default exchange leads to every queue, so all may put messages on any.
    """
    login = f"admin:{secret(secrets, 'rabbitmq', 'admin')}".encode()

    def put(path: str, content: dict[str, str]) -> None:
        request = urllib.request.Request(  # noqa: S310 - an address of the site
            f"{url}/api/{path}",
            data=json.dumps(content).encode(),
            method="PUT",
            headers={
                "Authorization": f"Basic {base64.b64encode(login).decode()}",
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=30):  # noqa: S310 - as above
            pass

    host = urllib.parse.quote("platevault", safe="")
    put(f"vhosts/{host}", {})
    for account in RABBITMQ_ACCOUNTS:
        put(f"users/{account}", {"password": secret(secrets, "rabbitmq", account), "tags": ""})
        put(f"permissions/{host}/{account}", rabbitmq_rights(account))


def rabbitmq_rights(account: str) -> dict[str, str]:
    """Give what an account may make, write to and read from."""
    own = RABBITMQ_QUEUES[account]
    letters = _DEAD_LETTERS if account == "archive-controller" else ()
    parts = {
        "configure": (*own, *_ROLL_CALL, *_DEAD_LETTERS[:1]),
        "write": (r"amq\.default", *_ROLL_CALL, *_DEAD_LETTERS[:1]),
        "read": (*own, *_ROLL_CALL, r"amq\.rabbitmq\.reply-to.*", *letters),
    }
    return {right: f"^({'|'.join(names)})$" for right, names in parts.items()}


def make_kafka(address: str, secrets: Path, cameras: Iterable[str], subname: str = "sal") -> None:
    """Make accounts that read the SAL topics, and write those of their own component alone."""
    from confluent_kafka.admin import (
        AclBinding,
        AclOperation,
        AclPermissionType,
        AdminClient,
        ResourcePatternType,
        ResourceType,
        ScramCredentialInfo,
        ScramMechanism,
        UserScramCredentialUpsertion,
    )

    admin = AdminClient(
        {
            "bootstrap.servers": address,
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": "admin",
            "sasl.password": secret(secrets, "kafka", "admin"),
        }
    )
    for account in KAFKA_ACCOUNTS:
        change = UserScramCredentialUpsertion(
            account,
            ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 8192),
            secret(secrets, "kafka", account).encode(),
        )
        for future in admin.alter_user_scram_credentials([change]).values():
            future.result()
    every, groups = f"lsst.{subname}.", f"platevault.{subname}."
    bindings = []
    for account in KAFKA_ACCOUNTS:
        rights = [
            (ResourceType.TOPIC, every, AclOperation.READ),
            (ResourceType.TOPIC, every, AclOperation.DESCRIBE),
            (ResourceType.GROUP, groups, AclOperation.READ),
        ]
        if account != OBSERVER:
            rights.append((ResourceType.TOPIC, every, AclOperation.CREATE))
        rights += [
            (ResourceType.TOPIC, f"{every}{component}", AclOperation.WRITE)
            for component in _written(account, cameras)
        ]
        bindings += [
            AclBinding(
                kind, name, ResourcePatternType.PREFIXED, f"User:{account}", "*", operation,
                AclPermissionType.ALLOW,
            )
            for kind, name, operation in rights
        ]  # fmt: skip
    for future in admin.create_acls(bindings).values():
        future.result()


def _written(account: str, cameras: Iterable[str]) -> list[str]:
    """Give the beginnings of topics that an account writes; the observatory commands everybody."""
    if account == OBSERVER:
        return []
    field = KAFKA_WRITES.get(account)
    if field is None:
        return [""]
    return [f"{getattr(load_camera(camera).components, field)}." for camera in cameras]


def main() -> None:
    """Make the accounts of the servers that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--secrets", type=Path, required=True)
    parser.add_argument("--camera", action="append", default=[])
    for server in ("postgres", "redis", "rabbitmq", "kafka"):
        parser.add_argument(f"--{server}", default="")
    given = parser.parse_args()
    if given.postgres:
        make_postgres(given.postgres, given.secrets)
    if given.redis:
        make_redis(given.redis, given.secrets)
    if given.rabbitmq:
        make_rabbitmq(given.rabbitmq, given.secrets)
    if given.kafka:
        make_kafka(given.kafka, given.secrets, given.camera)


if __name__ == "__main__":
    main()
