"""What one update does, a module for each stage: `causalcine train STAGE RECIPE` runs its `main`."""
