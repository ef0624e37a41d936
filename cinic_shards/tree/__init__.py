"""Images from outside -> records: a folder or an archive, one file for each kind of source."""
