"""Every SQL statement outside the migrations. `incoming` and `wanted` are Arrow tables that a session registers."""

from __future__ import annotations

# Migrations -----------------------------------------------------------------------------------------------------------

CREATE_MIGRATION_TABLE = """
CREATE TABLE schema_migrations (
    version INTEGER PRIMARY KEY, name VARCHAR NOT NULL, sha256 VARCHAR NOT NULL, applied_at DOUBLE NOT NULL
)
"""
HAS_MIGRATION_TABLE = "SELECT 1 FROM duckdb_tables() WHERE table_name = 'schema_migrations'"
APPLIED_MIGRATIONS = "SELECT version, name, sha256 FROM schema_migrations ORDER BY version"
RECORD_MIGRATION = "INSERT INTO schema_migrations VALUES (?, ?, ?, ?)"
OUR_VIEWS = "SELECT view_name FROM duckdb_views() WHERE NOT internal"
TRY_VIEW = 'SELECT * FROM "{view}" LIMIT 1'

# Documents ------------------------------------------------------------------------------------------------------------

STORED_DOCUMENTS = "SELECT id, path, title, media_type, withdrawn_at IS NULL FROM documents"
STORED_CHUNKS = "SELECT id, heading_path, split, withdrawn_at IS NULL FROM chunks"
REFUSALS = "SELECT path, reason FROM refusals ORDER BY path, reason"
UPSERT_DOCUMENTS = """
INSERT INTO documents (id, path, title, text, media_type, first_seen_at)
SELECT id, path, title, text, media_type, $now FROM incoming
ON CONFLICT (id) DO UPDATE SET
    path = excluded.path, title = excluded.title, media_type = excluded.media_type, withdrawn_at = NULL
"""
UPSERT_CHUNKS = """
INSERT INTO chunks (id, document_id, start_char, end_char, heading_path, text, split)
SELECT id, document_id, start_char, end_char, heading_path, text, split FROM incoming
ON CONFLICT (id) DO UPDATE SET
    heading_path = excluded.heading_path, split = excluded.split, text = excluded.text, withdrawn_at = NULL
"""
WITHDRAW_DOCUMENTS = """
UPDATE documents SET withdrawn_at = $now WHERE withdrawn_at IS NULL AND id IN (SELECT id FROM wanted)
"""
WITHDRAW_CHUNKS = """
UPDATE chunks SET withdrawn_at = $now WHERE withdrawn_at IS NULL AND id IN (SELECT id FROM wanted)
"""
CLEAR_REFUSALS = "DELETE FROM refusals"
INSERT_REFUSALS = "INSERT INTO refusals SELECT path, reason, $now FROM incoming"

DOCUMENTS = """
SELECT id, path, title, text, media_type FROM documents
WHERE NOT $current_only OR withdrawn_at IS NULL
ORDER BY path, id
"""
CHUNKS = """
SELECT chunks.id, document_id, start_char, end_char, heading_path, chunks.text, split
FROM chunks JOIN documents ON documents.id = document_id
WHERE (NOT $current_only OR (chunks.withdrawn_at IS NULL AND documents.withdrawn_at IS NULL))
  AND ($split IS NULL OR split = $split)
ORDER BY documents.path, document_id, start_char, end_char
"""

# Requests and completions ---------------------------------------------------------------------------------------------

