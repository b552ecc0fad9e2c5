"""The console command: one module a group of verbs, the tables they print, and how errors become exit codes."""
