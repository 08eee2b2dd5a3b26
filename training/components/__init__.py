"""What every stage shares around its update."""
