//! Millstream's disk: write-ahead log, memtable, runs, manifest, recovery.
