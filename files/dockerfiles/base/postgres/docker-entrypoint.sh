#!/usr/bin/env bash
# Starts PostgreSQL, and creates the database first if the data directory is empty. Same interface as the entrypoint of
# the official image: POSTGRES_USER, POSTGRES_DB, POSTGRES_PASSWORD, POSTGRES_INITDB_ARGS, POSTGRES_INITDB_WALDIR,
# POSTGRES_HOST_AUTH_METHOD (each also with _FILE), PGDATA, /docker-entrypoint-initdb.d/*.{sh,sql,sql.gz}.
set -Eeuo pipefail

say() { printf '%s entrypoint: %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*"; }
die() { say "$*" >&2; exit 1; }

# Value of $1, or what the file named by $1_FILE holds, or the default $2.
setting() {
    local name=$1 file_name="$1_FILE" value=${2:-}
    if [[ -n ${!name:-} && -n ${!file_name:-} ]]; then
        die "Both $name and $file_name are set; set one of them."
    fi
    if [[ -n ${!name:-} ]]; then
        value=${!name}
    elif [[ -n ${!file_name:-} ]]; then
        [[ -r ${!file_name} ]] || die "$file_name names ${!file_name}, which cannot be read."
        value=$(<"${!file_name}")
    fi
    export "$name=$value"
    unset "$file_name"
}

prepare_directories() {
    mkdir -p "$PGDATA"
    # Under --user or a read-only root these may not be ours to set; then they have to be right already, and postgres
    # itself refuses to start, saying why, where they are not.
    chmod 0700 "$PGDATA" 2>/dev/null || true
    mkdir -p /var/run/postgresql 2>/dev/null || true
    chmod 3775 /var/run/postgresql 2>/dev/null || true
    if [[ $(id -u) == 0 ]]; then
        if [[ -n ${POSTGRES_INITDB_WALDIR:-} ]]; then
            mkdir -p "$POSTGRES_INITDB_WALDIR"
            find "$POSTGRES_INITDB_WALDIR" \! -user postgres -exec chown postgres '{}' +
            chmod 0700 "$POSTGRES_INITDB_WALDIR"
        fi
        find "$PGDATA" \! -user postgres -exec chown postgres '{}' +
        find /var/run/postgresql \! -user postgres -exec chown postgres '{}' +
    fi
}

create_cluster() {
    local arguments=() extra=()
    # PostgreSQL wants a name for its user's number; any --user is to work.
    local wrapper
    if ! getent passwd "$(id -u)" > /dev/null; then
        wrapper=$(find /usr/lib /lib -name libnss_wrapper.so -print -quit 2>/dev/null)
        [[ -n $wrapper ]] || die "User $(id -u) has no name in this image; run it as user postgres."
        NSS_WRAPPER_PASSWD=$(mktemp)
        NSS_WRAPPER_GROUP=$(mktemp)
        echo "postgres:x:$(id -u):$(id -g):PostgreSQL:$PGDATA:/bin/false" > "$NSS_WRAPPER_PASSWD"
        echo "postgres:x:$(id -g):" > "$NSS_WRAPPER_GROUP"
        export LD_PRELOAD=$wrapper NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
    fi
    [[ -z ${POSTGRES_INITDB_WALDIR:-} ]] || arguments+=(--waldir "$POSTGRES_INITDB_WALDIR")
    if [[ -n ${POSTGRES_INITDB_ARGS:-} ]]; then
        # Written as on a command line, so quotes count.
        mapfile -t extra < <(xargs -n1 printf '%s\n' <<< "$POSTGRES_INITDB_ARGS")
    fi
    # The password goes through a pipe, never through an argument. Host access with a password is SCRAM unless asked otherwise.
    initdb --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") \
        --auth-local=trust --auth-host="${HOST_AUTH_INITDB}" "${arguments[@]}" "${extra[@]}"
    if [[ -n ${LD_PRELOAD:-} && -n ${NSS_WRAPPER_PASSWD:-} ]]; then
        rm -f "$NSS_WRAPPER_PASSWD" "$NSS_WRAPPER_GROUP"
        unset LD_PRELOAD NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
    fi
}

docker_process_sql() {
    PGHOST='' PGHOSTADDR='' psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --no-password --no-psqlrc \
        ${POSTGRES_DB:+--dbname "$POSTGRES_DB"} "$@"
}

create_database() {
    local exists name=$POSTGRES_DB
    exists=$(POSTGRES_DB='' docker_process_sql --dbname postgres --set db="$name" --tuples-only \
        <<< "SELECT 1 FROM pg_database WHERE datname = :'db';")
    if [[ -z ${exists//[[:space:]]/} ]]; then
        POSTGRES_DB='' docker_process_sql --dbname postgres --set db="$name" <<< 'CREATE DATABASE :"db";'
    fi
}

run_init_files() {
    local file
    for file in /docker-entrypoint-initdb.d/*; do
        case $file in
            *.sh)
                if [[ -x $file ]]; then say "running $file"; "$file"; else say "reading $file"; . "$file"; fi ;;
            *.sql) say "running $file"; docker_process_sql -f "$file" ;;
            *.sql.gz) say "running $file"; gunzip -c "$file" | docker_process_sql ;;
            *) [[ ! -e $file ]] || say "ignoring $file" ;;
        esac
    done
}

give_up() {
    trap - ERR
    say "initialisation failed; emptying $PGDATA" >&2
    # The server may be gone already; the initialisation has failed in any case, and the container ends with an error.
    [[ ! -e $PGDATA/postmaster.pid ]] || pg_ctl -D "$PGDATA" -m immediate -w stop || true
    find "$PGDATA" -mindepth 1 -delete
    exit 1
}

initialise() {
    setting POSTGRES_PASSWORD
    setting POSTGRES_USER postgres
    setting POSTGRES_DB "$POSTGRES_USER"
    setting POSTGRES_INITDB_ARGS
    setting POSTGRES_HOST_AUTH_METHOD
    HOST_AUTH_INITDB=scram-sha-256
    HOST_AUTH=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
    if [[ -z $POSTGRES_PASSWORD && $HOST_AUTH != trust ]]; then
        die "The database is new and the superuser has no password: set POSTGRES_PASSWORD_FILE or POSTGRES_PASSWORD."
    fi
    if [[ -z $POSTGRES_PASSWORD ]]; then
        # initdb wants some password for the method; nobody knows this one.
        POSTGRES_PASSWORD=$(head -c 32 /dev/urandom | base64 -w 0)
    fi

    # A cluster that is not finished must not be taken for a good one by the next start.
    trap 'give_up' ERR
    create_cluster
    printf '\nhost all all all %s\n' "$HOST_AUTH" >> "$PGDATA/pg_hba.conf"

    # Until the database is complete the server listens on its socket only, so that nobody takes it for ready.
    PGUSER=$POSTGRES_USER pg_ctl -D "$PGDATA" -w start \
        -o "$(printf '%q ' "${@:2}" -c listen_addresses='' -p "${PGPORT:-5432}")"
    create_database
    export PGPASSWORD=$POSTGRES_PASSWORD
    run_init_files
    unset PGPASSWORD
    PGUSER=$POSTGRES_USER pg_ctl -D "$PGDATA" -m fast -w stop
    trap - ERR
    say "database $POSTGRES_DB is complete"
}

wants_help() {
    local argument
    for argument; do
        case $argument in
            -'?' | --help | --describe-config | -V | --version | -C | --check) return 0 ;;
        esac
    done
    return 1
}

# Options alone mean: options of postgres.
if [[ ${1:0:1} == - ]]; then
    set -- postgres "$@"
fi

if [[ ${1:-} == postgres ]] && ! wants_help "$@"; then
    prepare_directories
    if [[ $(id -u) == 0 ]]; then
        exec setpriv --reuid=postgres --regid=postgres --init-groups --inh-caps=-all \
            env HOME=/var/lib/postgresql "${BASH_SOURCE[0]}" "$@"
    fi
    if [[ ! -s $PGDATA/PG_VERSION ]]; then
        ls -A "$PGDATA" > /dev/null || die "$PGDATA cannot be read by user $(id -u)."
        initialise "$@"
    fi
    unset POSTGRES_PASSWORD POSTGRES_PASSWORD_FILE
fi

exec "$@"
