"""All of Ray: thin actors round plain classes of realm_core."""
