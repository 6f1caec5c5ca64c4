"""What each command finds: the one JSON document that it prints with --json, and the words that --quiet leaves.

Numbers are exact, dates are ISO 8601, paths are strings and what is unknown is null. A field without a description has
that of the table column of its name; docs/json.md, generated, has all of them.
"""
