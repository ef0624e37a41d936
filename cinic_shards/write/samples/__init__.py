"""Inputs of a shard: image files, a packed shard, or samples of several shards."""
