"""What the `causalcine` command does: a module with `run(args)` for each command, imported when it is asked for."""
