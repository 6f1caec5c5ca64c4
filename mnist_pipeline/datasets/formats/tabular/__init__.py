"""Tables of images: Parquet and CSV, which share how columns are chosen and decoded."""
