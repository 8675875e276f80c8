-- The registry, format 1, in the schema `drawbridge`.
--
-- Every table begins with the registry, so nothing can be asked for without naming one. Times are
-- integers, seconds or milliseconds since 1970-01-01 UTC. Numbers that are u64 in the code (uid,
-- epoch, times, counters) are stored as the BIGINT of the same 64 bits: a uid of 2^63 and more shows
-- as a negative number here. Text compares byte for byte, whatever the database's own collation.
--
-- No table refers to `registry`: its rows are never deleted, each write asks for its row first, and a
-- reference would have every writer lock that one row.

CREATE TABLE registry (
    registry        TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    issuer          TEXT   NOT NULL,
    bridge_audience TEXT   NOT NULL,
    clock_skew_s    BIGINT NOT NULL,
    token_life_s    BIGINT NOT NULL,
    google_project  TEXT,
    google_location TEXT,
    settings        TEXT   NOT NULL, -- a JSON object
    created_s       BIGINT NOT NULL,
    CHECK ((google_project IS NULL) = (google_location IS NULL))
);

CREATE TABLE principal (
    registry          TEXT COLLATE "C" NOT NULL,
    name              TEXT COLLATE "C" NOT NULL,
    uid               BIGINT  NOT NULL,
    kind              TEXT    NOT NULL,
    blocked           BOOLEAN NOT NULL,
    pending           BOOLEAN NOT NULL,
    epoch             BIGINT  NOT NULL,
    not_before_s      BIGINT  NOT NULL,
    legacy_assertions BOOLEAN NOT NULL,
    policy            TEXT,
    attributes        TEXT    NOT NULL, -- a JSON object of texts
    password          BYTEA,            -- a verifier; its first byte is its format
    settings          TEXT    NOT NULL, -- a JSON object
    enrolment         TEXT COLLATE "C", -- the id of the one by which it came
    registration      BYTEA,            -- SHA-256 of its registration access token
    created_s         BIGINT  NOT NULL,
    revision          BIGINT  NOT NULL,
    config_version    BIGINT  NOT NULL DEFAULT 0, -- of the newest config, 0: none
    PRIMARY KEY (registry, name)
);
CREATE UNIQUE INDEX principal_uid ON principal (registry, uid);
CREATE INDEX principal_kind ON principal (registry, kind, name);
-- Of a million devices few have a config: whoever lists configs must not pass by the others.
CREATE INDEX principal_config ON principal (registry, name) WHERE config_version > 0;
-- The same for those that registered themselves.
CREATE INDEX principal_enrolled ON principal (registry, name) WHERE enrolment IS NOT NULL;
CREATE INDEX principal_enrolment ON principal (registry, enrolment, name) WHERE enrolment IS NOT NULL;
CREATE INDEX principal_pending ON principal (registry, name) WHERE enrolment IS NOT NULL AND pending;

-- Numbers of principals that were deleted: never given again.
CREATE TABLE spent_uid (
    registry TEXT COLLATE "C" NOT NULL,
    uid      BIGINT NOT NULL,
    PRIMARY KEY (registry, uid)
);

CREATE TABLE principal_key (
    registry        TEXT COLLATE "C" NOT NULL,
    uid             BIGINT NOT NULL,
    ordinal         BIGINT NOT NULL, -- the order they were added in
    kid             TEXT COLLATE "C" NOT NULL,
    spki_der        BYTEA  NOT NULL,
    algorithm       TEXT   NOT NULL,
    label           TEXT,
    state           TEXT   NOT NULL,
    not_before_s    BIGINT,
    expires_s       BIGINT,
    added_s         BIGINT NOT NULL,
    last_used_s     BIGINT,          -- at most 2^63 - 1: this one is compared
    lasting_jti     BIGINT NOT NULL DEFAULT 0, -- rows of this key in lasting_jti
    certificate_der BYTEA,
    PRIMARY KEY (registry, uid, ordinal),
    FOREIGN KEY (registry, uid) REFERENCES principal (registry, uid) ON DELETE CASCADE
) WITH (fillfactor = 80); -- so that a change of `last_used_s` finds room in the same page
-- A key belongs to one principal of a registry, retired keys included.
CREATE UNIQUE INDEX principal_key_kid ON principal_key (registry, kid);