INSERT_REQUESTS = "INSERT INTO requests BY NAME SELECT *, $now AS first_asked_at FROM incoming ON CONFLICT DO NOTHING"
UNKNOWN_REQUESTS = """
SELECT request_key FROM incoming ANTI JOIN requests ON requests.key = incoming.request_key ORDER BY request_key LIMIT 3
"""
INSERT_COMPLETIONS = """
INSERT INTO completions BY NAME SELECT *, $now AS stored_at FROM incoming ON CONFLICT DO NOTHING
"""
COMPLETIONS = """
SELECT request_key, text, text_escaped, finish_reason, prompt_tokens, completion_tokens, seconds
FROM completions SEMI JOIN wanted ON wanted.id = request_key
ORDER BY request_key
"""
REQUESTS = """
SELECT model, messages, sampling, response_schema, sample_index, purpose, template, origin
FROM requests SEMI JOIN wanted ON wanted.id = requests.key
ORDER BY requests.key
"""
REQUESTS_TO = """
SELECT model, messages, sampling, response_schema, sample_index, purpose, template, origin
FROM requests WHERE model = $model AND purpose = $purpose ORDER BY key
"""
SAMPLES_ASKED = """
SELECT purpose, max(sample_index) + 1 FROM requests SEMI JOIN wanted ON wanted.id = document_id
GROUP BY purpose ORDER BY purpose
"""
ANSWERED_KEYS = """
SELECT key FROM requests SEMI JOIN completions ON completions.request_key = requests.key ORDER BY key
"""
UPSERT_REQUEST_FAILURES = """
INSERT INTO request_failures BY NAME SELECT *, $now AS failed_at FROM incoming
ON CONFLICT (request_key) DO UPDATE SET
    kind = excluded.kind, reason = excluded.reason, attempts = excluded.attempts, failed_at = excluded.failed_at
"""
REQUEST_FAILURES = """
SELECT request_key, kind, reason, attempts
FROM request_failures SEMI JOIN wanted ON wanted.id = request_key ANTI JOIN completions USING (request_key)
ORDER BY request_key
"""
RELEASE_REQUESTS = """
DELETE FROM request_failures WHERE kind = $kind RETURNING request_key
"""
REQUEST_COUNTS = """
SELECT
    purpose, template, model, count(*), count(completions.request_key), count(*) FILTER (finish_reason = 'length'),
    coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), coalesce(sum(seconds), 0),
    count(kind) FILTER (completions.request_key IS NULL AND kind != $quarantined),
    count(kind) FILTER (completions.request_key IS NULL AND kind = $quarantined),
    min(first_asked_at), max(coalesce(stored_at, failed_at, first_asked_at))
FROM requests
LEFT JOIN completions ON completions.request_key = requests.key
LEFT JOIN request_failures ON request_failures.request_key = requests.key
GROUP BY purpose, template, model ORDER BY purpose, template, model
"""
FAILURE_REASONS = """
SELECT purpose, template, kind, reason, attempts, failed_at, request_key
FROM request_failures ANTI JOIN completions USING (request_key) JOIN requests ON requests.key = request_key
ORDER BY purpose, template, kind, reason, request_key
"""
SALVAGE_ROWS = "SELECT count(*) FROM {table}"
SALVAGE_REQUESTS = """
SELECT key, model, messages, sampling, response_schema, sample_index, purpose, template, origin, chunk_id, document_id,
    item_id
FROM requests WHERE rowid >= $first AND rowid < $last
"""
SALVAGE_COMPLETIONS = """
SELECT request_key, text, text_escaped, finish_reason, prompt_tokens, completion_tokens, seconds
FROM completions WHERE rowid >= $first AND rowid < $last
"""

SALVAGE_EXCLUSIONS = """
SELECT kind, id, excluded_at, actor FROM exclusions WHERE rowid >= $first AND rowid < $last
"""
TAKE_OVER_EXCLUSIONS = "INSERT INTO exclusions BY NAME SELECT * FROM incoming ON CONFLICT DO NOTHING"

# Items and verdicts ---------------------------------------------------------------------------------------------------

