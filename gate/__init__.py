"""What stands between a change and the main branch: planted faults that the tests must find."""
