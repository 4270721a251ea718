"""What the scripts call: flags, config files, errors on one line."""
