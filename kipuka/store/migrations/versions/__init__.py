"""One file per revision of the host's tables, each following the one before."""
