"""The method table and one module per family of methods."""
