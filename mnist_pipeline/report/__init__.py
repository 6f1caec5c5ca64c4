"""What a person looks at: tables in the terminal, grids of digits, model cards. Computes nothing, reads no files."""
