"""Where the files of a data set come from: a folder, the cache, a site, or a package of a registry."""
