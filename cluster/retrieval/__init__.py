"""The retrieval service: shard processes, routers that batch and merge, a controller that swaps, a client."""
