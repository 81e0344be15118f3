"""What is kept: records, the DuckDB catalogue, dataset versions, lineage, the model registry.

The only home of DuckDB and pyarrow. Nothing is imported here, so that the light modules (errors, identity, records,
completer) stay light.
"""