ADD_ITEM_REQUESTS = """
INSERT INTO item_requests BY NAME
SELECT DISTINCT unnest(request_keys) AS request_key, id AS item_id FROM incoming ANTI JOIN items USING (id)
"""
"""Before UPSERT_ITEMS, as it tells new items by what `items` lacks."""
UPSERT_ITEMS = """
INSERT INTO items BY NAME
SELECT incoming.*, $now AS added_at FROM incoming LEFT JOIN items ON items.id = incoming.id
WHERE items.id IS NULL
   OR items.recipe != incoming.recipe OR items.split != incoming.split OR items.meta != incoming.meta
ON CONFLICT (id) DO UPDATE SET recipe = excluded.recipe, split = excluded.split, meta = excluded.meta
"""
ITEMS = """
SELECT id, kind, payload, recipe, split, chunk_id, document_id, request_keys, meta FROM all_items
WHERE (NOT $current_only OR is_current)
  AND ($recipe IS NULL OR recipe = $recipe)
  AND ($split IS NULL OR split = $split)
ORDER BY id
"""
ITEMS_BY_ID = """
SELECT id, kind, payload, recipe, split, chunk_id, document_id, request_keys, meta
FROM all_items SEMI JOIN wanted ON wanted.id = all_items.id
WHERE (NOT $current_only OR is_current)
  AND ($recipe IS NULL OR recipe = $recipe)
  AND ($split IS NULL OR split = $split)
ORDER BY id
"""
KEEP_REPLACED_VERDICTS = """
INSERT INTO replaced_verdicts
SELECT verdicts.item_id, verdicts.check_name, verdicts.outcome, verdicts.reason, $now
FROM verdicts JOIN incoming ON incoming.item_id = verdicts.item_id AND incoming.check_name = verdicts.check_name
WHERE verdicts.outcome != incoming.outcome
"""
UPSERT_VERDICTS = """
INSERT INTO verdicts BY NAME SELECT *, $now AS decided_at FROM incoming
ON CONFLICT (item_id, check_name) DO UPDATE SET
    outcome = excluded.outcome, reason = excluded.reason, score = excluded.score,
    request_keys = excluded.request_keys, decided_at = excluded.decided_at, position = excluded.position
"""
VERDICTS = """
SELECT item_id, check_name, outcome, reason, score, request_keys FROM verdicts
ORDER BY item_id, decided_at, position, check_name
"""
VERDICTS_BY_ITEM = """
SELECT item_id, check_name, outcome, reason, score, request_keys
FROM verdicts SEMI JOIN wanted ON wanted.id = item_id
ORDER BY item_id, decided_at, position, check_name
"""

# The funnel -----------------------------------------------------------------------------------------------------------

FUNNEL_REQUESTS = """
SELECT purpose, count(*), count(request_key), count(*) FILTER (finish_reason = 'length')
FROM requests
LEFT JOIN completions ON completions.request_key = requests.key
LEFT JOIN current_chunks ON current_chunks.id = requests.chunk_id
LEFT JOIN current_documents ON current_documents.id = requests.document_id
WHERE NOT $current_only
   OR ((requests.chunk_id IS NULL OR current_chunks.id IS NOT NULL)
       AND (requests.document_id IS NULL OR current_documents.id IS NOT NULL))
GROUP BY purpose
"""
FUNNEL_ITEMS = """
WITH standing AS (
    SELECT item_id, count(*) FILTER (outcome = 'failed') AS failed, count(*) FILTER (outcome = 'unscored') AS unscored
    FROM verdicts WHERE $checks IS NULL OR list_contains($checks, check_name)
    GROUP BY item_id
)
SELECT
    recipe,
    count(*),
    count(*) FILTER (failed = 0 AND unscored = 0),
    count(*) FILTER (failed > 0),
    count(*) FILTER (failed = 0 AND unscored > 0),
    count(*) FILTER (failed IS NULL)
FROM all_items LEFT JOIN standing ON standing.item_id = all_items.id
WHERE NOT $current_only OR is_current
GROUP BY recipe
"""
FUNNEL_CHECKS = """
SELECT
    recipe,
    check_name,
    count(*) AS seen,
    count(*) FILTER (outcome = 'passed'),
    count(*) FILTER (outcome = 'failed'),
    count(*) FILTER (outcome = 'unscored')
FROM verdicts JOIN all_items ON all_items.id = item_id
WHERE (NOT $current_only OR is_current) AND ($checks IS NULL OR list_contains($checks, check_name))
GROUP BY recipe, check_name
ORDER BY recipe, seen DESC, min(decided_at), min(position), check_name
"""
FUNNEL_REASONS = """
SELECT recipe, check_name, outcome, reason, count(*) AS times, list_slice(list_sort(list(item_id)), 1, $examples)
FROM verdicts JOIN all_items ON all_items.id = item_id
WHERE outcome != 'passed'
  AND (NOT $current_only OR is_current) AND ($checks IS NULL OR list_contains($checks, check_name))
GROUP BY recipe, check_name, outcome, reason
ORDER BY recipe, check_name, times DESC, outcome, reason
"""

# Steps, metrics, scores, gates ----------------------------------------------------------------------------------------

