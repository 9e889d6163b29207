"""The regression gate: two commits measured in turn, and a verdict that says how sure it is."""
