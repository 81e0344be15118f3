-- An approval is an entry of the log like any other, but it moves no stage.
CREATE OR REPLACE VIEW stage_pointers AS
SELECT stage, arg_max(model_id, seq) AS model_id, max(seq) AS seq, arg_max(hash, seq) AS hash
FROM registry_events WHERE action IN ('register', 'promote', 'archive', 'rollback') GROUP BY stage;