STEP_ATTEMPTS = "SELECT count(*) FROM step_runs WHERE fingerprint = $fingerprint"
ABANDON_STEPS = """
UPDATE step_runs SET status = 'failed', ended_at = $now, error = $error
WHERE status = 'running' AND ($fingerprint IS NULL OR fingerprint = $fingerprint)
"""
ANY_RUNNING_STEP = "SELECT 1 FROM step_runs WHERE status = 'running' LIMIT 1"
INSERT_STEP = "INSERT INTO step_runs BY NAME SELECT * FROM incoming"
END_STEP = """
UPDATE step_runs SET status = $status, ended_at = $now, result = $result, error = $error
WHERE id = $id RETURNING id, step, fingerprint, status, started_at, ended_at, result, error
"""
DONE_STEP = """
SELECT id, step, fingerprint, status, started_at, ended_at, result, error FROM step_runs
WHERE fingerprint = $fingerprint AND status = 'done' ORDER BY ended_at DESC, started_at DESC LIMIT 1
"""
STEPS = """
SELECT id, step, fingerprint, status, started_at, ended_at, result, error FROM step_runs
ORDER BY started_at DESC, id LIMIT $limit
"""
UPSERT_METRICS = """
INSERT INTO metrics BY NAME SELECT * FROM incoming
ON CONFLICT (run_id, step) DO UPDATE SET
    epoch = excluded.epoch, loss = excluded.loss, learning_rate = excluded.learning_rate, logged = excluded.logged
"""
METRICS = "SELECT step, epoch, loss, learning_rate, logged FROM metrics WHERE run_id = $run_id ORDER BY step"
CLEAR_SCORES = "DELETE FROM scores WHERE model = $model AND suite = $suite"
INSERT_SCORES = "INSERT INTO scores BY NAME SELECT *, $now AS scored_at FROM incoming"
SCORES = """
SELECT sample_id, question, answers, completion, outcome, score FROM scores
WHERE model = $model AND suite = $suite ORDER BY position
"""
SCORED_SUITES = "SELECT DISTINCT suite FROM scores WHERE model = $model ORDER BY suite"
INSERT_GATE = "INSERT INTO gates BY NAME SELECT * FROM incoming ON CONFLICT DO NOTHING"
GATES = """
SELECT id, candidate, baseline, stage_name, outcome, comparisons, created_at, run_id FROM gates
WHERE $candidate IS NULL OR candidate = $candidate ORDER BY created_at, id
"""
GATES_BY_ID = """
SELECT id, candidate, baseline, stage_name, outcome, comparisons, created_at, run_id
FROM gates SEMI JOIN wanted ON wanted.id = gates.id ORDER BY created_at, gates.id
"""

# Dataset versions -----------------------------------------------------------------------------------------------------

DATASET_EXISTS = "SELECT sha256, removed_at FROM dataset_versions WHERE id = $id"
INSERT_DATASET = """
INSERT INTO dataset_versions (id, kind, row_count, path, sha256, created_at)
VALUES ($id, $kind, $rows, $path, $sha256, $now)
"""
UPDATE_DATASET = "UPDATE dataset_versions SET sha256 = $sha256, removed_at = NULL WHERE id = $id"
NAME_DATASET = """
INSERT INTO dataset_names VALUES ($name, $id, $now)
ON CONFLICT (name, dataset_id) DO UPDATE SET named_at = excluded.named_at
"""
INSERT_DATASET_ITEMS = "INSERT INTO dataset_items SELECT $dataset_id, id FROM wanted"
DATASETS = """
SELECT v.id, n.name, v.kind, v.row_count, v.path, v.sha256, v.created_at, n.named_at
FROM dataset_versions v JOIN dataset_names n ON n.dataset_id = v.id
WHERE $id IS NULL OR v.id = $id
ORDER BY n.named_at DESC, n.name
"""
DATASET_MODELS = """
SELECT DISTINCT model_id, stage_name FROM model_sources WHERE dataset_id = $id ORDER BY model_id, stage_name
"""
# What a diff has to know of an item.
ORIGINS = """
SELECT
    all_items.id, all_items.kind, all_items.payload, all_items.recipe, all_items.split, all_items.meta,
    all_items.added_at, all_items.chunk_id, all_items.document_id,
    documents.path, documents.first_seen_at, documents.withdrawn_at, chunks.withdrawn_at,
    requests.template, requests.model
FROM all_items SEMI JOIN wanted ON wanted.id = all_items.id
LEFT JOIN documents ON documents.id = all_items.document_id
LEFT JOIN chunks ON chunks.id = all_items.chunk_id
LEFT JOIN requests ON requests.key = all_items.request_keys[1]
ORDER BY all_items.id
"""
NOT_PASSED = """
SELECT item_id, check_name, outcome, reason, decided_at FROM verdicts SEMI JOIN wanted ON wanted.id = item_id
WHERE outcome != 'passed' ORDER BY item_id, decided_at, position, check_name
"""
FORMERLY_NOT_PASSED = """
SELECT item_id, check_name, outcome, reason, replaced_at FROM replaced_verdicts SEMI JOIN wanted ON wanted.id = item_id
WHERE outcome != 'passed' ORDER BY item_id, replaced_at, check_name
"""
DATASET_ITEMS = "SELECT item_id FROM dataset_items WHERE dataset_id = $id ORDER BY item_id"

