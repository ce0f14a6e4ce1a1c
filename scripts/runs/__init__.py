"""One run: its folder, files, protocol and reports."""
