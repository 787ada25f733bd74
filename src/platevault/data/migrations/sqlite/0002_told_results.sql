-- Which results of sensors were published, so that each is published once.

CREATE TABLE told_result (
    image TEXT NOT NULL REFERENCES exposure (image),
    sensor TEXT NOT NULL,
    event TEXT NOT NULL,
    status_code INTEGER NOT NULL,
    told_tai REAL NOT NULL,
    PRIMARY KEY (image, sensor, event, status_code)
) STRICT, WITHOUT ROWID;