# The registry ---------------------------------------------------------------------------------------------------------

MODEL = "SELECT id, path, manifest, lineage, registered_at, removed_at FROM models WHERE id = $id"
MODELS = "SELECT id, path, manifest, lineage, registered_at, removed_at FROM models ORDER BY registered_at DESC, id"
MODEL_SUMMARIES = """
SELECT
    models.id,
    registered_at,
    removed_at,
    list_sum(CAST(json_extract(manifest, '$[*][1]') AS BIGINT[])),
    coalesce(pointing.stages, []),
    coalesce(gated.outcomes, [])
FROM models
LEFT JOIN (
    SELECT model_id, list(stage) AS stages FROM stage_pointers GROUP BY model_id
) pointing ON pointing.model_id = models.id
LEFT JOIN (
    SELECT model_id, list(stage_name || ' ' || outcome ORDER BY created_at, id) AS outcomes
    FROM (SELECT DISTINCT model_id, gate_id FROM model_sources) JOIN gates ON gates.id = gate_id GROUP BY model_id
) gated ON gated.model_id = models.id
ORDER BY registered_at DESC, models.id
"""
MODEL_REMOVED_AT = "SELECT removed_at FROM models WHERE id = $id"
MODEL_IDS = """
SELECT id FROM models
WHERE id = $name OR ($name != '' AND (starts_with(id, $name) OR starts_with(id, 'model-' || $name)))
ORDER BY id
"""
UPSERT_MODEL = """
INSERT INTO models (id, path, manifest, lineage, registered_at) VALUES ($id, $path, $manifest, $lineage, $now)
ON CONFLICT (id) DO UPDATE SET lineage = excluded.lineage, removed_at = NULL
"""
CLEAR_MODEL_SOURCES = "DELETE FROM model_sources WHERE model_id = $id"
INSERT_MODEL_SOURCES = "INSERT INTO model_sources BY NAME SELECT * FROM incoming"
LAST_EVENT = "SELECT seq, hash FROM registry_events ORDER BY seq DESC LIMIT 1"
APPEND_EVENT = """
INSERT INTO registry_events
VALUES ($seq, $happened_at, $actor, $action, $stage, $model_id, $details, $previous_hash, $hash)
"""
EVENTS = """
SELECT seq, happened_at, actor, action, stage, model_id, details, previous_hash, hash FROM registry_events
WHERE ($stage IS NULL OR stage = $stage) AND ($model_id IS NULL OR model_id = $model_id) ORDER BY seq
"""
STAGE_POINTERS = "SELECT stage, model_id, seq, hash FROM stage_pointers"

# Forgetting -----------------------------------------------------------------------------------------------------------

DOCUMENTS_AT_PATH = "SELECT id FROM documents WHERE path = $path ORDER BY id"
EXCLUDE = "INSERT INTO exclusions VALUES ($kind, $id, $now, $actor) ON CONFLICT DO NOTHING"
READMIT = "DELETE FROM exclusions WHERE kind = $kind AND id = $id RETURNING id"
EXCLUSIONS = "SELECT kind, id, excluded_at, actor FROM exclusions ORDER BY excluded_at, kind, id"
COUNT_CURRENT_ITEMS = "SELECT count(*) FROM all_items WHERE is_current"
RUN_SECONDS = "SELECT id, ended_at - started_at FROM step_runs WHERE ended_at IS NOT NULL"
DATASETS_WITH_ITEMS = """
SELECT v.id, (SELECT list(name ORDER BY name) FROM dataset_names n WHERE n.dataset_id = v.id), v.row_count, found.own
FROM dataset_versions v
JOIN (
    SELECT dataset_id, count(*) AS own FROM dataset_items SEMI JOIN wanted ON wanted.id = item_id GROUP BY dataset_id
) found ON found.dataset_id = v.id
ORDER BY v.created_at, v.id
"""

