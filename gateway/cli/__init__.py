"""The commands of `flask --app gateway.app …`, for operators."""
