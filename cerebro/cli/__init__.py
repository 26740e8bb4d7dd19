"""The command `cerebro`: one file a subcommand, put together in `main`."""
