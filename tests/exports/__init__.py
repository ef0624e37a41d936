"""Tests of ``cinic_shards.exports``."""
