"""A model folder to be written: its layout, its shards, its small files, and the one rename that publishes it."""
