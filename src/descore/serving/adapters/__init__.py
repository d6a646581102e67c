"""Routes in the shapes that trainers of generators send, each a file."""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel

from descore.serving.service import Service

BODIES: tuple[type[BaseModel], ...] = ()


def add(app: FastAPI, service: Service) -> None:
    """Add the routes."""
