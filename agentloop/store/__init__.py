"""Parquet shards and one DuckDB file: what was collected, what it was worth, what was trained on it, what came of it.

The only package that writes Parquet or the database; the report's questions to it are in report/queries. Shards are
immutable and hold the token ids; the database is the ledger and holds everything else. One process writes it at a time
and holds it briefly; everybody else reads a snapshot.
"""
