"""The subcommands that choose among what a model has judged: best-of-N, pairs for DPO, and rejection sampling."""
