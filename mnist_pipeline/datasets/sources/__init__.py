"""Sources of the files of a data set: a folder, the cache, a web site, or a package of a registry."""
