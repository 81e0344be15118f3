-- Times are seconds since the epoch. Mappings are JSON text; ids are what data_catalog.identity makes.
-- No foreign keys: they block later migrations, and everything here is written by one module.

CREATE TABLE documents (
    id            VARCHAR PRIMARY KEY,
    path          VARCHAR NOT NULL,
    title         VARCHAR NOT NULL,
    text          VARCHAR NOT NULL,
    media_type    VARCHAR NOT NULL,
    first_seen_at DOUBLE NOT NULL,
    withdrawn_at  DOUBLE
);

CREATE TABLE chunks (
    id           VARCHAR PRIMARY KEY,
    document_id  VARCHAR NOT NULL,
    start_char   BIGINT NOT NULL,
    end_char     BIGINT NOT NULL,
    heading_path VARCHAR[] NOT NULL,
    text         VARCHAR NOT NULL,
    split        VARCHAR NOT NULL,
    withdrawn_at DOUBLE
);

-- Files that could not be read as documents at the last sync.
CREATE TABLE refusals (
    path    VARCHAR NOT NULL,
    reason  VARCHAR NOT NULL,
    seen_at DOUBLE NOT NULL
);

CREATE TABLE requests (
    key             VARCHAR PRIMARY KEY,
    model           VARCHAR NOT NULL,
    messages        VARCHAR NOT NULL,
    sampling        VARCHAR NOT NULL,
    response_schema VARCHAR,
    sample_index    BIGINT NOT NULL,
    purpose         VARCHAR NOT NULL,
    template        VARCHAR NOT NULL,
    origin          VARCHAR NOT NULL,
    -- Copies of what `origin` says, for lineage.
    chunk_id        VARCHAR,
    document_id     VARCHAR,
    item_id         VARCHAR,
    first_asked_at  DOUBLE NOT NULL
);

CREATE TABLE completions (
    request_key       VARCHAR PRIMARY KEY,
    text              VARCHAR NOT NULL,
    -- The JSON spelling of a text that UTF-8 can't hold (a lone surrogate); NULL for every other.
    text_escaped      VARCHAR,
    finish_reason     VARCHAR NOT NULL,
    prompt_tokens     BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    seconds           DOUBLE NOT NULL,
    stored_at         DOUBLE NOT NULL
);

CREATE TABLE items (
    id           VARCHAR PRIMARY KEY,
    kind         VARCHAR NOT NULL,
    payload      VARCHAR NOT NULL,
    recipe       VARCHAR NOT NULL,
    split        VARCHAR NOT NULL,
    chunk_id     VARCHAR,
    document_id  VARCHAR,
    request_keys VARCHAR[] NOT NULL,
    meta         VARCHAR NOT NULL,
    added_at     DOUBLE NOT NULL
);

CREATE TABLE verdicts (
    item_id      VARCHAR NOT NULL,
    check_name   VARCHAR NOT NULL,
    outcome      VARCHAR NOT NULL,
    reason       VARCHAR NOT NULL,
    score        DOUBLE,
    request_keys VARCHAR[] NOT NULL,
    decided_at   DOUBLE NOT NULL,
    position     BIGINT NOT NULL,
    PRIMARY KEY (item_id, check_name)
);

CREATE TABLE dataset_versions (
    id         VARCHAR PRIMARY KEY,
    kind       VARCHAR NOT NULL,
    row_count  BIGINT NOT NULL,
    path       VARCHAR NOT NULL,
    sha256     VARCHAR NOT NULL,
    created_at DOUBLE NOT NULL
);

-- One version may be known by several names: its id says nothing of the name.
CREATE TABLE dataset_names (
    name       VARCHAR NOT NULL,
    dataset_id VARCHAR NOT NULL,
    named_at   DOUBLE NOT NULL,
    PRIMARY KEY (name, dataset_id)
);

CREATE TABLE dataset_items (
    dataset_id VARCHAR NOT NULL,
    item_id    VARCHAR NOT NULL
);

CREATE TABLE step_runs (
    id          VARCHAR PRIMARY KEY,
    step        VARCHAR NOT NULL,
    fingerprint VARCHAR NOT NULL,
    status      VARCHAR NOT NULL,
    started_at  DOUBLE NOT NULL,
    ended_at    DOUBLE,
    result      VARCHAR NOT NULL,
    error       VARCHAR NOT NULL
);

CREATE TABLE metrics (
    run_id        VARCHAR NOT NULL,
    step          BIGINT NOT NULL,
    epoch         DOUBLE NOT NULL,
    loss          DOUBLE NOT NULL,
    learning_rate DOUBLE,
    -- A map of doubles rather than JSON: a diverged run logs NaN, which JSON can't say.
    logged        MAP(VARCHAR, DOUBLE) NOT NULL,
    PRIMARY KEY (run_id, step)
);

CREATE TABLE scores (
    model      VARCHAR NOT NULL,
    suite      VARCHAR NOT NULL,
    position   BIGINT NOT NULL,
    sample_id  VARCHAR NOT NULL,
    question   VARCHAR NOT NULL,
    answers    VARCHAR[] NOT NULL,
    completion VARCHAR NOT NULL,
    outcome    VARCHAR NOT NULL,
    score      DOUBLE,
    scored_at  DOUBLE NOT NULL
);

