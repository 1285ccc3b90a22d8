"""What each command takes, apart from what it does: `realm COMMAND --help` loads no more than this."""
