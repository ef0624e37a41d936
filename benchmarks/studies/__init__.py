"""Studies behind choices of the format and the order: each a question, a method and a result."""
