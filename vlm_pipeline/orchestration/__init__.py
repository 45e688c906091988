"""Everything that imports dagster. Keep data, model and statistics logic out of here: assets call pure functions."""
