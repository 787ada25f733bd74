#!/usr/bin/env bash
# Start the store. The administrator is the account named default; its password is a digest in the
# file of accounts, and not on the command line. Arguments go to the server.
set -euo pipefail
umask 077
secrets=${SECRETS_DIR:-/run/secrets} data=${DATA_DIR:-/data}
if [ ! -f "$data/users.acl" ]; then
    digest=$(printf '%s' "$(cat "$secrets/redis_admin")" | sha256sum | cut -d' ' -f1)
    printf 'user default on #%s ~* &* +@all\n' "$digest" >"$data/users.acl"
fi
exec redis-server --dir "$data" --appendonly yes --appendfsync always --save '' \
    --aclfile "$data/users.acl" "$@"
