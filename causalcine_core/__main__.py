"""`python -m causalcine_core` is the `causalcine` command."""

from .cli import main

raise SystemExit(main())
