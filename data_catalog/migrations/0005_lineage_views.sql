-- Lineage is asked about one kind of thing at a time now (data_catalog/queries.py): a union of all tables had to be read
-- as a whole at every step, which a catalogue of a million items makes slow.
DROP VIEW lineage_edges;
DROP VIEW lineage_nodes;
