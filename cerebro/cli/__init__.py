"""The command `cerebro`: one file per subcommand, put together in `main`."""
