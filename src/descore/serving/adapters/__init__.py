"""Routes in the shapes that trainers of generators send, a file per shape."""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel

from descore.serving.adapters import flow_factory, flow_grpo, openai, openrlhf, unirl
from descore.serving.service import Service

BODIES: tuple[type[BaseModel], ...] = (
    flow_factory.ComputeRequest,
    unirl.UniRLRequest,
    openrlhf.RewardRequest,
    openai.ChatRequest,
)


def add(app: FastAPI, service: Service) -> None:
    """Add the routes; the one that reads pickles only if it was asked for."""
    for shape in (flow_factory, unirl, openrlhf, openai):
        shape.add(app, service)
    if service.options.pickle_bridge:
        flow_grpo.add(app, service)