-- Keys that were retired when their principal was deleted: never registered again.
CREATE TABLE spent_key (
    registry TEXT COLLATE "C" NOT NULL,
    kid      TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (registry, kid)
);

-- A jti with an end. Rows whose end is over mean nothing and are swept in passing, so the table turns
-- over quickly and must be vacuumed before a fifth of it is dead. It does not refer to `principal`:
-- whoever writes here holds the principal's row, and a reference would be checked for each row again.
CREATE TABLE timed_jti (
    registry     TEXT COLLATE "C" NOT NULL,
    uid          BIGINT NOT NULL,
    jti_digest   BYTEA  NOT NULL,
    token_digest BYTEA  NOT NULL,
    until_s      BIGINT NOT NULL, -- at most 2^63 - 1: this one is compared
    kid          TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (registry, uid, jti_digest)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.1);
CREATE INDEX timed_jti_end ON timed_jti (until_s);

-- A jti without an end: kept until its key is retired.
CREATE TABLE lasting_jti (
    registry     TEXT COLLATE "C" NOT NULL,
    uid          BIGINT NOT NULL,
    jti_digest   BYTEA  NOT NULL,
    token_digest BYTEA  NOT NULL,
    kid          TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (registry, uid, jti_digest)
);

-- The jti of deleted principals, by key: a key that is registered again brings none of the JWTs back
-- that it was used with. Rows without an end last until the key is retired.
CREATE TABLE left_jti (
    registry     TEXT COLLATE "C" NOT NULL,
    kid          TEXT COLLATE "C" NOT NULL,
    jti_digest   BYTEA  NOT NULL,
    token_digest BYTEA  NOT NULL,
    until_s      BIGINT,
    PRIMARY KEY (registry, kid, jti_digest)
);
CREATE INDEX left_jti_end ON left_jti (until_s) WHERE until_s IS NOT NULL;

-- Opaque access tokens. Rows whose end is over mean nothing and are swept in passing.
CREATE TABLE token (
    registry   TEXT COLLATE "C" NOT NULL,
    digest     BYTEA   NOT NULL, -- SHA-256 of the token
    uid        BIGINT  NOT NULL,
    family     BYTEA   NOT NULL, -- the chain of renewals
    generation BIGINT  NOT NULL, -- its place in it, from 0
    claims     TEXT    NOT NULL,
    expires_s  BIGINT  NOT NULL, -- at most 2^63 - 1: this one is compared
    used       BOOLEAN NOT NULL,
    renewed    BOOLEAN NOT NULL,
    PRIMARY KEY (registry, digest),
    FOREIGN KEY (registry, uid) REFERENCES principal (registry, uid) ON DELETE CASCADE
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.1);
CREATE INDEX token_family ON token (registry, uid, family, expires_s);
CREATE INDEX token_end ON token (expires_s);

-- The jti of signed access tokens that were revoked before their end; swept as tokens are.
CREATE TABLE revoked_jti (
    registry   TEXT COLLATE "C" NOT NULL,
    jti_digest BYTEA  NOT NULL,
    until_s    BIGINT NOT NULL, -- at most 2^63 - 1: this one is compared
    PRIMARY KEY (registry, jti_digest)
);
CREATE INDEX revoked_jti_end ON revoked_jti (until_s);

-- Whoever uses or gives back a claim holds the enrolment's row, before that of any principal.
CREATE TABLE enrolment (
    registry     TEXT COLLATE "C" NOT NULL,
    id           TEXT COLLATE "C" NOT NULL,
    token_digest BYTEA   NOT NULL, -- SHA-256 of the token
    label        TEXT,
    names        TEXT    NOT NULL, -- a JSON object
    claims_max   BIGINT  NOT NULL,
    claims       BIGINT  NOT NULL,
    policy       TEXT,
    auto         BOOLEAN NOT NULL,
    expires_s    BIGINT  NOT NULL,
    ended        BOOLEAN NOT NULL,
    created_s    BIGINT  NOT NULL,
    PRIMARY KEY (registry, id)
);
CREATE UNIQUE INDEX enrolment_token ON enrolment (registry, token_digest);

