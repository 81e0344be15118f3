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

# Items and verdicts ---------------------------------------------------------------------------------------------------

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

DATASET_EXISTS = "SELECT sha256 FROM dataset_versions WHERE id = $id"
INSERT_DATASET = "INSERT INTO dataset_versions VALUES ($id, $kind, $rows, $path, $sha256, $now)"
UPDATE_DATASET_DIGEST = "UPDATE dataset_versions SET sha256 = $sha256 WHERE id = $id"
NAME_DATASET = "INSERT INTO dataset_names VALUES ($name, $id, $now) ON CONFLICT DO NOTHING"
INSERT_DATASET_ITEMS = "INSERT INTO dataset_items SELECT $dataset_id, id FROM wanted"
DATASETS = """
SELECT v.id, n.name, v.kind, v.row_count, v.path, v.sha256
FROM dataset_versions v JOIN dataset_names n ON n.dataset_id = v.id
WHERE $id IS NULL OR v.id = $id
ORDER BY n.named_at DESC, n.name
"""
DATASET_ITEMS = "SELECT item_id FROM dataset_items WHERE dataset_id = $id ORDER BY item_id"

# The registry ---------------------------------------------------------------------------------------------------------

MODEL = "SELECT id, path, manifest, lineage, registered_at FROM models WHERE id = $id"
MODELS = "SELECT id, path, manifest, lineage, registered_at FROM models ORDER BY registered_at DESC, id"
UPSERT_MODEL = """
INSERT INTO models VALUES ($id, $path, $manifest, $lineage, $now)
ON CONFLICT (id) DO UPDATE SET lineage = excluded.lineage
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
WHERE $stage IS NULL OR stage = $stage ORDER BY seq
"""
STAGE_POINTERS = "SELECT stage, model_id, seq, hash FROM stage_pointers"

# Lineage --------------------------------------------------------------------------------------------------------------

FIND_NODES = """
SELECT kind, id FROM lineage_nodes
WHERE id = $text OR (kind != 'path' AND (starts_with(id, $text) OR starts_with(split_part(id, '-', 2), $text)))
ORDER BY id = $text DESC, kind, id LIMIT 6
"""
PARENTS = """
SELECT DISTINCT child_kind, child_id, parent_kind, parent_id FROM lineage_edges
SEMI JOIN wanted ON wanted.kind = child_kind AND wanted.id = child_id
ORDER BY ALL
"""
CHILDREN = """
SELECT DISTINCT parent_kind, parent_id, child_kind, child_id FROM lineage_edges
SEMI JOIN wanted ON wanted.kind = parent_kind AND wanted.id = parent_id
ORDER BY ALL
"""
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
        FROM requests SEMI JOIN wanted ON wanted.id = requests.key
        LEFT JOIN completions ON completions.request_key = requests.key""",
    "item": """
        SELECT items.id, any_value(recipe) || ' · ' || any_value(split) || ' · '
            || coalesce(string_agg(check_name || ' ' || outcome, ', ' ORDER BY decided_at, position), 'no verdict')
            || ' · ' || any_value(payload)
        FROM items SEMI JOIN wanted ON wanted.id = items.id LEFT JOIN verdicts ON verdicts.item_id = items.id
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
