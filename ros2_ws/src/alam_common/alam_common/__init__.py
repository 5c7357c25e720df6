"""What every node shares: the table of topics, parameter helpers, message conversion, time alignment, diagnostics."""