CREATE TABLE gates (
    id          VARCHAR PRIMARY KEY,
    candidate   VARCHAR NOT NULL,
    baseline    VARCHAR NOT NULL,
    stage_name  VARCHAR NOT NULL,
    outcome     VARCHAR NOT NULL,
    comparisons VARCHAR NOT NULL,
    created_at  DOUBLE NOT NULL,
    run_id      VARCHAR NOT NULL
);

CREATE TABLE models (
    id            VARCHAR PRIMARY KEY,
    path          VARCHAR NOT NULL,
    manifest      VARCHAR NOT NULL,
    lineage       VARCHAR NOT NULL,
    registered_at DOUBLE NOT NULL
);

-- The training stages of a model's lineage, one row each.
CREATE TABLE model_sources (
    model_id   VARCHAR NOT NULL,
    position   BIGINT NOT NULL,
    stage_name VARCHAR NOT NULL,
    run_id     VARCHAR,
    dataset_id VARCHAR,
    gate_id    VARCHAR
);

-- The registry's truth. Appended to, never updated: each row's hash covers the row and the hash before it.
CREATE TABLE registry_events (
    seq           BIGINT PRIMARY KEY,
    happened_at   DOUBLE NOT NULL,
    actor         VARCHAR NOT NULL,
    action        VARCHAR NOT NULL,
    stage         VARCHAR NOT NULL,
    model_id      VARCHAR NOT NULL,
    details       VARCHAR NOT NULL,
    previous_hash VARCHAR NOT NULL,
    hash          VARCHAR NOT NULL
);

CREATE VIEW current_documents AS
SELECT * FROM documents WHERE withdrawn_at IS NULL;

CREATE VIEW current_chunks AS
SELECT chunks.* FROM chunks
SEMI JOIN current_documents ON current_documents.id = chunks.document_id
WHERE chunks.withdrawn_at IS NULL;

-- An item follows its chunk to the evaluation side of the split, and once either says so it is never trained on.
CREATE VIEW all_items AS
SELECT
    items.* REPLACE (
        CASE WHEN chunks.split = 'evaluation' THEN 'evaluation' ELSE items.split END AS split
    ),
    (items.chunk_id IS NULL OR current_chunks.id IS NOT NULL)
    AND (items.document_id IS NULL OR current_documents.id IS NOT NULL) AS is_current
FROM items
LEFT JOIN chunks ON chunks.id = items.chunk_id
LEFT JOIN current_chunks ON current_chunks.id = items.chunk_id
LEFT JOIN current_documents ON current_documents.id = items.document_id;

CREATE VIEW stage_pointers AS
SELECT stage, arg_max(model_id, seq) AS model_id, max(seq) AS seq, arg_max(hash, seq) AS hash
FROM registry_events GROUP BY stage;

CREATE VIEW lineage_nodes AS
SELECT 'document' AS kind, id FROM documents
UNION ALL SELECT 'path', path FROM (SELECT DISTINCT path FROM documents)
UNION ALL SELECT 'chunk', id FROM chunks
UNION ALL SELECT 'request', key FROM requests
UNION ALL SELECT 'item', id FROM items
UNION ALL SELECT 'dataset', id FROM dataset_versions
UNION ALL SELECT 'run', id FROM step_runs
UNION ALL SELECT 'gate', id FROM gates
UNION ALL SELECT 'model', id FROM models;

CREATE VIEW lineage_edges AS
SELECT 'path' AS parent_kind, path AS parent_id, 'document' AS child_kind, id AS child_id FROM documents
UNION ALL SELECT 'document', document_id, 'chunk', id FROM chunks
UNION ALL SELECT 'chunk', chunk_id, 'request', key FROM requests WHERE chunk_id IS NOT NULL
UNION ALL SELECT 'document', document_id, 'request', key FROM requests
    WHERE chunk_id IS NULL AND document_id IS NOT NULL
UNION ALL SELECT 'item', item_id, 'request', key FROM requests WHERE item_id IS NOT NULL
UNION ALL SELECT 'request', unnest(request_keys), 'item', id FROM items
UNION ALL SELECT 'chunk', chunk_id, 'item', id FROM items WHERE chunk_id IS NOT NULL
UNION ALL SELECT 'document', document_id, 'item', id FROM items WHERE chunk_id IS NULL AND document_id IS NOT NULL
UNION ALL SELECT 'item', item_id, 'dataset', dataset_id FROM dataset_items
UNION ALL SELECT 'dataset', dataset_id, 'run', run_id FROM model_sources
    WHERE dataset_id IS NOT NULL AND run_id IS NOT NULL
UNION ALL SELECT 'dataset', dataset_id, 'model', model_id FROM model_sources
    WHERE dataset_id IS NOT NULL AND run_id IS NULL
UNION ALL SELECT 'run', run_id, 'model', model_id FROM model_sources WHERE run_id IS NOT NULL
UNION ALL SELECT 'gate', gate_id, 'model', model_id FROM model_sources WHERE gate_id IS NOT NULL;
