"""Studies behind choices in the format and the order: each is a question, a method and a result."""
