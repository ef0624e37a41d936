"""The loader in other people's trainers, each a real one in a process of its own."""