# What nothing needs any more ------------------------------------------------------------------------------------------

MODELS_AND_BASES = "SELECT id, path, lineage FROM models ORDER BY id"
MODEL_NEEDS = "SELECT model_id, run_id, dataset_id FROM model_sources"
DATASET_PATHS = "SELECT id, path FROM dataset_versions ORDER BY id"
NEWEST_DATASETS = "SELECT DISTINCT arg_max(dataset_id, named_at) FROM dataset_names GROUP BY name"
STEP = "SELECT id, step, fingerprint, status, started_at, ended_at, result, error FROM step_runs WHERE id = $id"
TRAINING_RUNS = "SELECT id, step, fingerprint, status FROM step_runs WHERE starts_with(step, 'train:') ORDER BY id"
MARK_MODELS_REMOVED = """
UPDATE models SET removed_at = $now WHERE removed_at IS NULL AND id IN (SELECT id FROM wanted)
"""
MARK_DATASETS_REMOVED = """
UPDATE dataset_versions SET removed_at = $now WHERE removed_at IS NULL AND id IN (SELECT id FROM wanted)
"""

# Lineage --------------------------------------------------------------------------------------------------------------

# A union of all kinds would be read as a whole at every step; a step reads the few tables that its kinds stand in.

ID_PREFIXES = {
    "document": "doc",
    "chunk": "chunk",
    "request": "req",
    "item": "item",
    "dataset": "dataset",
    "run": "run",
    "gate": "gate",
    "model": "model",
}
"""What the ids of each kind of thing start with."""
_NODE_TABLES = {
    "document": ("documents", "id"),
    "chunk": ("chunks", "id"),
    "request": ("requests", "key"),
    "item": ("items", "id"),
    "dataset": ("dataset_versions", "id"),
    "run": ("step_runs", "id"),
    "gate": ("gates", "id"),
    "model": ("models", "id"),
}
_FIND_NODE = """
SELECT {column} FROM {table}
WHERE starts_with({column}, $text) OR starts_with({column}, '{prefix}-' || $text)
ORDER BY {column} LIMIT 6
"""
_FIND_EXACT = "SELECT {column} FROM {table} WHERE {column} = $text"
FIND_EXACT = {
    kind: _FIND_EXACT.format(table=table, column=column) for kind, (table, column) in _NODE_TABLES.items()
} | {"path": "SELECT DISTINCT path FROM documents WHERE path = $text"}
"""The thing of one kind whose id, or path, $text is. Beside the prefixes, the ids' index would not be used."""
FIND_NODES = {
    kind: _FIND_NODE.format(table=table, column=column, prefix=ID_PREFIXES[kind])
    for kind, (table, column) in _NODE_TABLES.items()
}
"""The things of one kind that $text is the beginning of the id of; six at most."""

# The first of an item's chunks stands in its column.
_FURTHER_CHUNKS = """(
    SELECT unnest(from_json(json_extract(meta, '$.chunk_ids'), '["VARCHAR"]')[2:]) AS chunk_id, id
    FROM items{only} WHERE contains(meta, '"chunk_ids"'))"""
