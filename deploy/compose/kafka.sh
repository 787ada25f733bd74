#!/usr/bin/env bash
# Start the broker; the first time its storage is made with the administrator's account.
set -euo pipefail
umask 077
password=$(cat /run/secrets/kafka_admin)
properties=/tmp/server.properties
cp /etc/platevault/kafka.properties "$properties"
printf '%s\n' "listener.name.clients.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username=\"admin\" password=\"$password\";" >>"$properties"
if [ ! -f /data/kafka/meta.properties ]; then
    /opt/kafka/bin/kafka-storage.sh format --cluster-id "$(/opt/kafka/bin/kafka-storage.sh random-uuid)" \
        --add-scram "SCRAM-SHA-512=[name=admin,password=$password]" --config "$properties"
fi
export LOG_DIR=/tmp/logs
exec /opt/kafka/bin/kafka-server-start.sh "$properties"
