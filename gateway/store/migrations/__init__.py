"""The steps from each schema to the next; Alembic finds them here."""
