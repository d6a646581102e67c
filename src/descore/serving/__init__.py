"""The server: scores over HTTP, with one process per device that holds the models."""
