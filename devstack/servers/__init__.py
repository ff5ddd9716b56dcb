"""PostgreSQL and RabbitMQ of the development stack: unpacked, configured, started."""
