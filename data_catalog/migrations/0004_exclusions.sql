-- What must stay out of the documents even where the file still exists: a text by its id, or whatever stands at a path.
CREATE TABLE exclusions (
    kind        VARCHAR NOT NULL,
    id          VARCHAR NOT NULL,
    excluded_at DOUBLE NOT NULL,
    actor       VARCHAR NOT NULL,
    PRIMARY KEY (kind, id)
);
