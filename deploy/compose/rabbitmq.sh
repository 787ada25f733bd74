#!/usr/bin/env bash
# Start the broker; the first time it makes the administrator's account, and no other.
# Arguments are further lines of its configuration.
set -euo pipefail
umask 077
secrets=${SECRETS_DIR:-/run/secrets} run=${RUN_DIR:-/tmp}
export HOME=${DATA_DIR:-/var/lib/rabbitmq}
rm -f "$run/accounts.conf"
printf '%s\n' 'default_user = admin' "default_pass = $(cat "$secrets/rabbitmq_admin")" "$@" \
    >"$run/accounts.conf"
export RABBITMQ_CONFIG_FILES=$run/accounts.conf
# shellcheck disable=SC2086 - a program and its argument
exec ${RABBITMQ_START:-docker-entrypoint.sh rabbitmq-server}
