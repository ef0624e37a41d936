"""Training of the models that CINIC-10's page publishes, on shards."""
