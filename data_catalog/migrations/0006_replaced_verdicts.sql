-- What a check said of an item before it changed its mind. Rows are added where the outcome differs, never changed.

CREATE TABLE replaced_verdicts (
    item_id     VARCHAR NOT NULL,
    check_name  VARCHAR NOT NULL,
    outcome     VARCHAR NOT NULL,
    reason      VARCHAR NOT NULL,
    replaced_at DOUBLE NOT NULL
);