-- A gateway may act for a device.
CREATE TABLE link (
    registry TEXT COLLATE "C" NOT NULL,
    gateway  BIGINT NOT NULL,
    device   BIGINT NOT NULL,
    PRIMARY KEY (registry, gateway, device),
    FOREIGN KEY (registry, gateway) REFERENCES principal (registry, uid) ON DELETE CASCADE,
    FOREIGN KEY (registry, device) REFERENCES principal (registry, uid) ON DELETE CASCADE
);
CREATE INDEX link_device ON link (registry, device);

CREATE TABLE ca (
    registry    TEXT COLLATE "C" NOT NULL,
    fingerprint BYTEA  NOT NULL, -- SHA-256 of the certificate
    der         BYTEA  NOT NULL,
    label       TEXT,
    added_s     BIGINT NOT NULL,
    PRIMARY KEY (registry, fingerprint)
);

CREATE TABLE policy (
    registry  TEXT COLLATE "C" NOT NULL,
    name      TEXT COLLATE "C" NOT NULL,
    source    TEXT   NOT NULL,
    updated_s BIGINT NOT NULL,
    revision  BIGINT NOT NULL,
    PRIMARY KEY (registry, name)
);

CREATE TABLE secret (
    registry TEXT COLLATE "C" NOT NULL,
    name     TEXT COLLATE "C" NOT NULL,
    value    BYTEA NOT NULL, -- its first byte is its format
    PRIMARY KEY (registry, name)
);

CREATE TABLE config (
    registry TEXT COLLATE "C" NOT NULL,
    uid      BIGINT NOT NULL,
    version  BIGINT NOT NULL,
    payload  BYTEA  NOT NULL,
    set_ms   BIGINT NOT NULL,
    acked_ms BIGINT,
    PRIMARY KEY (registry, uid, version),
    FOREIGN KEY (registry, uid) REFERENCES principal (registry, uid) ON DELETE CASCADE
);

CREATE TABLE state (
    registry    TEXT COLLATE "C" NOT NULL,
    uid         BIGINT NOT NULL,
    ordinal     BIGINT NOT NULL, -- the order they came in
    payload     BYTEA  NOT NULL,
    received_ms BIGINT NOT NULL,
    PRIMARY KEY (registry, uid, ordinal),
    FOREIGN KEY (registry, uid) REFERENCES principal (registry, uid) ON DELETE CASCADE
);

-- Rows are only ever added. The subject is a name, not a reference: it outlives its principal.
CREATE TABLE audit (
    registry TEXT COLLATE "C" NOT NULL,
    writer   TEXT COLLATE "C" NOT NULL,
    seq      BIGINT NOT NULL,
    prev     BYTEA  NOT NULL,
    hash     BYTEA  NOT NULL,
    at_ms    BIGINT NOT NULL,
    actor    TEXT   NOT NULL,
    action   TEXT   NOT NULL,
    subject  TEXT   NOT NULL,
    detail   TEXT   NOT NULL,
    PRIMARY KEY (registry, writer, seq)
);

-- The end of each chain. Whoever appends to a chain holds its row, the last of all rows it locks.
CREATE TABLE audit_head (
    registry TEXT COLLATE "C" NOT NULL,
    writer   TEXT COLLATE "C" NOT NULL,
    seq      BIGINT NOT NULL, -- of the chain's last row, 0: none
    hash     BYTEA  NOT NULL, -- of that row
    PRIMARY KEY (registry, writer)
) WITH (fillfactor = 50);

-- One row: counts the times that a server took the place of the sole one.
CREATE TABLE sole_server (
    one        BOOLEAN NOT NULL PRIMARY KEY DEFAULT TRUE CHECK (one),
    generation BIGINT  NOT NULL
);
INSERT INTO sole_server (generation) VALUES (0);
