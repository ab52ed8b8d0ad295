"""A plugin distribution by somebody who has only read kipuka's documentation: it imports `kipuka.api` and nothing else."""
