#!/usr/bin/env bash
# Make a random password for each account, once: secrets/<server>_<account>, readable by you alone.
# Run it before the first `docker compose up`; it never changes what is there.
set -euo pipefail
umask 077
cd "$(dirname "$0")"
mkdir -p secrets
accounts=(
    kafka_{admin,archiver,header-service,oods,observatory,observer}
    rabbitmq_{admin,archiver,archive-controller,forwarder,oods}
    redis_{admin,archiver,archive-controller,forwarder,header-service,oods,observatory}
    postgres_{admin,archiver,archive-controller,forwarder,oods,observatory,observer}
)
for account in "${accounts[@]}"; do
    [ -s "secrets/$account" ] || printf '%s' "$(head -c 24 /dev/urandom | base64 | tr '+/' '-_')" \
        >"secrets/$account"
done
# The Butler registry of the OODS finds its password by libpq's own rules.
printf '*:*:*:oods:%s\n' "$(cat secrets/postgres_oods)" >secrets/pgpass_oods
echo "secrets/: ${#accounts[@]} passwords"
