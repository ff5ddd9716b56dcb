"""The development stack: one command brings up PostgreSQL, RabbitMQ and every role of the Procfile.

Nothing here is used in production. ``python -m devstack help`` lists the commands and the variables.
"""
