"""What the benchmarks share: the model, how time and traffic are measured, and how figures are written down."""
