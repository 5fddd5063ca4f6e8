"""Mean-field theory of a network: a structure, a signal, and a rule for each operation."""
