"""The client of the server: `Scorer.score` and `Scorer.compare` over HTTP. Importing it imports no torch."""

from descore.client.asynchronous import AsyncClient
from descore.client.conversation import ClientError
from descore.client.synchronous import Client

__all__ = ["AsyncClient", "Client", "ClientError"]
