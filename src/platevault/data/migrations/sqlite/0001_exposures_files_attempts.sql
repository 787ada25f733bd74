-- Exposures, the state of each of their files at each destination, and every attempt.
-- Times are TAI seconds. Text in `sensors` and `facts` is JSON.

CREATE TABLE exposure (
    image TEXT NOT NULL PRIMARY KEY,
    camera TEXT NOT NULL,
    day_obs INTEGER NOT NULL,
    exposure_id INTEGER NOT NULL,
    sensors TEXT NOT NULL,
    facts TEXT NOT NULL,
    file_count INTEGER NOT NULL,
    registered_tai REAL NOT NULL,
    target_dir TEXT NOT NULL DEFAULT '',
    end_readout_tai REAL,
    header_url TEXT,
    header_version INTEGER,
    header_size_bytes INTEGER,
    header_md5 TEXT
) STRICT, WITHOUT ROWID;

CREATE INDEX exposure_by_day ON exposure (day_obs, camera);

CREATE TABLE file_state (
    image TEXT NOT NULL REFERENCES exposure (image),
    sensor TEXT NOT NULL,
    kind TEXT NOT NULL,
    destination TEXT NOT NULL,
    state TEXT NOT NULL,
    path TEXT NOT NULL DEFAULT '',
    size_bytes INTEGER NOT NULL DEFAULT 0,
    digest TEXT NOT NULL DEFAULT '',
    degraded INTEGER NOT NULL DEFAULT 0 CHECK (degraded IN (0, 1)),
    attempt INTEGER NOT NULL DEFAULT 0,
    fence INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    changed_tai REAL NOT NULL,
    PRIMARY KEY (image, sensor, kind, destination)
) STRICT, WITHOUT ROWID;

CREATE INDEX file_by_state ON file_state (destination, state, kind, image);

CREATE TRIGGER file_fence_never_falls BEFORE UPDATE OF fence ON file_state
WHEN NEW.fence < OLD.fence
BEGIN
    SELECT RAISE(ABORT, 'a fencing number never falls');
END;

CREATE TABLE attempt (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    image TEXT NOT NULL,
    sensor TEXT NOT NULL,
    kind TEXT NOT NULL,
    destination TEXT NOT NULL,
    number INTEGER NOT NULL,
    worker TEXT NOT NULL,
    fence INTEGER NOT NULL,
    started_tai REAL NOT NULL,
    ended_tai REAL,
    staged_path TEXT NOT NULL DEFAULT '',
    staged_size_bytes INTEGER NOT NULL DEFAULT 0,
    staged_digest TEXT NOT NULL DEFAULT '',
    outcome TEXT NOT NULL DEFAULT '' CHECK (outcome IN ('', 'done', 'failed', 'lost')),
    error TEXT NOT NULL DEFAULT '',
    UNIQUE (image, sensor, kind, destination, number),
    FOREIGN KEY (image, sensor, kind, destination)
        REFERENCES file_state (image, sensor, kind, destination),
    CHECK ((ended_tai IS NULL) = (outcome = ''))
) STRICT;

CREATE UNIQUE INDEX attempt_open ON attempt (image, sensor, kind, destination)
WHERE ended_tai IS NULL;

CREATE TRIGGER attempt_is_kept BEFORE DELETE ON attempt
BEGIN
    SELECT RAISE(ABORT, 'attempts are never deleted');
END;

CREATE TRIGGER attempt_end_is_final BEFORE UPDATE ON attempt
WHEN OLD.ended_tai IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'an attempt that has ended is never changed');
END;

CREATE TRIGGER attempt_start_is_final
BEFORE UPDATE OF id, image, sensor, kind, destination, number, worker, fence, started_tai
ON attempt
BEGIN
    SELECT RAISE(ABORT, 'who began an attempt, and when, is never changed');
END;

-- How often an embedded lease store was started on this ledger: its fencing numbers must
-- exceed those of former runs.
CREATE TABLE lease_epoch (
    only INTEGER NOT NULL PRIMARY KEY CHECK (only = 1),
    epoch INTEGER NOT NULL
) STRICT;

INSERT INTO lease_epoch VALUES (1, 0);
