"""Health, metrics, and the page that shows the API's documentation."""