_EDGES = (
    ("path", "document", "documents", "path", "id"),
    ("document", "chunk", "chunks", "document_id", "id"),
    ("chunk", "request", "requests", "chunk_id", "key"),
    ("document", "request", "(FROM requests WHERE chunk_id IS NULL)", "document_id", "key"),
    ("item", "request", "requests", "item_id", "key"),
    ("request", "item", "item_requests", "request_key", "item_id"),
    ("chunk", "item", "items", "chunk_id", "id"),
    ("chunk", "item", _FURTHER_CHUNKS, "chunk_id", "id"),
    ("document", "item", "(FROM items WHERE chunk_id IS NULL)", "document_id", "id"),
    ("item", "dataset", "dataset_items", "item_id", "dataset_id"),
    ("dataset", "run", "model_sources", "dataset_id", "run_id"),
    ("dataset", "model", "(FROM model_sources WHERE run_id IS NULL)", "dataset_id", "model_id"),
    ("run", "model", "model_sources", "run_id", "model_id"),
    ("gate", "model", "model_sources", "gate_id", "model_id"),
)
"""What is made from what: parent and child kind, the table that says so, and its columns of parents and children."""
_STEP = """
SELECT DISTINCT edges.{from_column}, edges.{to_column} FROM {table} AS edges
SEMI JOIN wanted ON wanted.id = edges.{from_column}
WHERE edges.{to_column} IS NOT NULL ORDER BY ALL
"""
CHILDREN = tuple(
    (above, below, _STEP.format(table=table.format(only=""), from_column=parents, to_column=children))
    for above, below, table, parents, children in _EDGES
)
"""(kind, kind of its children, statement that finds them for `wanted`)."""
_ONLY_WANTED = " SEMI JOIN wanted ON wanted.id = items.id"
_REQUESTS_OF_ITEMS = "(SELECT unnest(request_keys) AS request_key, id AS item_id FROM items{only})"
"""`item_requests` has an index for the other direction only; here the primary key of `items` finds the rows."""
PARENTS = tuple(
    (below, above, _STEP.format(table=table.format(only=_ONLY_WANTED), from_column=children, to_column=parents))
    for above, below, of_children, parents, children in _EDGES
    for table in (_REQUESTS_OF_ITEMS if of_children == "item_requests" else of_children,)
)
"""(kind, kind of its parents, statement that finds them for `wanted`)."""
WANTED = "WITH wanted AS (SELECT unnest($wanted) AS id) "
"""Put before a statement of lineage: its ids come as a parameter."""
LABELS = {
    "document": """
        SELECT id, title || ' · ' || path || CASE WHEN withdrawn_at IS NULL THEN '' ELSE ' · withdrawn' END
        FROM documents SEMI JOIN wanted USING (id)""",
    "chunk": """
        SELECT id, array_to_string(heading_path, ' > ') || ' · characters ' || start_char || '-' || end_char
            || ' · ' || split || CASE WHEN withdrawn_at IS NULL THEN '' ELSE ' · withdrawn' END
        FROM chunks SEMI JOIN wanted USING (id)""",
    "request": """
        SELECT key, purpose || ' · ' || template || ' · ' || coalesce('answered: ' || text, 'not answered')
        FROM (FROM requests SEMI JOIN wanted ON wanted.id = requests.key) AS requests
        LEFT JOIN (FROM completions SEMI JOIN wanted ON wanted.id = request_key) AS completions
            ON completions.request_key = requests.key""",
    "item": """
        SELECT items.id, any_value(recipe) || ' · ' || any_value(split) || ' · '
            || coalesce(string_agg(check_name || ' ' || outcome, ', ' ORDER BY decided_at, position), 'no verdict')
            || ' · ' || any_value(payload)
        FROM (FROM items SEMI JOIN wanted ON wanted.id = items.id) AS items
        LEFT JOIN (FROM verdicts SEMI JOIN wanted ON wanted.id = item_id) AS verdicts ON verdicts.item_id = items.id
        GROUP BY items.id""",
    "dataset": """
        SELECT v.id, string_agg(n.name, ', ' ORDER BY n.name) || ' · ' || any_value(kind) || ' · '
            || any_value(row_count) || ' rows'
        FROM dataset_versions v SEMI JOIN wanted ON wanted.id = v.id JOIN dataset_names n ON n.dataset_id = v.id
        GROUP BY v.id""",
    "run": "SELECT id, step || ' · ' || status FROM step_runs SEMI JOIN wanted USING (id)",
    "gate": """
        SELECT id, stage_name || ' · ' || outcome || ' · against ' || baseline
        FROM gates SEMI JOIN wanted USING (id)""",
    "model": """
        SELECT models.id, coalesce(string_agg(stage, ', ' ORDER BY stage), 'in no stage')
            || ' · trained from ' || coalesce(any_value(json_extract_string(lineage, '$.base')), 'an unnamed base')
        FROM models SEMI JOIN wanted ON wanted.id = models.id
        LEFT JOIN stage_pointers ON stage_pointers.model_id = models.id
        GROUP BY models.id""",
}
