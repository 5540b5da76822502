"""Any scorer in a process of its own."""
