#!/bin/sh
# Runs once, in an empty cluster: /docker-entrypoint-initdb.d of the postgres image.
# Passwords come from secret files and pass through no command line.
set -eu

psql --no-psqlrc -v ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
\set dumont_owner `cat "${DUMONT_SECRETS:-/run/secrets}/postgres_owner"`
\set dumont_recovery `cat "${DUMONT_SECRETS:-/run/secrets}/postgres_recovery"`
\set dumont_api `cat "${DUMONT_SECRETS:-/run/secrets}/postgres_api"`
\set dumont_reader `cat "${DUMONT_SECRETS:-/run/secrets}/postgres_reader"`
\i /usr/share/dumont/roles.sql
SQL
