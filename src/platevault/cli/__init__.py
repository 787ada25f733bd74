"""The `platevault` command."""
