"""What a shard is made from: files, a packed shard, or samples of several."""
