"""The subcommands of `descore`, a file each: what it takes, and what it does."""
