-- The registry, format 1.
--
-- Every table begins with the registry, so nothing can be asked for without naming one. Times are
-- integers, seconds or milliseconds since 1970-01-01 UTC. Numbers that are u64 in the code (uid,
-- epoch, times, counters) are stored as the i64 of the same 64 bits: a uid of 2^63 and more shows as
-- a negative number here. Text compares byte for byte.

PRAGMA application_id = 0x44726267; -- "Drbg"

CREATE TABLE registry (
    registry        TEXT    NOT NULL PRIMARY KEY,
    issuer          TEXT    NOT NULL,
    bridge_audience TEXT    NOT NULL,
    clock_skew_s    INTEGER NOT NULL,
    token_life_s    INTEGER NOT NULL,
    google_project  TEXT,
    google_location TEXT,
    settings        TEXT    NOT NULL, -- a JSON object
    created_s       INTEGER NOT NULL,
    CHECK ((google_project IS NULL) = (google_location IS NULL))
) STRICT, WITHOUT ROWID;

-- Logins ask by name and pages go by name, so the name is the place on disk.
CREATE TABLE principal (
    registry          TEXT    NOT NULL REFERENCES registry (registry),
    name              TEXT    NOT NULL,
    uid               INTEGER NOT NULL,
    kind              TEXT    NOT NULL,
    blocked           INTEGER NOT NULL,
    pending           INTEGER NOT NULL,
    epoch             INTEGER NOT NULL,
    not_before_s      INTEGER NOT NULL,
    legacy_assertions INTEGER NOT NULL,
    policy            TEXT,
    attributes        TEXT    NOT NULL, -- a JSON object of texts
    password          BLOB,             -- a verifier; its first byte is its format
    settings          TEXT    NOT NULL, -- a JSON object
    enrolment         TEXT,             -- the id of the one by which it came
    registration      BLOB,             -- SHA-256 of its registration access token
    created_s         INTEGER NOT NULL,
    revision          INTEGER NOT NULL,
    config_version    INTEGER NOT NULL DEFAULT 0, -- of the newest config, 0: none
    PRIMARY KEY (registry, name)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX principal_uid ON principal (registry, uid);
CREATE INDEX principal_kind ON principal (registry, kind, name);
-- Of a million devices few have a config: whoever lists configs must not pass by the others.
CREATE INDEX principal_config ON principal (registry, name) WHERE config_version > 0;
-- The same for those that registered themselves.
CREATE INDEX principal_enrolled ON principal (registry, name) WHERE enrolment IS NOT NULL;
CREATE INDEX principal_enrolment ON principal (registry, enrolment, name) WHERE enrolment IS NOT NULL;
CREATE INDEX principal_pending ON principal (registry, name) WHERE enrolment IS NOT NULL AND pending = 1;

-- Numbers of principals that were deleted: never given again.
CREATE TABLE spent_uid (
    registry TEXT    NOT NULL REFERENCES registry (registry),
    uid      INTEGER NOT NULL,
    PRIMARY KEY (registry, uid)
) STRICT, WITHOUT ROWID;

CREATE TABLE principal_key (
    registry        TEXT    NOT NULL,
    uid             INTEGER NOT NULL,
    ordinal         INTEGER NOT NULL, -- the order they were added in
    kid             TEXT    NOT NULL,
    spki_der        BLOB    NOT NULL,
    algorithm       TEXT    NOT NULL,
    label           TEXT,
    state           TEXT    NOT NULL,
    not_before_s    INTEGER,
    expires_s       INTEGER,
    added_s         INTEGER NOT NULL,
    last_used_s     INTEGER,          -- at most 2^63 - 1: this one is compared
    lasting_jti     INTEGER NOT NULL DEFAULT 0, -- rows of this key in lasting_jti
    certificate_der BLOB,             -- last: a large one spills, and the rest of the row stays together
    PRIMARY KEY (registry, uid, ordinal),
    FOREIGN KEY (registry, uid) REFERENCES principal (registry, uid) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
-- A key belongs to one principal of a registry, retired keys included.
CREATE UNIQUE INDEX principal_key_kid ON principal_key (registry, kid);

-- Keys that were retired when their principal was deleted: never registered again.
CREATE TABLE spent_key (
    registry TEXT NOT NULL REFERENCES registry (registry),
    kid      TEXT NOT NULL,
    PRIMARY KEY (registry, kid)
) STRICT, WITHOUT ROWID;

-- A jti with an end. Rows whose end is over mean nothing and are swept in passing.
CREATE TABLE timed_jti (
    registry     TEXT    NOT NULL,
    uid          INTEGER NOT NULL,
    jti_digest   BLOB    NOT NULL,
    token_digest BLOB    NOT NULL,
    until_s      INTEGER NOT NULL, -- at most 2^63 - 1: this one is compared
    kid          TEXT    NOT NULL,
    PRIMARY KEY (registry, uid, jti_digest),
    FOREIGN KEY (registry, uid) REFERENCES principal (registry, uid) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX timed_jti_end ON timed_jti (until_s);

-- A jti without an end: kept until its key is retired.
CREATE TABLE lasting_jti (
    registry     TEXT    NOT NULL,
    uid          INTEGER NOT NULL,
    jti_digest   BLOB    NOT NULL,
    token_digest BLOB    NOT NULL,
    kid          TEXT    NOT NULL,
    PRIMARY KEY (registry, uid, jti_digest),
    FOREIGN KEY (registry, uid) REFERENCES principal (registry, uid) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- The jti of deleted principals, by key: a key that is registered again brings none of the JWTs back
-- that it was used with. Rows without an end last until the key is retired.
CREATE TABLE left_jti (
    registry     TEXT    NOT NULL REFERENCES registry (registry),
    kid          TEXT    NOT NULL,
    jti_digest   BLOB    NOT NULL,
    token_digest BLOB    NOT NULL,
    until_s      INTEGER,
    PRIMARY KEY (registry, kid, jti_digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX left_jti_end ON left_jti (until_s) WHERE until_s IS NOT NULL;

-- Opaque access tokens. Rows whose end is over mean nothing and are swept in passing.
CREATE TABLE token (
    registry   TEXT    NOT NULL,
    digest     BLOB    NOT NULL, -- SHA-256 of the token
    uid        INTEGER NOT NULL,
    family     BLOB    NOT NULL, -- the chain of renewals
    generation INTEGER NOT NULL, -- its place in it, from 0
    claims     TEXT    NOT NULL,
    expires_s  INTEGER NOT NULL, -- at most 2^63 - 1: this one is compared
    used       INTEGER NOT NULL,
    renewed    INTEGER NOT NULL,
    PRIMARY KEY (registry, digest),
    FOREIGN KEY (registry, uid) REFERENCES principal (registry, uid) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX token_family ON token (registry, uid, family, expires_s);
CREATE INDEX token_end ON token (expires_s);

-- The jti of signed access tokens that were revoked before their end; swept as tokens are.
CREATE TABLE revoked_jti (
    registry   TEXT    NOT NULL REFERENCES registry (registry),
    jti_digest BLOB    NOT NULL,
    until_s    INTEGER NOT NULL, -- at most 2^63 - 1: this one is compared
    PRIMARY KEY (registry, jti_digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX revoked_jti_end ON revoked_jti (until_s);

CREATE TABLE enrolment (
    registry     TEXT    NOT NULL REFERENCES registry (registry),
    id           TEXT    NOT NULL,
    token_digest BLOB    NOT NULL, -- SHA-256 of the token
    label        TEXT,
    names        TEXT    NOT NULL, -- a JSON object
    claims_max   INTEGER NOT NULL,
    claims       INTEGER NOT NULL,
    policy       TEXT,
    auto         INTEGER NOT NULL,
    expires_s    INTEGER NOT NULL,
    ended        INTEGER NOT NULL,
    created_s    INTEGER NOT NULL,
    PRIMARY KEY (registry, id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX enrolment_token ON enrolment (registry, token_digest);

-- A gateway may act for a device.
CREATE TABLE link (
    registry TEXT    NOT NULL,
    gateway  INTEGER NOT NULL,
    device   INTEGER NOT NULL,
    PRIMARY KEY (registry, gateway, device),
    FOREIGN KEY (registry, gateway) REFERENCES principal (registry, uid) ON DELETE CASCADE,
    FOREIGN KEY (registry, device) REFERENCES principal (registry, uid) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX link_device ON link (registry, device);

CREATE TABLE ca (
    registry    TEXT    NOT NULL REFERENCES registry (registry),
    fingerprint BLOB    NOT NULL, -- SHA-256 of the certificate
    der         BLOB    NOT NULL,
    label       TEXT,
    added_s     INTEGER NOT NULL,
    PRIMARY KEY (registry, fingerprint)
) STRICT, WITHOUT ROWID;

CREATE TABLE policy (
    registry  TEXT    NOT NULL REFERENCES registry (registry),
    name      TEXT    NOT NULL,
    source    TEXT    NOT NULL,
    updated_s INTEGER NOT NULL,
    revision  INTEGER NOT NULL,
    PRIMARY KEY (registry, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE secret (
    registry TEXT NOT NULL REFERENCES registry (registry),
    name     TEXT NOT NULL,
    value    BLOB NOT NULL, -- its first byte is its format
    PRIMARY KEY (registry, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE config (
    registry TEXT    NOT NULL,
    uid      INTEGER NOT NULL,
    version  INTEGER NOT NULL,
    payload  BLOB    NOT NULL,
    set_ms   INTEGER NOT NULL,
    acked_ms INTEGER,
    PRIMARY KEY (registry, uid, version),
    FOREIGN KEY (registry, uid) REFERENCES principal (registry, uid) ON DELETE CASCADE
) STRICT;

CREATE TABLE state (
    registry    TEXT    NOT NULL,
    uid         INTEGER NOT NULL,
    ordinal     INTEGER NOT NULL, -- the order they came in
    payload     BLOB    NOT NULL,
    received_ms INTEGER NOT NULL,
    PRIMARY KEY (registry, uid, ordinal),
    FOREIGN KEY (registry, uid) REFERENCES principal (registry, uid) ON DELETE CASCADE
) STRICT;

-- Rows are only ever added. The subject is a name, not a reference: it outlives its principal.
CREATE TABLE audit (
    registry TEXT    NOT NULL REFERENCES registry (registry),
    writer   TEXT    NOT NULL,
    seq      INTEGER NOT NULL,
    prev     BLOB    NOT NULL,
    hash     BLOB    NOT NULL,
    at_ms    INTEGER NOT NULL,
    actor    TEXT    NOT NULL,
    action   TEXT    NOT NULL,
    subject  TEXT    NOT NULL,
    detail   TEXT    NOT NULL,
    PRIMARY KEY (registry, writer, seq)
) STRICT, WITHOUT ROWID;
