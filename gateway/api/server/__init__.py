"""The API's side of its HTTP server: heads, bodies and answers, before and after the Flask application sees them."""
