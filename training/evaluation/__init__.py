"""How good a checkpoint is: cuts, looks and recall, read by networks that are themselves checked on exact truth."""
