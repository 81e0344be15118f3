-- Of what nothing points to any more, the files can be removed; the rows stay for lineage.
ALTER TABLE models ADD COLUMN removed_at DOUBLE;
ALTER TABLE dataset_versions ADD COLUMN removed_at DOUBLE;
