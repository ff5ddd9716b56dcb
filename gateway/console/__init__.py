"""The operators' and merchants' web pages, and the pages that help in development."""
