#!/usr/bin/env bash
# Install Redis, RabbitMQ, PostgreSQL and Apache Kafka for the tests against real servers.
#
# The first three come as Debian packages, Kafka as Maven artifacts. Nothing is started and no
# service is enabled: tests start their own on free ports. Running it again changes nothing.
# Exit status 0 even if a server could not be had: its tests are then skipped, and it is said.
set -uo pipefail

here=$(cd "$(dirname "$0")" && pwd)
kafka_version=${PLATEVAULT_KAFKA_VERSION:-3.9.1}
kafka_dir=${PLATEVAULT_KAFKA_DIR:-/opt/platevault/kafka}
missing=()
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo -n)

have() { command -v "$1" >/dev/null 2>&1; }
postgres_bin() { ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1; }

updated=0
install_packages() {
    have apt-get || return 1
    if [ "$updated" -eq 0 ]; then
        "${as_root[@]}" apt-get update -qq >/dev/null || return 1
        updated=1
    fi
    # A policy that refuses starts keeps the packages from running their servers.
    local policy=/usr/sbin/policy-rc.d made=0
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null &&
            "${as_root[@]}" chmod 755 "$policy" && made=1
    fi
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    local status=$?
    [ "$made" -eq 1 ] && "${as_root[@]}" rm -f "$policy"
    return $status
}

say() { printf '%-12s %s\n' "$1" "$2"; }

if ! have redis-server; then install_packages redis-server; fi
if have redis-server; then
    say redis "$(redis-server --version | sed 's/.*v=\([^ ]*\).*/\1/')"
else
    missing+=(redis)
fi

if [ ! -x /usr/lib/rabbitmq/bin/rabbitmq-server ]; then install_packages rabbitmq-server; fi
if [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ]; then
    say rabbitmq "$(dpkg-query -W -f '${Version}' rabbitmq-server)"
else
    missing+=(rabbitmq)
fi

if [ -z "$(postgres_bin)" ] || [ ! -x "$(postgres_bin)/initdb" ]; then install_packages postgresql; fi
if [ -x "$(postgres_bin)/initdb" ]; then
    say postgresql "$("$(postgres_bin)/postgres" --version | awk '{print $3}')"
else
    missing+=(postgresql)
fi

if ! ls "$kafka_dir/libs/kafka_2.13-$kafka_version.jar" >/dev/null 2>&1; then
    have java || install_packages openjdk-17-jre-headless
    have mvn || install_packages maven
    if have mvn && "${as_root[@]}" mkdir -p "$kafka_dir/libs.part"; then
        if "${as_root[@]}" env PATH="$PATH" mvn -q -B -f "$here/kafka-pom.xml" -Dkafka.version="$kafka_version" \
            dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$kafka_dir/libs.part" >/dev/null; then
            "${as_root[@]}" rm -rf "$kafka_dir/libs" &&
                "${as_root[@]}" mv "$kafka_dir/libs.part" "$kafka_dir/libs"
        fi
    fi
fi
if ls "$kafka_dir/libs/kafka_2.13-$kafka_version.jar" >/dev/null 2>&1; then
    say kafka "$kafka_version in $kafka_dir"
else
    missing+=(kafka)
fi

if [ "${#missing[@]}" -gt 0 ]; then
    printf 'not installed: %s (their tests will be skipped)\n' "${missing[*]}" >&2
fi
exit 0
