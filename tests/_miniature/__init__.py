"""A small repository of commits with known numbers, for the test of asv; see README.md."""
