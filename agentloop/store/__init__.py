"""Parquet shards and one DuckDB file: what was collected, what it was worth, what was trained on it, what came of it.

The only package that writes Parquet or SQL. Shards are immutable and hold the token ids; the database is the ledger and
holds everything else. One process writes the database at a time and holds it briefly; everybody else reads a snapshot.
"""
