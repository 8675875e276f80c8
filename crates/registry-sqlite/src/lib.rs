//! The registry in one SQLite file: WAL, synchronous=FULL, grouped commits, migrations.
