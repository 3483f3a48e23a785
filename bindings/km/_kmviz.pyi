# The extension module _kmviz: pictures through Graphviz. Docstrings and parameter lists of the C
# sources are taken from here, as in _km.pyi.
