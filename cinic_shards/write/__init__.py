"""Make a dataset, a tree or arrays of images."""
