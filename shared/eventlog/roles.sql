-- Run once as superuser in a fresh cluster, embedded and in compose alike. The passwords are psql
-- variables (the embedded server puts the literals in their place). What each role may do with the
-- tables is granted by the migrations, beside the tables.
--
-- dumont_owner     migrations; owns the database and everything in it
-- dumont_recovery  the one writer: appends, holds the lease, moves the relay's cursor
-- dumont_api       folds the log: SELECT
-- dumont_reader    for people: SELECT

SET password_encryption = 'scram-sha-256';

CREATE ROLE dumont_owner LOGIN PASSWORD :'dumont_owner';

CREATE ROLE dumont_recovery LOGIN PASSWORD :'dumont_recovery';

CREATE ROLE dumont_api LOGIN PASSWORD :'dumont_api';

CREATE ROLE dumont_reader LOGIN PASSWORD :'dumont_reader';

ALTER ROLE dumont_api SET default_transaction_read_only = on;

ALTER ROLE dumont_reader SET default_transaction_read_only = on;

CREATE DATABASE dumont OWNER dumont_owner;

REVOKE ALL ON DATABASE dumont FROM PUBLIC;

GRANT CONNECT ON DATABASE dumont TO dumont_recovery, dumont_api, dumont_reader;
