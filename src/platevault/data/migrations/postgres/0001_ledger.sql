-- Exposures, the state of each of their files at each destination, and every attempt.
-- Times are TAI seconds. Text in `sensors` and `facts` is JSON, compared as text.
-- Names sort by code point ("C"), whatever the locale of the database.

CREATE TABLE exposure (
    image TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    camera TEXT COLLATE "C" NOT NULL,
    day_obs INTEGER NOT NULL,
    exposure_id BIGINT NOT NULL,
    sensors TEXT NOT NULL,
    facts TEXT NOT NULL,
    file_count INTEGER NOT NULL,
    registered_tai DOUBLE PRECISION NOT NULL,
    target_dir TEXT NOT NULL DEFAULT '',
    end_readout_tai DOUBLE PRECISION,
    header_url TEXT,
    header_version INTEGER,
    header_size_bytes BIGINT,
    header_md5 TEXT
);

CREATE INDEX exposure_by_day ON exposure (day_obs, camera);

CREATE TABLE file_state (
    image TEXT COLLATE "C" NOT NULL REFERENCES exposure (image),
    sensor TEXT COLLATE "C" NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    destination TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    path TEXT NOT NULL DEFAULT '',
    size_bytes BIGINT NOT NULL DEFAULT 0,
    digest TEXT NOT NULL DEFAULT '',
    degraded BOOLEAN NOT NULL DEFAULT FALSE,
    attempt INTEGER NOT NULL DEFAULT 0,
    fence BIGINT NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    changed_tai DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (image, sensor, kind, destination)
);

CREATE INDEX file_by_state ON file_state (destination, state, kind, image);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    RAISE EXCEPTION USING MESSAGE = TG_ARGV[0], ERRCODE = 'integrity_constraint_violation';
END
$body$;

CREATE TRIGGER file_fence_never_falls BEFORE UPDATE OF fence ON file_state
FOR EACH ROW WHEN (NEW.fence < OLD.fence)
EXECUTE FUNCTION refuse_change('a fencing number never falls');

CREATE TABLE attempt (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    image TEXT COLLATE "C" NOT NULL,
    sensor TEXT COLLATE "C" NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    destination TEXT COLLATE "C" NOT NULL,
    number INTEGER NOT NULL,
    worker TEXT NOT NULL,
    fence BIGINT NOT NULL,
    started_tai DOUBLE PRECISION NOT NULL,
    ended_tai DOUBLE PRECISION,
    staged_path TEXT NOT NULL DEFAULT '',
    staged_size_bytes BIGINT NOT NULL DEFAULT 0,
    staged_digest TEXT NOT NULL DEFAULT '',
    outcome TEXT NOT NULL DEFAULT '' CHECK (outcome IN ('', 'done', 'failed', 'lost')),
    error TEXT NOT NULL DEFAULT '',
    UNIQUE (image, sensor, kind, destination, number),
    FOREIGN KEY (image, sensor, kind, destination)
        REFERENCES file_state (image, sensor, kind, destination),
    CHECK ((ended_tai IS NULL) = (outcome = ''))
);

CREATE UNIQUE INDEX attempt_open ON attempt (image, sensor, kind, destination)
WHERE ended_tai IS NULL;

CREATE TRIGGER attempt_is_kept BEFORE DELETE ON attempt
FOR EACH ROW EXECUTE FUNCTION refuse_change('attempts are never deleted');

CREATE TRIGGER attempts_are_kept BEFORE TRUNCATE ON attempt
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change('attempts are never deleted');

CREATE TRIGGER attempt_end_is_final BEFORE UPDATE ON attempt
FOR EACH ROW WHEN (OLD.ended_tai IS NOT NULL)
EXECUTE FUNCTION refuse_change('an attempt that has ended is never changed');

CREATE TRIGGER attempt_start_is_final
BEFORE UPDATE OF id, image, sensor, kind, destination, number, worker, fence, started_tai
ON attempt
FOR EACH ROW EXECUTE FUNCTION refuse_change('who began an attempt, and when, is never changed');

-- How often an embedded lease store was started on this ledger: its fencing numbers must
-- exceed those of former runs.
CREATE TABLE lease_epoch (
    only_one INTEGER NOT NULL PRIMARY KEY CHECK (only_one = 1),
    epoch BIGINT NOT NULL
);

INSERT INTO lease_epoch VALUES (1, 0);
