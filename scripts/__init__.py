"""Tools of the development tree: local servers, the local stack, code generation. Nothing here is shipped."""
