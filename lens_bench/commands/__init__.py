"""What commands do. The command line (``cli/``) only reads options and calls these."""
