"""The subcommands of `descore`, one per file: its options, and the function that runs it."""
