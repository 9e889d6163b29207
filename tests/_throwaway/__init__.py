"""A repository to compare commits of: the real gate, with two toy operators; see build.py."""
