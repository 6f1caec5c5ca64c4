"""Images in: what a data set is, where its files come from, how each format is read, and the shards made of them."""
