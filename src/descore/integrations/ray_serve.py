"""The application of `descore serve` as a Ray Serve application, for several machines behind one address."""

from __future__ import annotations

import logging
from typing import Any

from descore.serving.app import make_app
from descore.serving.options import ServerOptions

logger = logging.getLogger(__name__)


def application(options: ServerOptions, *, num_replicas: int = 1, gpus_per_replica: float = 0) -> Any:
    """Return what `ray.serve.run` takes: replicas that each answer as a `descore serve` of their own.

    Ray Serve listens and spreads requests; the host and the port of the options are those that the guard of the
    application checks requests against. Each replica has the workers, the queue and the limits of the options.

    Args:
        options: Options of the server, the same for every replica; its models lie where every node can read them.
        num_replicas: Number of replicas.
        gpus_per_replica: GPUs of a replica; 0 scores on CPUs.

    Raises:
        ImportError: If Ray Serve is not installed.

    Example:
        serve.run(application(ServerOptions({"descore": "/shared/model"}), num_replicas=4, gpus_per_replica=1))
    """
    try:
        from ray import serve
    except ImportError as error:
        raise ImportError("a deployment on Ray Serve requires it: pip install 'descore[ray,serve]'") from error

    def build() -> Any:
        return make_app(options, logger.error)[0]

    replica = serve.ingress(build)()
    actor = {"num_gpus": gpus_per_replica}
    return serve.deployment(replica, name="descore", num_replicas=num_replicas, ray_actor_options=actor).bind()
