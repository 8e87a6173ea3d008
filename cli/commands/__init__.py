"""One module per group of verbs, imported when one of them runs."""
