-- Which results of sensors were published, so that each is published once.

CREATE TABLE told_result (
    image TEXT COLLATE "C" NOT NULL REFERENCES exposure (image),
    sensor TEXT COLLATE "C" NOT NULL,
    event TEXT COLLATE "C" NOT NULL,
    status_code INTEGER NOT NULL,
    told_tai DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (image, sensor, event, status_code)
);
