"""The `unmix` command."""
