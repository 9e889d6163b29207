"""The regression gate: two commits measured in turn, history, and faults that the tests must find."""
