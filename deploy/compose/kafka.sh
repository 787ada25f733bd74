#!/usr/bin/env bash
# Start the broker; the first time its storage is made with the administrator's account.
# Arguments are further lines of its properties. Paths and programs can be set for other hosts.
set -euo pipefail
umask 077
secrets=${SECRETS_DIR:-/run/secrets} config=${CONFIG_DIR:-/etc/platevault}
data=${DATA_DIR:-/data/kafka} run=${RUN_DIR:-/tmp} programs=${KAFKA_BIN:-/opt/kafka/bin}
password=$(cat "$secrets/kafka_admin")
properties=$run/server.properties
rm -f "$properties"
{
    cat "$config/kafka.properties"
    printf '%s\n' "log.dirs=$data" \
        "listener.name.clients.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username=\"admin\" password=\"$password\";" \
        "$@"
} >"$properties"
if [ ! -f "$data/meta.properties" ]; then
    "$programs/kafka-storage.sh" format --cluster-id "$("$programs/kafka-storage.sh" random-uuid)" \
        --add-scram "SCRAM-SHA-512=[name=admin,password=$password]" --config "$properties"
fi
export LOG_DIR=$run/logs
exec "$programs/kafka-server-start.sh" "$properties"
