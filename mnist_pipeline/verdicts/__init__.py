"""What is said of runs: verdicts, the runs they are compared with, and promotions of weights. Judges nothing itself."""
