"""Train the models of CINIC-10's page from shards."""
