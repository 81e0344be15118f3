-- Requests that a run left without an answer, with the newest reason. A row stays when the request is answered after
-- all: what counts as failed is asked together with `completions`.

CREATE TABLE request_failures (
    request_key VARCHAR PRIMARY KEY,
    kind        VARCHAR NOT NULL,
    reason      VARCHAR NOT NULL,
    attempts    BIGINT NOT NULL,
    failed_at   DOUBLE NOT NULL
);
