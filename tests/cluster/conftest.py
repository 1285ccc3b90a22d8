import pytest


@pytest.fixture
def service(ray_cluster, synthetic_store):
    """A retrieval service on a snapshot of step 0; its store is `synthetic_store`."""
    from cluster.retrieval_service import start_service, stop_service

    synthetic_store.publish(seed=0, step=0)
    client = start_service(synthetic_store.store)
    yield client
    stop_service()
