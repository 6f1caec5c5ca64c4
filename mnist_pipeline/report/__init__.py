"""Output for people: the HTML report, tables in the terminal, grids of digits, model cards. It reads no run files."""
