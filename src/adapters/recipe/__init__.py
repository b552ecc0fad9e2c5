"""What a user may write: fields, stages, loading, overrides."""
