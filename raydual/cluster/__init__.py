"""Ray at the edge: the only package that imports it. Plain callables are adapted here, nothing is computed."""
